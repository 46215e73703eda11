"""Which part of the model wrote a token: the token's logit as a sum over the layers.

The last hidden state is the embedding plus what every layer's two halves added, and the
final norm only scales it, so each part's share of a logit is exact. "Logit" here is the
token's logit minus the mean of all, since raising all alike changes nothing.
"""

from dataclasses import dataclass

import torch

from ..model.shapes import FULL
from ..model.taps import listen

MIXERS = {True: "attention", False: "delta rule"}


@dataclass(frozen=True)
class Evidence:
    """The shares {(layer, part): logits} of a token, and where it looked.

    Layer -1 is the embedding. looks {layer: [H, T]}: in the full layers, attention
    from the last position before the token to all up to it.
    """

    logit: float
    shares: dict
    looks: dict

    def best(self):
        """The part with the largest share: ((layer, part), logits)."""
        return max(self.shares.items(), key=lambda share: share[1])


@torch.inference_mode()
def evidence(model, inputs, written, at):
    """Evidence for token `at` of the ids `written` after the prompt `inputs`.

    The ids before it are read once more, as one prompt.
    """
    more = torch.tensor([written[:at]], dtype=torch.int64)
    ids = torch.cat([inputs["input_ids"], more], 1)
    inputs = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kinds, added, looks = model.cfg.text.layer_types, {}, {}

    def begin(layer, x):
        if layer == 0:
            added[-1, "embedding"] = x[0, -1]

    def mixer(layer, x):
        added[layer, MIXERS[kinds[layer] == FULL]] = x[0, -1]

    def experts(layer, x):
        added[layer, "experts" if model.cfg.is_moe else "MLP"] = x[0, -1]

    def look(layer, q, k, v):
        looks[layer] = looked(q[0, -1], k[0])

    with listen(model, resid_pre=begin, attn_out=mixer, mlp_out=experts, qkv=look):
        model.hidden(**inputs)
    norm = model.model.language_model.norm
    parts = torch.stack([x.float() for x in added.values()])  # [parts, D]
    scale = torch.rsqrt(parts.sum(0).square().mean() + norm.eps)
    logits = model.logits((parts * scale * (1 + norm.weight.float())).to(model.dtype))
    shares = logits[:, written[at]] - logits.mean(-1)
    named = dict(zip(added, shares.tolist(), strict=True))
    return Evidence(float(shares.sum()), named, looks)


def looked(q, k):
    """Attention of one token's queries q [H, K] to keys k [T, Hkv, K]: [H, T]."""
    k = k.float().repeat_interleave(q.shape[0] // k.shape[1], 1)  # [T, H, K]
    scores = torch.einsum("hk,thk->ht", q.float(), k) / q.shape[-1] ** 0.5
    return scores.softmax(-1)
