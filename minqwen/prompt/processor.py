"""Chats to what the model takes, ids to text: tokenizer, template, placeholders.

    messages --template--> prompt --pictures counted--> longer prompt --BPE--> ids

The template writes one `<|image_pad|>` for a picture; here it becomes one for each
32 x 32 pixels, which the model later overwrites with what the vision tower saw.

Markers such as `<|im_end|>` in a user's own text are read as markers, as in
transformers, vLLM and SGLang: a service must strip them from what strangers type.
A placeholder in it is found out, since the pictures are counted against it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..files import FILES, read_json, read_whole, write_whole
from ..model.family import end_ids
from .images import picture_to_patches, read_options
from .messages import plain_messages
from .template import choose, prompt_of, read_templates
from .tokenizer import (
    BYTE_OF_LETTER,
    caught,
    listed,
    read_tokenizer,
    token_text,
    valid,
)
from .videos import video_to_patches

IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
CONFIG_IDS = {
    "image_token_id": IMAGE_PAD,
    "video_token_id": VIDEO_PAD,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
IMAGE_FILE = "preprocessor_config.json"
VIDEO_FILE = "video_preprocessor_config.json"
NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class Processor:
    """Everything between a conversation and the model's tensors.

    `files` maps names of a checkpoint folder's files to their bytes; tokenizer.json
    is needed, the others when used. `video_outer_pair` keeps the vision_start and
    vision_end that the template writes around a whole video, as transformers 5
    does; vLLM's proposed form drops them. Raises InputError for a broken file.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        source: str = "processor",
        *,
        video_outer_pair: bool = True,
    ) -> None:
        self.files = files
        self.source = source
        self.video_outer_pair = video_outer_pair
        self.tokenizer = read_tokenizer(files, source)
        self._added = self.tokenizer.get_added_tokens_decoder()
        self.settings = self._json("tokenizer_config.json")
        self.templates = read_templates(files, source)
        self.image_options, self.video_options = self._read_picture_options()
        self.stop_ids = self._read_stop_ids()
        pad = token_text(self.settings.get("pad_token")) or "<|endoftext|>"
        self.pad_id = self.tokenizer.token_to_id(pad) or 0  # masked: any id serves

    @classmethod
    def load(
        cls,
        path_or_hub_id: str | Path,
        revision: str | None = None,
        *,
        video_outer_pair: bool = True,
    ) -> "Processor":
        """Read a checkpoint's folder, or what a .gguf file says of its tokenizer.

        Raises InputError when there is none.
        """
        from ..weights.checkpoint.hub import resolve
        from ..weights.gguf.files import find_gguf
        from ..weights.gguf.text import text_files

        folder = resolve(path_or_hub_id, revision, [*FILES, "config.json"])
        own = folder.is_dir() and (folder / "tokenizer.json").exists()
        if not own and (file := find_gguf(folder)):
            return cls(text_files(file), str(folder))
        folder = folder if folder.is_dir() else folder.parent
        found = [name for name in FILES if (folder / name).exists()]
        if "tokenizer.json" not in found:
            raise InputError(
                f"{folder} has no tokenizer.json, so text cannot become ids; "
                "copy it from the published checkpoint"
            )
        files = {name: read_whole(folder / name) for name in found}
        processor = cls(files, str(folder), video_outer_pair=video_outer_pair)
        if (folder / "config.json").exists():
            config = read_json(read_whole(folder / "config.json"), "config.json")
            processor._check_ids(config)
        return processor

    def save(self, folder: str | Path) -> None:
        """Write the files it was read from, unchanged, each by way of a new name."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            write_whole(folder / name, content)

    def encode(self, text: str) -> list[int]:
        """Text to ids; nothing is added before or after."""
        valid(text)
        with caught(f"the tokenizer of {self.source} fails at this text"):
            return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int] | Tensor, skip_special: bool = True) -> str:
        """Ids to text; bytes that are no whole character become U+FFFD."""
        return self.tokenizer.decode(listed(ids), skip_special_tokens=skip_special)

    def token_bytes(self, token: int) -> bytes:
        """The bytes one id stands for: none for special ids and for unused ones."""
        if token in self._added:
            added = self._added[token]
            return b"" if added.special else added.content.encode()
        letters = self.tokenizer.id_to_token(token) or ""
        return bytes(BYTE_OF_LETTER[letter] for letter in letters)

    @property
    def vocab_size(self) -> int:
        """How many ids have a meaning; the model's table may be longer."""
        return self.tokenizer.get_vocab_size()

    def chat(
        self,
        messages: Sequence,
        thinking: bool | None = None,
        tools: Sequence | None = None,
        **template_vars: Any,
    ) -> dict[str, Tensor]:
        """A conversation, or a list of them, to the tensors that the model takes.

        A message is {"role", "content"}; content is text or a list of
        {"type": "text", "text"}, {"type": "image", "image"} and
        {"type": "video", "video", "fps"} (messages.py has all their keys, images.py
        what they may be). `thinking` None is the template's own choice; `tools` are
        JSON schemas. `chat_template` is another template, or the name of one, and
        `continue_final_message` leaves the last message open, as in transformers.
        Further arguments are the template's own variables.
        Returns input_ids, attention_mask int64 [B, T], padded on the left, and, for
        those that occur, pixel_values [N, 1536] with image_grid_thw [n, 3] and
        pixel_values_videos with video_grid_thw.
        """
        rows_given = isinstance(messages, (list, tuple)) and len(messages) > 0
        batched = rows_given and isinstance(messages[0], (list, tuple))
        rows, images, videos = [], [], []
        for conversation in messages if batched else [messages]:
            prompt, media = self._render(conversation, thinking, tools, template_vars)
            self._count(prompt, media)
            row_images = self._patches(media, "image")
            row_videos = self._patches(media, "video")
            rows.append(self.encode(self._expand(prompt, row_images, row_videos)))
            images += row_images
            videos += row_videos
        return {
            **self._pad(rows),
            **_stack(images, "pixel_values", "image_grid_thw"),
            **_stack(videos, "pixel_values_videos", "video_grid_thw"),
        }

    def chat_text(
        self,
        messages: Sequence,
        thinking: bool | None = None,
        tools: Sequence | None = None,
        **template_vars: Any,
    ) -> str:
        """The prompt as the template writes it, one placeholder for each picture."""
        return self._render(messages, thinking, tools, template_vars)[0]

    def _render(self, messages, thinking, tools, template_vars):
        wanted = template_vars.get("chat_template")
        template = choose(self.templates, wanted, tools, self.source)
        plain, media = plain_messages(messages)
        named = [name for name in NAMED_TOKENS if self.settings.get(name)]
        tokens = {name: token_text(self.settings[name]) for name in named}
        return prompt_of(template, plain, thinking, tools, tokens, template_vars), media

    def _count(self, prompt, media):
        for kind, mark in (("image", IMAGE_PAD), ("video", VIDEO_PAD)):
            given = sum(part.kind == kind for part in media)
            if prompt.count(mark) != given:
                raise InputError(
                    f"the prompt holds {prompt.count(mark)} {mark} placeholders for "
                    f"{given} {kind}s; give each {kind} as a content item of its own "
                    f"and do not write {mark} in a text"
                )

    def _patches(self, media, kind):
        """Patches, grid, and for a video times, of each medium of a kind."""
        make, options, file = {
            "image": (picture_to_patches, self.image_options, IMAGE_FILE),
            "video": (video_to_patches, self.video_options, VIDEO_FILE),
        }[kind]
        parts = [part for part in media if part.kind == kind]
        if parts and options is None:
            raise InputError(
                f"the messages hold {kind}s, but {self.source} has no {file}; "
                "this checkpoint reads text only, or the file was not copied"
            )
        return [make(part.source, asked=part.asked, **options) for part in parts]

    def _expand(self, prompt, images, videos):
        """Each placeholder becomes as many as the model will overwrite."""
        images, videos = iter(images), iter(videos)
        whole = f"{VISION_START}{VIDEO_PAD}{VISION_END}"
        marks = [IMAGE_PAD, VIDEO_PAD] if self.video_outer_pair else [IMAGE_PAD, whole]

        def fill(match):
            if match[0] == IMAGE_PAD:
                _, (_, h, w) = next(images)
                return IMAGE_PAD * (h * w // self.image_options["merge_size"] ** 2)
            _, (_, h, w), seconds = next(videos)
            pads = VIDEO_PAD * (h * w // self.video_options["merge_size"] ** 2)
            return "".join(
                f"<{second:.1f} seconds>{VISION_START}{pads}{VISION_END}"
                for second in seconds
            )

        return re.sub("|".join(map(re.escape, marks)), fill, prompt)

    def _pad(self, rows):
        width = max(map(len, rows))
        ids = [[self.pad_id] * (width - len(row)) + row for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        return {
            "input_ids": torch.tensor(ids, dtype=torch.int64),
            "attention_mask": torch.tensor(mask, dtype=torch.int64),
        }

    def _json(self, name):
        return read_json(self.files[name], name) if name in self.files else {}

    def _read_picture_options(self):
        # transformers 5 saves both in one file; published checkpoints have two.
        both, found = self._json("processor_config.json"), []
        for kind, files in ("image", [IMAGE_FILE]), ("video", [VIDEO_FILE, IMAGE_FILE]):
            file, raw = "processor_config.json", both.get(f"{kind}_processor")
            if raw is None:
                file = next((name for name in files if name in self.files), files[0])
                raw = self._json(file)
            video = kind == "video"
            found.append(read_options(raw, file, video=video) if raw else None)
        return found

    def _read_stop_ids(self):
        names = {token_text(self.settings.get("eos_token"))}
        names |= {"<|im_end|>", "<|endoftext|>"}
        ids = {self.tokenizer.token_to_id(name) for name in names if name}
        eos = self._json("generation_config.json").get("eos_token_id")
        return ids.union(end_ids(eos, "generation_config.json")) - {None}

    def _check_ids(self, config):
        for key, token in CONFIG_IDS.items():
            ours = self.tokenizer.token_to_id(token)
            if key in config and config[key] != ours:
                said = f"config.json says {key} is {config[key]!r:.40}"
                raise InputError(
                    f"{self.source}: {said}, but in tokenizer.json {token} is {ours}; "
                    "take both from one checkpoint"
                )


def _stack(items, pixels, grids):
    if not items:
        return {}
    return {
        pixels: torch.cat([item[0] for item in items]),
        grids: torch.tensor([item[1] for item in items], dtype=torch.int64),
    }
