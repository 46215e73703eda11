"""What the embedded model can do, measured on what it never saw, and its model card."""

import math
import platform
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F

from ..engine.generate import generate
from ..files import write_whole
from ..prompt.processor import Processor
from ..weights import load
from .corpus import Corpus

WINDOW = 1024  # tokens read at once when measuring; twice what training saw
PICTURES = 500


@torch.inference_mode()
def bits_per_byte(model, corpus, kind, window=WINDOW):
    """Held-out `kind` ("source" or "docs"), in windows: (bits a byte, bytes read)."""
    held = corpus.heldout(kind, window)
    loss = 0.0
    for ids, targets in zip(held["input_ids"], held["targets"], strict=True):
        logits = model(ids[None])[0]
        loss += F.cross_entropy(logits.float(), targets, reduction="sum").item()
    return loss / math.log(2) / held["bytes"], held["bytes"]


def digit_accuracy(model, corpus, processor, count=PICTURES):
    """Share of fresh pictures answered in full: {"known fonts", "unseen fonts"}."""
    right, asked = Counter(), Counter()
    for case in corpus.heldout_digits(count):
        inputs = {k: case[k] for k in ("input_ids", "pixel_values", "image_grid_thw")}
        steps = generate(model, inputs, max_new_tokens=16, processor=processor)
        answer = "".join(step.text for step in steps)
        fonts = "unseen fonts" if case["unseen"] else "known fonts"
        asked[fonts] += 1
        right[fonts] += answer.strip() == case["answer"]
    return {fonts: right[fonts] / asked[fonts] for fonts in asked}


@torch.inference_mode()
def draft_accuracy(model, corpus, window=WINDOW, limit=20):
    """How often the MTP head's guess is the token the model itself would write next."""
    agreed = total = 0
    held = corpus.heldout("source", window, limit=limit)
    for ids in held["input_ids"]:
        hidden = model.hidden(ids[None])
        own = model.logits(hidden).argmax(-1)  # own[t] follows ids[t]
        guess = model.draft(hidden[:, :-1], ids[None, 1:])[0].argmax(-1)
        agreed += (guess == own[:, 1:]).sum().item()
        total += guess.numel()
    return agreed / total


def measure(folder, seed=0):
    """All figures of the card, from the files in `folder` as anyone would load them."""
    model, processor = load(folder), Processor.load(folder)
    corpus = Corpus.build(folder, seed=seed)
    figures = {"size": model.num_parameters(), "corpus": corpus.summary()}
    figures["bits per byte"] = {
        kind: bits_per_byte(model, corpus, kind)[0] for kind in ("source", "docs")
    }
    figures["digits"] = digit_accuracy(model, corpus, processor)
    figures["drafts"] = draft_accuracy(model, corpus)
    return figures


def write_card(folder, recipe, seconds, threads):
    """Measure the checkpoint in `folder`, write its README.md, return the figures."""
    f = measure(folder, recipe.seed)
    size = {part: f"{count / 1e6:.2f} M" for part, count in f["size"].items()}
    corpus, bits, digits = f["corpus"], f["bits per byte"], f["digits"]
    source, docs = corpus["test_source_bytes"], corpus["test_docs_bytes"]
    rows = {
        f"bits per byte, Python source ({source:,} bytes)": f"{bits['source']:.3f}",
        f"bits per byte, documentation ({docs:,} bytes)": f"{bits['docs']:.3f}",
        "digits named, fresh pictures, known fonts": f"{digits['known fonts']:.1%}",
        "digits named, fonts it never saw": f"{digits['unseen fonts']:.1%}",
        "MTP head guesses the model's own choice": f"{f['drafts']:.1%}",
    }
    table = "\n".join(f"| {what} | {value} |" for what, value in rows.items())
    megabytes = {k: f"{corpus[f'train_{k}_bytes'] / 1e6:.1f} MB" for k in bits}
    tokens = recipe.all_steps * recipe.batch_size * recipe.seq_len / 1e6
    settings = ", ".join(f"{k} {v}" for k, v in asdict(recipe).items())
    chosen = {"steps": recipe.steps, "seed": recipe.seed, "threads": threads}
    usual = {"steps": type(recipe).steps, "seed": type(recipe).seed, "threads": 2}
    extra = "".join(f" --{k} {v}" for k, v in chosen.items() if v != usual[k])
    text = f"""# The embedded model

A Qwen3.5-MoE in every respect but size, trained by this project from random weights:
{size["text"]} parameters of text model ({size["active"]} active a token),
{size["vision"]} of vision tower, {size["mtp"]} of MTP head, stored as the released
checkpoints are. It exists to be looked into. It knows some Python, a little of its
library's documentation, and the ten digits.

| on what it never saw | |
|---|---|
{table}

Measured on these files (bf16), computed in fp32, in windows of {WINDOW} tokens, and on
{PICTURES} pictures.

## How it was made

    minqwen train --out assets/tiny{extra}

{seconds / 60:.0f} minutes on {threads} CPU threads, {tokens:.1f} M tokens, Python
{platform.python_version()}, torch {torch.__version__}. Recipe: {settings}.

Text: the source of Python's standard library ({megabytes["source"]}) and its bundled
documentation ({megabytes["docs"]}). About one file in 25 is held out, chosen by the
hash of its path; what a held-out file says is cut from the others.
{corpus["chats"]:,} questions and answers come from docstrings. Pictures: digits drawn
with the DejaVu and Computer Modern fonts that matplotlib carries; STIX is kept for
testing. Nothing is downloaded, so another Python has another library and makes another
model. Corpus sha256: `{corpus["corpus_sha256"][:16]}`.
"""
    write_whole(Path(folder) / "README.md", text.encode())
    return f
