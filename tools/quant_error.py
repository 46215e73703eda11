"""What each form of the weights changes: KL, top-1 agreement and file size.

    python -m tools.quant_error [--model assets/tiny] [--windows 8] [--page]

Converts the model into every form, reads held-out source and documentation with it in
float32, and compares its next-token probabilities with those of the weights as trained:
the mean of KL(as trained || form) over all tokens, and how often both would write the
same token. Prints a table; --page also writes it into docs/quantisation.md.
"""

import argparse
import re
import tempfile
from pathlib import Path

import torch

import minqwen
from minqwen.files import write_whole
from minqwen.train.corpus import Corpus
from minqwen.weights.convert import convert

LENGTH = 512  # tokens of a window
PAGE = Path(__file__).resolve().parent.parent / "docs" / "quantisation.md"
HEAD = "| `assets/tiny`, on "  # of the page's table
FORMS = {
    "bf16": "bf16, as trained", "fp8": "fp8", "int8:bf16": "int8, experts alone",
    "int8": "int8", "int8 rounded": "int8, activations rounded",
    "int4:bf16": "int4, experts alone", "int4:int8": "int4 for experts, the rest int8",
    "int4": "int4",
}  # fmt: skip
SHOWN = [form for form in FORMS if not form.endswith(":bf16")]  # on the page


@torch.inference_mode()
def compare(model, windows, want):
    """(KL in nats, share of equal choices) of a model beside log-probabilities."""
    divergence = agreed = 0.0
    for ids, true in zip(windows, want, strict=True):
        got = model(ids[None])[0].log_softmax(-1)
        divergence += (true.exp() * (true - got)).sum(-1).mean().item()
        agreed += (true.argmax(-1) == got.argmax(-1)).float().mean().item()
    return divergence / len(windows), agreed / len(windows)


def loaded(source, folder, form):
    """The model of `source` in a form, as it is loaded from the folder it is put in."""
    form, _, rounded = form.partition(" ")
    convert(source, folder, form)
    return minqwen.load(folder, activations="int8" if rounded else None)


def size_of(folder):
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def row(label, divergence, agreed, size):
    kl = f"{divergence:.{4 if divergence >= 0.001 else 5}f}" if divergence else "0"
    share = "100" if agreed == 1 else f"{agreed:.1%}"[:-1]
    return f"| {label} | {kl} | {share} % | {size / 1e6:.1f} MB |\n"


def into_page(head, table):
    """Write the table in the place of the page's one that begins with `head`."""
    text = PAGE.read_text(encoding="utf-8")
    write_whole(PAGE, in_page(text, head, table).encode())


def in_page(text, head, table):
    """The text with `table` in place of the one that begins with `head`."""
    old = re.compile(rf"^{re.escape(head)}.*\n(?:\|.*\n)+", re.MULTILINE)
    new, count = old.subn(lambda _: table, text)
    if count != 1:
        raise SystemExit(f"minqwen: {PAGE.name} has {count} such tables, and not one")
    return new


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="assets/tiny")
    parser.add_argument("--windows", type=int, default=8, help="of each kind of text")
    parser.add_argument("--page", action="store_true", help="write the page's table")
    options = parser.parse_args()
    if options.page and options.model != parser.get_default("model"):
        parser.error(f"{PAGE.name}'s table is that of assets/tiny")
    corpus = Corpus.build(options.model)
    windows = torch.cat([
        corpus.heldout(kind, LENGTH, limit=options.windows)["input_ids"]
        for kind in ("source", "docs")
    ])  # fmt: skip
    model = minqwen.load(options.model)
    with torch.inference_mode():
        want = [model(ids[None])[0].log_softmax(-1) for ids in windows]
    table = (
        f"| `{options.model}`, on {windows.numel():,} held-out tokens "
        "| KL, nats | same first choice | file |\n|---|---|---|---|\n"
    )
    print(table, end="")
    for form in SHOWN if options.page else FORMS:
        with tempfile.TemporaryDirectory() as folder:
            found = compare(loaded(options.model, folder, form), windows, want)
            line = row(FORMS[form], *found, size_of(Path(folder)))
        print(line, end="", flush=True)
        table += line
    if options.page:
        into_page(HEAD, table)


if __name__ == "__main__":
    main()
