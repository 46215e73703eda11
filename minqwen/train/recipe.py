"""What decides the small model's weights, besides the corpus and torch's version."""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path

from ..errors import InputError
from ..files import read_whole
from ..model.config import Config
from .corpus import KINDS

RECIPE = Path(__file__).with_name("recipe.toml")
FURTHER = Path(__file__).with_name("further.toml")  # for a model that is trained


@dataclass(frozen=True)
class Recipe:
    """As recipe.toml says, where each has its reason. Shares are of all steps."""

    steps: int
    seq_lens: tuple  # one after another
    rows: tuple  # of each
    lr: float
    matrix_lr: float
    word_lr: float
    warmup: float
    decay: float
    weight_decay: float
    clip: float
    level: float
    mixed: float
    drafts_from: float
    mtp_weight: float
    tower: float
    tower_rate: float
    points: int
    mixture: dict = field(hash=False)
    seed: int = 0

    @property
    def tower_steps(self):
        return round(self.tower * self.steps)

    @classmethod
    def read(cls, path=RECIPE, **changes):
        """A TOML file's recipe with `changes`; InputError says what is wrong in it."""
        try:
            said = tomllib.loads(read_whole(path).decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no TOML file: {error}") from None
        said |= changes
        known = {f.name: f for f in fields(cls)}
        for name in said.keys() ^ known.keys():
            what = "is missing" if name in known else "is no part of a recipe"
            if name != "seed":
                raise InputError(f"{path}: {name} {what}")
        for name, value in said.items():
            if fault := fault_of(name, value, known[name].type):
                raise InputError(f"{path}: {name} is {value!r}; expected {fault}")
        said = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
        recipe = cls(**said)
        if len(recipe.rows) != len(recipe.seq_lens):
            raise InputError(
                f"{path}: rows has {len(recipe.rows)} numbers; expected as "
                f"many as seq_lens, {len(recipe.seq_lens)}"
            )
        return recipe


NOT_ZERO = ("steps", "warmup", "decay", "level")
SHORTEST = 64  # tokens of a row: the easiest chats are shorter


def fault_of(name, value, kind):
    """What was expected of a recipe's value instead of this one; None if it is well."""
    if kind is dict:
        if not isinstance(value, dict) or value.keys() - set(KINDS):
            return f"shares of {', '.join(KINDS)}"
        numbers = list(value.values())
        fault = "shares of which one is above 0"
        return None if all(map(is_number, numbers)) and any(numbers) else fault
    if kind is tuple:
        least, step = (SHORTEST, 1) if name == "seq_lens" else (2, 2)
        whole = isinstance(value, list | tuple) and value
        whole = whole and all(isinstance(n, int) and n >= least for n in value)
        whole = whole and all(n % step == 0 for n in value)
        even = ", each even: two threads share them" if step > 1 else ""
        return None if whole else f"whole numbers of {least} or more{even}"
    if not is_number(value) or (kind is int and not isinstance(value, int)):
        return "a whole number" if kind is int else "a number, 0 or more"
    return "more than 0" if name in NOT_ZERO and not value else None


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def plan(step, recipe):
    """What step `step` trains on, as the keywords of `Corpus.batch`."""
    done = step / recipe.steps
    stage = int(done * len(recipe.seq_lens))
    return {
        "mixture": recipe.mixture,
        "rows": recipe.rows[stage],
        "seq_len": recipe.seq_lens[stage],
        "level": min(1.0, done / recipe.level),
        "mixed": recipe.mixed,
    }


def rate(step, steps, recipe):
    """Share of the learning rate: a linear warm-up, level ground, a straight descent.

    Level ground can be made longer with the same recipe (arXiv 2405.18392).
    """
    done = (step + 1) / steps
    return min(1.0, done / recipe.warmup, (1 + 1 / steps - done) / recipe.decay)


def tiny_config(vocab_size=2048, first_special=2034) -> Config:
    """The embedded model: every part of the 397B one, about 1/100,000 of its size."""
    text = dict(
        vocab_size=vocab_size, hidden_size=128, num_hidden_layers=8,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        full_attention_interval=4, linear_num_key_heads=4, linear_num_value_heads=8,
        linear_key_head_dim=32, linear_value_head_dim=32, linear_conv_kernel_dim=4,
        rms_norm_eps=1e-6, max_position_embeddings=32768, eos_token_id=first_special,
        mtp_num_hidden_layers=1, num_experts=16, num_experts_per_tok=2,
        router_aux_loss_coef=0.01,  # ten times the large ones': its run is short
        moe_intermediate_size=64, shared_expert_intermediate_size=128,
        rope_parameters=dict(rope_type="default", rope_theta=10_000_000,
                             partial_rotary_factor=0.25, mrope_section=[3, 3, 2],
                             mrope_interleaved=True))  # fmt: skip
    vision = dict(depth=3, hidden_size=64, intermediate_size=192, num_heads=4,
                  in_channels=3, patch_size=16, temporal_patch_size=2,
                  spatial_merge_size=2, out_hidden_size=128,
                  num_position_embeddings=64)  # fmt: skip
    return Config.from_dict(dict(
        model_type="qwen3_5_moe", text_config=text, vision_config=vision,
        tie_word_embeddings=False, image_token_id=first_special + 6,
        video_token_id=first_special + 7, vision_start_token_id=first_special + 3,
        vision_end_token_id=first_special + 4))  # fmt: skip
