"""The whole model: embedding, early fusion, blocks, output head."""

import torch
from torch import nn

from .block import Block, Call
from .cache import Cache
from .config import Config
from .deltanet import GatedDeltaNet
from .errors import InputError
from .kernels import using
from .moe import Experts, Router
from .mtp import Drafter
from .norm import RMSNorm
from .rope import positions
from .vision import VisionTower


class LanguageModel(nn.Module):
    """`model.language_model`: token embedding, blocks, final norm."""

    def __init__(self, cfg):
        super().__init__()
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.hidden_size)
        self.layers = nn.ModuleList(Block(cfg, kind) for kind in cfg.layer_types)
        self.norm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)


class Multimodal(nn.Module):
    """`model`: all of a checkpoint but its output head."""

    def __init__(self, cfg):
        super().__init__()
        self.language_model = LanguageModel(cfg.text)
        if cfg.vision:
            self.visual = VisionTower(cfg.vision)


class Qwen(nn.Module):
    """Qwen3.5 of any size. Attribute names are the checkpoint's tensor names.

    Random at first, as a model before training is; nothing is drawn on the meta device.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg, self.kernels = cfg, "auto"  # see kernels/
        self.model = Multimodal(cfg)
        if not cfg.tie_word_embeddings:
            self.lm_head = nn.Linear(
                cfg.text.hidden_size, cfg.text.vocab_size, bias=False
            )
        if cfg.text.mtp_num_hidden_layers:
            self.mtp = Drafter(cfg.text)
        if not next(self.parameters()).is_meta:
            initialise(self)

    def forward(
        self, input_ids, attention_mask=None, pixel_values=None, image_grid_thw=None,
        pixel_values_videos=None, video_grid_thw=None, position_ids=None,
        cache=None, last_only=False,
    ):  # fmt: skip
        """Logits [B, T, vocab], or [B, 1, vocab] of the last token with `last_only`.

        input_ids [B, T]; attention_mask [B, T] (or [B, tokens so far + T]), 0 for left
        padding; pixel_values [N, 1536] and image_grid_thw [images, 3] as the Processor
        and transformers' processors give them, and likewise for videos; position_ids
        [3, B, T], found from the rest if not given. With a cache, the tokens follow
        those it holds. Raises InputError when placeholders and pictures differ.
        """
        hidden = self.hidden(
            input_ids, attention_mask, pixel_values, image_grid_thw,
            pixel_values_videos, video_grid_thw, position_ids, cache,
        )  # fmt: skip
        return self.logits(hidden[:, -1:] if last_only else hidden)

    def hidden(
        self, input_ids, attention_mask=None, pixel_values=None, image_grid_thw=None,
        pixel_values_videos=None, video_grid_thw=None, position_ids=None, cache=None,
    ):  # fmt: skip
        """The states behind the logits: [B, T, D], after the final norm."""
        B, T = input_ids.shape
        core, past = self.model.language_model, cache.length if cache else 0
        if cache:
            cache.expect(B, T)
        x = self.embed(input_ids)
        cfg = self.cfg
        x = self.fuse(
            x, input_ids, "image", cfg.image_token_id, pixel_values, image_grid_thw
        )
        x = self.fuse(
            x,
            input_ids,
            "video",
            cfg.video_token_id,
            pixel_values_videos,
            video_grid_thw,
        )
        real = real_tokens(attention_mask, T, past)
        if cache and real is not None and (cache.next_position[~real[:, 0]] > 0).any():
            raise InputError("padding cannot follow tokens that the cache holds")
        kept = torch.ones_like(input_ids, dtype=torch.bool) if real is None else real
        if position_ids is None:
            start = (
                cache.next_position if cache else kept.new_zeros(B, dtype=torch.long)
            )
            position_ids, after = positions(
                input_ids, kept, start, cfg, image_grid_thw, video_grid_thw
            )
        else:
            after = position_ids.amax(dim=(0, 2)) + 1
        seen = cache.advance(real, T, after) if cache else real
        call = Call(cfg.text, position_ids, past + T, real, seen)
        with using(self.kernels):
            for i, block in enumerate(core.layers):
                x = block(x, call, cache.layers[i] if cache else None)
        return core.norm(x)

    def embed(self, input_ids):
        """Ids [B, T] -> [B, T, D]; InputError for an id outside the vocabulary."""
        if input_ids.device.type == "cpu":
            check_ids(input_ids, self.cfg.text.vocab_size)
        return self.model.language_model.embed_tokens(input_ids)

    def fuse(self, x, input_ids, kind, token, pixel_values, grid_thw):
        """Early fusion: the tower's outputs take the rows of their placeholders."""
        places = input_ids == token if token is not None else None
        if pixel_values is None:
            if grid_thw is not None:
                raise InputError(f"{kind}_grid_thw is given without its pixel values")
            return x
        if grid_thw is None:
            raise InputError(f"pixel values of {kind}s come without {kind}_grid_thw")
        if places is None:
            raise InputError(
                f"this checkpoint has no vision tower; leave the {kind}s out"
            )
        features = self.model.visual(pixel_values, grid_thw)  # [N / 4, D]
        if places.sum() != len(features):
            raise InputError(
                f"the prompt has {int(places.sum())} {kind} placeholders (id {token}) "
                f"and the {kind}s fill {len(features)}; let Processor.chat build both"
            )
        return x.masked_scatter(places[..., None], features.to(x.dtype))

    def logits(self, hidden):
        """[..., D] -> [..., vocab]; a tied model reads its embedding backwards."""
        if self.cfg.tie_word_embeddings:
            return hidden @ self.model.language_model.embed_tokens.weight.mT
        return self.lm_head(hidden)

    def draft(self, hidden, next_ids, position_ids=None, cache=None, last_only=False):
        """The MTP head: with the state of token t and token t+1, guess token t+2.

        hidden [B, T, D] from `hidden` or from this method; next_ids [B, T], each
        one token later. Returns logits [B, T, vocab], or of the last token only, and
        states [B, T, D] to feed back. Rows without padding only, unless position_ids
        [3, B, T] say otherwise.
        """
        if not hasattr(self, "mtp"):
            raise InputError(
                "this model has no multi-token-prediction head; use draft=0"
            )
        B, T, _ = hidden.shape
        past = cache.mtp.length if cache else 0
        if position_ids is None:
            position_ids = torch.arange(past, past + T, device=hidden.device).expand(
                3, B, T
            )
        call = Call(self.cfg.text, position_ids, past + T)
        states = self.mtp(
            self.embed(next_ids), hidden, call, cache.mtp if cache else None
        )
        return self.logits(states[:, -1:] if last_only else states), states

    def new_cache(self, batch, max_len):
        """An empty Cache for `batch` rows of up to `max_len` tokens."""
        weight = self.model.language_model.embed_tokens.weight
        return Cache(self.cfg.text, batch, max_len, weight.dtype, weight.device)

    def num_parameters(self):
        """Counts by part; `active` are those one text token passes through."""
        count = {"text": 0, "vision": 0, "mtp": 0}
        for name, p in self.named_parameters():
            part = "vision" if name.startswith("model.visual") else name.split(".")[0]
            count[part if part in count else "text"] += p.numel()
        idle, t = 0, self.cfg.text
        if t.num_experts:
            one = 3 * t.hidden_size * t.moe_intermediate_size
            idle = t.num_hidden_layers * (t.num_experts - t.num_experts_per_tok) * one
        return count | {"total": sum(count.values()), "active": count["text"] - idle}


def check_ids(ids, vocab_size):
    """InputError for an id outside the vocabulary."""
    low, high = ids.aminmax() if ids.numel() else (0, 0)
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"token id {low if low < 0 else high} is outside the vocabulary of "
            f"{vocab_size}; is the tokenizer another model's?"
        )


def real_tokens(attention_mask, T, past):
    """A 0/1 mask [B, T] or [B, past + T] -> bool [B, T], or None without padding."""
    if attention_mask is None:
        return None
    if attention_mask.shape[1] not in (T, past + T):
        raise InputError(
            f"attention_mask covers {attention_mask.shape[1]} tokens; expected {T}"
            + (f", or {past + T} with those in the cache" if past else "")
        )
    real = attention_mask[:, -T:].bool()
    if (real[:, :-1] & ~real[:, 1:]).any():
        raise InputError(
            "attention_mask has padding after a token; pad on the left, since what "
            "follows a token changes the states it leaves"
        )
    return None if real.all() else real


@torch.no_grad()
def initialise(model):
    """Weights before training: N(0, 0.02), norms neutral, rates log U(0.01, 16)."""
    cfg = model.cfg
    for name, module in model.named_modules():
        part = cfg.vision if name.startswith("model.visual.") else cfg.text
        std = part.initializer_range
        if isinstance(
            module, nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv3d | Router
        ):
            module.weight.normal_(0, std)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
        elif isinstance(module, Experts):
            module.gate_up_proj.normal_(0, std)
            module.down_proj.normal_(0, std)
        elif isinstance(module, GatedDeltaNet):
            module.A_log.uniform_(0.01, 16).log_()
