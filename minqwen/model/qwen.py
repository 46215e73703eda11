"""The whole model: embedding, early fusion, blocks, output head."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import InputError
from .block import Block, Context, context_of
from .cache import Cache
from .config import Config
from .deltanet import GatedDeltaNet
from .forms import Embedding, Linear, OptTensor, Stored, linear, using
from .moe import Experts, Router
from .mtp import Drafter
from .norm import RMSNorm
from .rope import positions
from .shapes import TextConfig
from .taps import hearing, tap
from .vision import VisionTower

FP32 = ("A_log", "linear_attn.norm.weight")  # stay fp32 whatever the rest is cast to


class LanguageModel(nn.Module):
    """`model.language_model`: token embedding, blocks, final norm."""

    def __init__(self, cfg: TextConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed_tokens = Embedding(cfg.vocab_size, cfg.hidden_size)
        self.layers = nn.ModuleList(
            Block(cfg, kind, layer) for layer, kind in enumerate(cfg.layer_types)
        )
        self.norm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Ids [B, T] -> [B, T, D]; InputError for an id outside the vocabulary."""
        # Only on the CPU: to look at ids on a GPU would wait for it.
        if input_ids.device.type == "cpu" and not torch.compiler.is_compiling():
            check_ids(input_ids, self.cfg.vocab_size)
        return self.embed_tokens(input_ids)

    def forward(
        self, x: Tensor, context: Context, cache: Cache | None = None
    ) -> Tensor:
        """Embeddings x [B, T, D] -> the states behind the logits, [B, T, D]."""
        for i, block in enumerate(self.layers):
            x = block(x, context, None if cache is None else cache.layers[i])
        return tap("final_norm", x=self.norm(x))


class Multimodal(nn.Module):
    """`model`: all of a checkpoint but its output head."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.language_model = LanguageModel(cfg.text)
        if cfg.vision:
            self.visual = VisionTower(cfg.vision)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: OptTensor = None,
        pixel_values: OptTensor = None,
        image_grid_thw: OptTensor = None,
        pixel_values_videos: OptTensor = None,
        video_grid_thw: OptTensor = None,
        position_ids: OptTensor = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The states behind the logits: [B, T, D], after the final norm.

        input_ids [B, T]; attention_mask [B, T] (or [B, tokens so far + T]), 0 for left
        padding; pixel_values [N, 1536] and image_grid_thw [images, 3] as the Processor
        and transformers' processors give them, and likewise for videos; position_ids
        [3, B, T], found from the rest if not given. With a cache, the tokens follow
        those it holds. Raises InputError when placeholders and pictures differ.
        """
        B, T = input_ids.shape
        real = real_tokens(attention_mask, B, T, cache)
        pictures = {
            "image": (pixel_values, image_grid_thw),
            "video": (pixel_values_videos, video_grid_thw),
        }
        input_ids, real, pictures, cache = tap(
            "tokens", input_ids=input_ids, real=real, pictures=pictures, cache=cache
        )
        x = self.language_model.embed(input_ids)
        for kind, (pixels, grid) in pictures.items():
            x = self.fuse(x, input_ids, kind, pixels, grid)
        if position_ids is None:
            grids = [grid for _, grid in pictures.values()]
            position_ids, after = self.place(input_ids, real, cache, *grids)
        else:
            after = position_ids.amax(dim=(0, 2)) + 1
        seen = real if cache is None else cache.advance(real, T, after)
        S = T if cache is None else cache.length
        context = context_of(self.cfg.text, position_ids, S, real, seen)
        return self.language_model(x, context, cache)

    def fuse(
        self,
        x: Tensor,
        input_ids: Tensor,
        kind: str,
        pixels: OptTensor,
        grid: OptTensor,
    ) -> Tensor:
        """Early fusion: the tower's outputs take the rows of their placeholders."""
        if pixels is None:
            if grid is not None:
                raise InputError(f"{kind}_grid_thw is given without its pixel values")
            return x
        if grid is None:
            raise InputError(f"pixel values of {kind}s come without {kind}_grid_thw")
        token = getattr(self.cfg, f"{kind}_token_id")
        if token is None:
            raise InputError(f"the checkpoint has no vision tower; omit the {kind}s")
        places = input_ids == token
        features = self.visual(pixels, grid)  # [N / 4, D]
        if places.sum() != len(features):
            raise InputError(
                f"the prompt has {int(places.sum())} {kind} placeholders (id {token}) "
                f"and the {kind}s fill {len(features)}; let Processor.chat build both"
            )
        return x.masked_scatter(places[..., None], features.to(x.dtype))

    def place(
        self, input_ids: Tensor, real: OptTensor, cache: Cache | None, *grids: OptTensor
    ) -> tuple[Tensor, Tensor]:
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

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.kernels = "auto"  # the kind of forms that its calls take, see forms.py
        self.listeners: dict[str, Callable] = {}  # to its taps, for good
        self.ranks = 1  # processes that share it, see part.py
        self.model = Multimodal(cfg)
        if not cfg.tie_word_embeddings:
            self.lm_head = Linear(cfg.text.hidden_size, cfg.text.vocab_size)
        if cfg.text.mtp_num_hidden_layers:
            self.mtp = Drafter(cfg.text)
        if not next(self.parameters()).is_meta:
            initialise(self)

    def forward(
        self, input_ids: Tensor, *others: Any, last_only: bool = False, **named: Any
    ) -> Tensor:
        """Logits [B, T, vocab], or [B, 1, vocab] of the last token with `last_only`.

        The other arguments are those of `Multimodal.forward`.
        """
        with self.calling():
            hidden = self.model(input_ids, *others, **named)
            # NOTE: cut before the head: a row of logits is 60 times a state's (397B).
            return self.logits(hidden[:, -1:] if last_only else hidden)

    def hidden(self, input_ids: Tensor, *others: Any, **named: Any) -> Tensor:
        """The states behind the logits: [B, T, D], after the final norm."""
        with self.calling():
            return self.model(input_ids, *others, **named)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., vocab]; a tied model reads its embedding backwards."""
        if self.cfg.tie_word_embeddings:
            return linear(hidden, self.model.language_model.embed_tokens.weight)
        return self.lm_head(hidden)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As nn.Module.to, but no cast rounds what FP32 names, here as in the files."""
        islands = {n: p.data for n, p in self.named_parameters() if n.endswith(FP32)}
        super().to(*args, **kwargs)
        for name, old in islands.items():
            p = self.get_parameter(name)
            p.data = old.to(p.device)
        return self

    def half(self) -> Self:
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        return self.to(torch.bfloat16)

    @property
    def device(self) -> torch.device:
        return self.model.language_model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of all but the fp32 islands: A_log and the gated norms."""
        return self.model.language_model.norm.weight.dtype

    @contextmanager
    def calling(self) -> Iterator[None]:
        """A block in which this model's kernels are taken and its listeners hear."""
        if torch.compiler.is_compiling():  # which traces the reference forms alone
            yield
            return
        with using(self.kernels), hearing(self):
            yield

    def draft(
        self,
        hidden: Tensor,
        next_ids: Tensor,
        position_ids: OptTensor = None,
        cache: Cache | None = None,
        last_only: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The MTP head: with the state of token t and token t+1, guess token t+2.

        hidden [B, T, D] from `hidden` or from this method; next_ids [B, T], each
        one token later. Returns logits [B, T, vocab], or of the last token only, and
        states [B, T, D] to feed back. Rows without padding only, unless position_ids
        [3, B, T] say otherwise.
        """
        if not hasattr(self, "mtp"):
            raise InputError("the model has no multi-token head; use draft=0")
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

    def new_cache(self, batch: int, max_len: int) -> Cache:
        """An empty Cache for `batch` rows of up to `max_len` tokens."""
        return Cache(self.cfg.text, batch, max_len, self.dtype, self.device)

    def num_parameters(self) -> dict[str, int]:
        """Counts by part; `active` are those one text token passes through."""
        count = {"text": 0, "vision": 0, "mtp": 0}
        for name, p in [*self.named_parameters(), *self.named_modules()]:
            if isinstance(p, nn.Parameter | Stored):
                vision, part = name.startswith("model.visual"), name.split(".")[0]
                part = "vision" if vision else part if part in count else "text"
                count[part] += p.shape.numel()
        idle, t = 0, self.cfg.text
        if t.num_experts:
            one = 3 * t.hidden_size * t.moe_intermediate_size
            idle = t.num_hidden_layers * (t.num_experts - t.num_experts_per_tok) * one
        return count | {"total": sum(count.values()), "active": count["text"] - idle}


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """InputError for an id outside the vocabulary."""
    low, high = ids.aminmax() if ids.numel() else (0, 0)
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"token id {low if low < 0 else high} is outside the vocabulary of "
            f"{vocab_size}; is the tokenizer another model's?"
        )


def real_tokens(mask: OptTensor, B: int, T: int, cache: Cache | None) -> OptTensor:
    """A 0/1 mask [B, T] or [B, past + T] -> bool [B, T], or None without padding."""
    past = 0
    if cache is not None:
        cache.expect(B, T)
        past = cache.length
    if mask is None:
        return None
    if mask.shape[1] not in (T, past + T):
        raise InputError(
            f"attention_mask covers {mask.shape[1]} tokens; expected {T}"
            + (f", or {past + T} with those in the cache" if past else "")
        )
    real = mask[:, -T:].bool()
    if (real[:, :-1] & ~real[:, 1:]).any():
        raise InputError(
            "attention_mask has padding after a token; pad on the left, since what "
            "follows a token changes the states it leaves"
        )
    if cache is not None and past and (cache.next_position[~real[:, 0]] > 0).any():
        raise InputError("padding cannot follow tokens that the cache holds")
    return None if real.all() else real


@torch.no_grad()
def initialise(model: Qwen) -> None:
    """Weights before training: N(0, 0.02), norms neutral, rates log U(0.01, 16)."""
    cfg = model.cfg
    plain = nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv3d | Router
    for name, module in model.named_modules():
        part = cfg.vision if name.startswith("model.visual.") else cfg.text
        std = part.initializer_range
        if isinstance(module, plain):
            module.weight.normal_(0, std)
            bias = getattr(module, "bias", None)
            if bias is not None:
                bias.zero_()
        elif isinstance(module, Experts):
            module.gate_up_proj.normal_(0, std)
            module.down_proj.normal_(0, std)
        elif isinstance(module, GatedDeltaNet):
            module.A_log.uniform_(0.01, 16).log_()
