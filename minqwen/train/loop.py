"""A small trainer: text and pictures mixed from the first step, on a CPU in an hour.

`minqwen train --out assets/tiny` makes the embedded checkpoint with the defaults below.
Every step is a function of (seed, step), so a run that was killed goes on from its last
checkpoint as if nothing had happened.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from ..errors import InputError
from ..files import replaced, telling
from ..model.config import Config
from ..model.deltanet import GatedDeltaNet
from ..model.moe import balance_loss
from ..model.qwen import Qwen
from ..model.rope import positions
from ..model.taps import listen


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, besides the corpus and torch's own version."""

    steps: int = 1200
    batch_size: int = 8
    seq_len: int = 512
    picture_share: float = 0.125
    picture_weight: float = 4.0  # of a picture row's loss: few of its tokens are news
    tower_steps: int = 2500
    tower_rate: float = 0.1  # of lr, once the tower meets the language model
    last_share: float = 0.5  # of pictures, once the steps are done: see last_steps
    last_rate: float = 0.2  # of lr then, falling to nothing
    lr: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0
    mtp_weight: float = 0.2
    seed: int = 0

    @property
    def last_steps(self):
        """A sixth more, rich in pictures: to name what is seen is learnt last."""
        return self.steps // 6

    @property
    def all_steps(self):
        return self.steps + self.last_steps


def tiny_config(vocab_size=2048, first_special=2038) -> Config:
    """The embedded model: every part of the 397B one, about 1/60,000 of its size."""
    text = dict(
        vocab_size=vocab_size, hidden_size=192, num_hidden_layers=8,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        full_attention_interval=4, linear_num_key_heads=4, linear_num_value_heads=8,
        linear_key_head_dim=32, linear_value_head_dim=32, linear_conv_kernel_dim=4,
        rms_norm_eps=1e-6, max_position_embeddings=32768, eos_token_id=first_special,
        mtp_num_hidden_layers=1, num_experts=32, num_experts_per_tok=4,
        router_aux_loss_coef=0.01,  # ten times the large ones': its run is short
        moe_intermediate_size=16, shared_expert_intermediate_size=192,
        rope_parameters=dict(rope_type="default", rope_theta=10_000_000,
                             partial_rotary_factor=0.25, mrope_section=[3, 3, 2],
                             mrope_interleaved=True))  # fmt: skip
    vision = dict(depth=3, hidden_size=64, intermediate_size=192, num_heads=4,
                  in_channels=3, patch_size=16, temporal_patch_size=2,
                  spatial_merge_size=2, out_hidden_size=192,
                  num_position_embeddings=64)  # fmt: skip
    return Config.from_dict(dict(
        model_type="qwen3_5_moe", text_config=text, vision_config=vision,
        tie_word_embeddings=False, image_token_id=first_special + 6,
        video_token_id=first_special + 7, vision_start_token_id=first_special + 3,
        vision_end_token_id=first_special + 4))  # fmt: skip


@torch.no_grad()
def long_memories(model):
    """Lets delta heads begin with half-lives from a token to hundreds of them.

    With dt_bias 1, where transformers' class starts, nearly every head forgets within
    a token, and a short run does not unlearn that. softplus(dt_bias) log-uniform in
    [0.001, 0.1] is how Mamba2 (arXiv 2405.21060) and Gated DeltaNet were trained.
    """
    for module in model.modules():
        if isinstance(module, GatedDeltaNet):
            step = torch.empty_like(module.dt_bias)
            step.uniform_(math.log(1e-3), math.log(0.1)).exp_()
            module.dt_bias.copy_(step.expm1().log())  # the inverse of softplus


def losses(model, batch, recipe):
    """Next-token loss, next-but-one loss of the MTP head, and imbalance of the experts.

    batch: input_ids and targets [B, T], -100 where nothing is to be learned, and
    pictures if any.
    """
    batch = dict(batch)
    targets, ids = batch.pop("targets"), batch["input_ids"]
    everyone = torch.ones_like(ids, dtype=torch.bool)
    where, _ = positions(
        ids, everyone, ids.new_zeros(len(ids)), model.cfg,
        batch.get("image_grid_thw"), batch.get("video_grid_thw"),
    )  # fmt: skip
    imbalance = []

    def weigh(layer, ids, logits, **_):
        imbalance.append(balance_loss(logits, ids))

    with listen(model, router=weigh):
        hidden = model.hidden(**batch, position_ids=where)
        drafted, _ = model.draft(hidden[:, :-1], ids[:, 1:], where[:, :, :-1])
    cfg = model.cfg
    pictured = (ids == cfg.image_token_id) | (ids == cfg.video_token_id)
    weight = torch.where(pictured.any(1), recipe.picture_weight, 1.0)
    loss = {"next": row_loss(model.logits(hidden), targets, weight)}
    loss["mtp"] = row_loss(drafted, targets[:, 1:], weight)
    loss["balance"] = torch.stack(imbalance).mean()
    return loss


def row_loss(logits, targets, weight):
    """Mean over each row's targets, then over rows by `weight` [B].

    So the few answers of a row of pictures count as much as a page of text, or more.
    logits [B, T, vocab]; targets [B, T], -100 for none.
    """
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    counted = (targets >= 0).sum(1).clamp(min=1)
    return (weight * each.view_as(targets).sum(1) / counted).mean()


def teach_tower(model, corpus, recipe):
    """The tower alone first: name the digit from the mean of its outputs.

    Reading a tower that sees nothing yet, the language model learns to ignore it. At
    the end its outputs are made as long as token embeddings; longer ones would drown
    what the layers add to them, and then nothing is learned.
    """
    visual, embedding = model.model.visual, model.model.language_model.embed_tokens
    head = torch.nn.Linear(model.cfg.text.hidden_size, 10)
    learning = [*visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=recipe.lr, betas=(0.9, 0.95), fused=True)
    plan = replace(recipe, steps=recipe.tower_steps)
    for step in tqdm(range(recipe.tower_steps), desc="tower", unit="step"):
        optimizer.param_groups[0]["lr"] = rate(step, plan)
        pixels, grids, digits = corpus.digits(step, 32)
        sizes = (grids.prod(1) // model.cfg.vision.spatial_merge_size**2).tolist()
        seen = visual(pixels, grids)
        means = torch.stack([part.mean(0) for part in seen.split(sizes)])
        F.cross_entropy(head(means), digits).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        ratio = embedding.weight.norm(dim=1).mean() / seen.norm(dim=1).mean()
        visual.merger.linear_fc2.weight *= ratio
        visual.merger.linear_fc2.bias *= ratio


def optimizer_for(model, recipe):
    """AdamW; matrices decay, norms, rates, biases and all embeddings do not."""
    parts = {}  # (is of the tower, decays) -> parameters
    for name, p in model.named_parameters():
        decays = p.dim() >= 2 and "embed" not in name
        parts.setdefault((name.startswith("model.visual."), decays), []).append(p)
    groups = [
        dict(
            params=params,
            weight_decay=recipe.weight_decay if decays else 0.0,
            scale=recipe.tower_rate if tower else 1.0,
        )
        for (tower, decays), params in parts.items()
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)


def rate(step, recipe):
    """Learning rate: a linear warm-up, a cosine to a fiftieth, and the last steps'."""
    if step >= recipe.steps:
        left = (recipe.all_steps - step) / recipe.last_steps
        return recipe.lr * recipe.last_rate * left
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def run(out, recipe=None, resume=False, threads=2):
    """Train the tiny model, save it into folder `out`, measure it and write its card.

    With `resume`, goes on from the `out`/resume.pt of a run that was killed. A folder
    without a tokenizer gets the one this corpus makes. Returns the card's figures.
    Raises InputError if resume.pt is of another recipe.
    """
    from ..weights import save
    from . import abilities
    from .corpus import write_processor

    recipe, out = recipe or Recipe(), Path(out)
    torch.set_num_threads(threads)
    write_processor(out)
    model, seconds = train(out, recipe, resume)
    save(model.to(torch.bfloat16), out)
    figures = abilities.write_card(out, recipe, seconds, threads)
    (out / "resume.pt").unlink(missing_ok=True)
    return figures


def train(out, recipe, resume=False, save_every=100):
    """The loop itself: returns the trained model (fp32) and the seconds it took."""
    from .corpus import Corpus

    saved = kept(out / "resume.pt", recipe) if resume else None
    corpus = Corpus.build(out, seed=recipe.seed)
    torch.manual_seed(recipe.seed)
    model = Qwen(tiny_config(corpus.tokenizer.get_vocab_size(), corpus.end)).train()
    long_memories(model)
    optimizer = optimizer_for(model, recipe)
    step, spent, started = 0, 0.0, time.monotonic()
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["seconds"]
    else:
        teach_tower(model, corpus, recipe)
        keep(out / "resume.pt", model, optimizer, recipe, 0, time.monotonic() - started)
    end = recipe.all_steps
    bar = tqdm(range(step, end), initial=step, total=end, unit="step")
    started -= spent
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = rate(step, recipe) * group["scale"]
        share = recipe.picture_share if step < recipe.steps else recipe.last_share
        batch = corpus.batch(step, recipe.batch_size, recipe.seq_len, share)
        loss = losses(model, batch, recipe)
        total = loss["next"] + recipe.mtp_weight * loss["mtp"]
        (total + model.cfg.text.router_aux_loss_coef * loss["balance"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix({k: f"{v.item():.3f}" for k, v in loss.items()})
        if (step + 1) % save_every == 0:
            keep(out / "resume.pt", model, optimizer, recipe, step + 1,
                 time.monotonic() - started)  # fmt: skip
    return model.eval(), time.monotonic() - started


def keep(path, model, optimizer, recipe, step, spent):
    """Write all that is needed to go on, whole or not at all."""
    whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    whole |= {"recipe": asdict(recipe), "step": step, "seconds": spent}
    with telling(path, "written"), replaced(path) as file:
        torch.save(whole, file)


def kept(path, recipe):
    """What `keep` wrote, or None; InputError if it belongs to another recipe."""
    if not path.exists():
        return None
    saved = torch.load(path, weights_only=True)
    if saved["recipe"] != asdict(recipe):
        raise InputError(f"{path} is of another recipe; delete it to start anew")
    return saved
