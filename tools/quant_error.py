"""What each form of the weights changes: KL, top-1 agreement and file size.

    python -m tools.quant_error [--model assets/tiny] [--windows 8]

Converts the model into every form, reads held-out source and documentation with it in
float32, and compares its next-token probabilities with those of the weights as trained:
the mean of KL(as trained || form) over all tokens, and how often both would write the
same token. Prints the README's table.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import minqwen
from minqwen.train.corpus import Corpus
from minqwen.units import human
from minqwen.weights.convert import convert

LENGTH = 512  # tokens of a window
FORMS = {
    "bf16": "as trained", "fp8": "fp8", "int8:bf16": "int8, experts alone",
    "int8": "int8", "int4:bf16": "int4, experts alone",
    "int4:int8": "int4, the rest int8", "int4": "int4",
}  # fmt: skip


@torch.inference_mode()
def compare(model, windows, want):
    """(KL in nats, share of equal choices) of a model beside log-probabilities."""
    divergence = agreed = 0.0
    for ids, true in zip(windows, want, strict=True):
        got = model(ids[None])[0].log_softmax(-1)
        divergence += (true.exp() * (true - got)).sum(-1).mean().item()
        agreed += (true.argmax(-1) == got.argmax(-1)).float().mean().item()
    return divergence / len(windows), agreed / len(windows)


def size_of(folder):
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="assets/tiny")
    parser.add_argument("--windows", type=int, default=8, help="of each kind of text")
    options = parser.parse_args()
    corpus = Corpus.build(options.model)
    windows = torch.cat([
        corpus.heldout(kind, LENGTH, limit=options.windows)["input_ids"]
        for kind in ("source", "docs")
    ])  # fmt: skip
    model = minqwen.load(options.model)
    with torch.inference_mode():
        want = [model(ids[None])[0].log_softmax(-1) for ids in windows]
    print(f"{windows.numel():,} held-out tokens, computed in float32\n")
    print("| weights | KL, nats | same first choice | bytes |\n|---|---|---|---|")
    for form, label in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            convert(options.model, folder, form)
            divergence, agreed = compare(minqwen.load(folder), windows, want)
            size = human(size_of(Path(folder)))
        print(f"| {label} | {divergence:.5f} | {agreed:.2%} | {size} |", flush=True)


if __name__ == "__main__":
    main()
