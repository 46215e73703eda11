"""The whole model: embedding, early fusion, blocks, output head."""

from contextlib import contextmanager

import torch
from torch import nn

from ..errors import InputError
from .block import Block, context_of
from .cache import Cache
from .config import Config
from .deltanet import GatedDeltaNet
from .forms import Embedding, Linear, Stored, linear, using
from .moe import Experts, Router
from .mtp import Drafter
from .norm import RMSNorm
from .rope import positions
from .taps import hearing, tap
from .vision import VisionTower

FP32 = ("A_log", "linear_attn.norm.weight")  # stay fp32 whatever the rest is cast to


class LanguageModel(nn.Module):
    """`model.language_model`: token embedding, blocks, final norm."""

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.embed_tokens = Embedding(cfg.vocab_size, cfg.hidden_size)
        self.layers = nn.ModuleList(
            Block(cfg, kind, layer) for layer, kind in enumerate(cfg.layer_types)
        )
        self.norm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)

    def embed(self, input_ids):
        """Ids [B, T] -> [B, T, D]; InputError for an id outside the vocabulary."""
        # Only on the CPU: to look at ids on a GPU would wait for it.
        if input_ids.device.type == "cpu" and not torch.compiler.is_compiling():
            check_ids(input_ids, self.cfg.vocab_size)
        return self.embed_tokens(input_ids)

    def forward(self, x, context, cache=None):
        """Embeddings x [B, T, D] -> the states behind the logits, [B, T, D]."""
        for i, block in enumerate(self.layers):
            x = block(x, context, None if cache is None else cache.layers[i])
        return tap("final_norm", x=self.norm(x))


class Multimodal(nn.Module):
    """`model`: all of a checkpoint but its output head."""

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.language_model = LanguageModel(cfg.text)
        if cfg.vision:
            self.visual = VisionTower(cfg.vision)

    def forward(
        self, input_ids, attention_mask=None, pixel_values=None, image_grid_thw=None,
        pixel_values_videos=None, video_grid_thw=None, position_ids=None, cache=None,
    ):  # fmt: skip
        """The states behind the logits: [B, T, D], after the final norm.

        input_ids [B, T]; attention_mask [B, T] (or [B, tokens so far + T]), 0 for left
        padding; pixel_values [N, 1536] and image_grid_thw [images, 3] as the Processor
        and transformers' processors give them, and likewise for videos; position_ids
        [3, B, T], found from the rest if not given. With a cache, the tokens follow
        those it holds. Raises InputError when placeholders and pictures differ.
        """
        past, (B, T) = 0, input_ids.shape
        if cache is not None:
            past = cache.length
            cache.expect(B, T)
        real = real_tokens(attention_mask, T, past)
        if past and real is not None and (cache.next_position[~real[:, 0]] > 0).any():
            raise InputError("padding cannot follow tokens that the cache holds")
        pictures = {
            "image": (pixel_values, image_grid_thw),
            "video": (pixel_values_videos, video_grid_thw),
        }
        input_ids, real, pictures, cache = tap(
            "tokens", input_ids=input_ids, real=real, pictures=pictures, cache=cache
        )
        x = self.language_model.embed(input_ids)
        for kind, (pixels, grid_thw) in pictures.items():
            x = self.fuse(x, input_ids, kind, pixels, grid_thw)
        if position_ids is None:
            grids = [grid_thw for _, grid_thw in pictures.values()]
            position_ids, after = self.place(input_ids, real, cache, *grids)
        else:
            after = position_ids.amax(dim=(0, 2)) + 1
        seen = real if cache is None else cache.advance(real, T, after)
        context = context_of(self.cfg.text, position_ids, past + T, real, seen)
        return self.language_model(x, context, cache)

    def fuse(self, x, input_ids, kind, pixel_values, grid_thw):
        """Early fusion: the tower's outputs take the rows of their placeholders."""
        if pixel_values is None:
            if grid_thw is not None:
                raise InputError(f"{kind}_grid_thw is given without its pixel values")
            return x
        if grid_thw is None:
            raise InputError(f"pixel values of {kind}s come without {kind}_grid_thw")
        token = getattr(self.cfg, f"{kind}_token_id")
        if token is None:
            raise InputError(
                f"this checkpoint has no vision tower; leave the {kind}s out"
            )
        places = input_ids == token
        features = self.visual(pixel_values, grid_thw)  # [N / 4, D]
        if places.sum() != len(features):
            raise InputError(
                f"the prompt has {int(places.sum())} {kind} placeholders (id {token}) "
                f"and the {kind}s fill {len(features)}; let Processor.chat build both"
            )
        return x.masked_scatter(places[..., None], features.to(x.dtype))

    def place(self, input_ids, real, cache, *grids):
        """`positions` of a call's tokens, going on where the cache's rows stand."""
        if real is None:
            real = torch.ones_like(input_ids, dtype=torch.bool)
        start = input_ids.new_zeros(len(input_ids))
        start = start if cache is None else cache.next_position
        return positions(input_ids, real, start, self.cfg, *grids)


class Qwen(nn.Module):
    """Qwen3.5 of any size. Attribute names are the checkpoint's tensor names.

    Random at first, as a model before training is; nothing is drawn on the meta device.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.kernels = "auto"  # the kind of forms that its calls take, see forms.py
        self.listeners = {}  # to its taps, for good: {name: function}
        self.ranks = 1  # processes that share it, see part.py
        self.model = Multimodal(cfg)
        if not cfg.tie_word_embeddings:
            self.lm_head = Linear(cfg.text.hidden_size, cfg.text.vocab_size)
        if cfg.text.mtp_num_hidden_layers:
            self.mtp = Drafter(cfg.text)
        if not next(self.parameters()).is_meta:
            initialise(self)

    def forward(self, input_ids, *others, last_only=False, **named):
        """Logits [B, T, vocab], or [B, 1, vocab] of the last token with `last_only`.

        The other arguments are those of `Multimodal.forward`: attention_mask,
        pixel_values, image_grid_thw, pixel_values_videos, video_grid_thw, position_ids
        and cache.
        """
        with self.calling():
            hidden = self.model(input_ids, *others, **named)
            return self.logits(hidden[:, -1:] if last_only else hidden)

    def hidden(self, input_ids, *others, **named):
        """The states behind the logits: [B, T, D], after the final norm."""
        with self.calling():
            return self.model(input_ids, *others, **named)

    def logits(self, hidden):
        """[..., D] -> [..., vocab]; a tied model reads its embedding backwards."""
        if self.cfg.tie_word_embeddings:
            return linear(hidden, self.model.language_model.embed_tokens.weight)
        return self.lm_head(hidden)

    def to(self, *args, **kwargs):
        """As nn.Module.to, but no cast rounds what FP32 names, here as in the files."""
        islands = {n: p.data for n, p in self.named_parameters() if n.endswith(FP32)}
        super().to(*args, **kwargs)
        for name, old in islands.items():
            p = self.get_parameter(name)
            p.data = old.to(p.device)
        return self

    def half(self):
        return self.to(torch.float16)

    def bfloat16(self):
        return self.to(torch.bfloat16)

    @property
    def device(self):
        return self.model.language_model.norm.weight.device

    @property
    def dtype(self):
        """Of all but the fp32 islands: A_log and the gated norms."""
        return self.model.language_model.norm.weight.dtype

    @contextmanager
    def calling(self):
        """A block in which this model's kernels are taken and its listeners hear."""
        if torch.compiler.is_compiling():  # which traces the reference forms alone
            yield
            return
        with using(self.kernels), hearing(self):
            yield

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
        T, memory = hidden.shape[1], None if cache is None else cache.mtp
        past = 0 if memory is None else memory.length
        if position_ids is None:
            place = torch.arange(past, past + T, device=hidden.device)
            position_ids = place.expand(3, len(hidden), T)
        context = context_of(self.cfg.text, position_ids, past + T)
        with self.calling():
            embeds = self.model.language_model.embed(next_ids)
            states = self.mtp(embeds, hidden, context, memory)
            return self.logits(states[:, -1:] if last_only else states), states

    def new_cache(self, batch, max_len):
        """An empty Cache for `batch` rows of up to `max_len` tokens."""
        return Cache(self.cfg.text, batch, max_len, self.dtype, self.device)

    def num_parameters(self):
        """Counts by part; `active` are those one text token passes through."""
        count = {"text": 0, "vision": 0, "mtp": 0}
        stored = ((n, m) for n, m in self.named_modules() if isinstance(m, Stored))
        for name, p in [*self.named_parameters(), *stored]:
            part = "vision" if name.startswith("model.visual") else name.split(".")[0]
            count[part if part in count else "text"] += p.shape.numel()
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
