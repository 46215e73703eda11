"""A checkpoint's config.json, read strictly; the letters are in shapes.py."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import inside, read_json, read_whole
from . import family, members
from .shapes import FULL, LINEAR, RopeConfig, TextConfig, VisionConfig  # noqa: F401


@dataclass(frozen=True)
class Config:
    """One checkpoint: text, perhaps vision, and the ids that tie the two together."""

    model_type: str
    text: TextConfig
    vision: VisionConfig | None
    tie_word_embeddings: bool
    image_token_id: int | None = None
    video_token_id: int | None = None
    vision_start_token_id: int | None = None
    vision_end_token_id: int | None = None
    extra: dict = field(default_factory=dict, compare=False)

    @property
    def is_moe(self) -> bool:
        return "moe" in self.model_type

    @classmethod
    def named(cls, name: str) -> "Config":
        """A released size, such as "397B-A17B", "0.8B" or "Qwen3.8-27B"."""
        return cls.from_dict(members.named(name), source=f"Config.named({name!r})")

    @classmethod
    def from_json(cls, path: str | Path) -> "Config":
        """Read config.json (the file, or the folder that holds it)."""
        file = inside(path, "config.json")
        return cls.from_dict(read_json(read_whole(file), str(file)), source=str(file))

    @classmethod
    def from_dict(cls, values: dict, source: str = "config.json") -> "Config":
        """Build from config.json's content; InputError names what is wrong."""
        return family.parse(cls, values, source)

    def to_dict(self) -> dict:
        """The content of a config.json that this project and transformers both read."""
        return family.unparse(self)

    def replace(self, **changes: Any) -> "Config":
        """A copy with other text numbers; InputError if they clash."""
        text = dataclasses.replace(self.text, **changes)
        changed = dataclasses.replace(self, text=text)
        family.contradictions(changed, "Config.replace")
        return changed
