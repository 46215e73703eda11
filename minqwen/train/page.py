"""The model card as a page: Markdown of what card.py measured."""

import math

from .abilities import WINDOW
from .corpus.scenes import LABELS
from .parts import parts_text, table


def interval(right, asked, z=1.96):
    """Wilson's 95 % interval of a share."""
    share, spread = right / asked, z * z / asked
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / asked + spread / asked / 4)
    return max(0.0, middle - half / (1 + spread)), min(
        1.0, middle + half / (1 + spread)
    )


def share_rows(shares):
    for name, s in shares.items():
        low, high = interval(s["right"], s["asked"])
        yield (
            name,
            f"{s['right'] / s['asked']:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{s['floor']:.0%}" if s["floor"] else "none",
            f"{s['asked']:,}",
            f"{s['seconds']:.1f}",
        )


def curve_table(curve, course, names):
    """How one course went: of its points, the figures called `names`."""
    points = [point for point in curve if point["course"] == course]
    return table(
        ["minutes", "step", *names],
        (
            (
                f"{point['seconds'] / 60:.1f}",
                f"{point['step']:,}",
                *(f"{point[name]:.2f}" for name in names),
            )
            for point in points
        ),
    )


def all_curve(run):
    """How a run learned, by the tasks and texts of its mixture."""
    measured = {name for point in run["curve"] for name in point}
    both = [(name, f"{name} bits") for name in run["recipe"]["mixture"]]
    names = [name for pair in both for name in pair if name in measured]
    return curve_table(run["curve"], "all", names)


def settings(recipe):
    """A recipe, indented."""
    plain = {k: v for k, v in recipe.items() if k != "mixture"}
    lines = [f"{k} = {v}" for k, v in plain.items()]
    lines += ["", "[mixture]", *(f"{k} = {v}" for k, v in recipe["mixture"].items())]
    return "\n".join(f"    {line}".rstrip() for line in lines)


def spent(run):
    minutes = f"{run['seconds'] / 60:.0f} minutes on {run['threads']} threads"
    return f"""{minutes} of a CPU named
{run["processor"]}, with Python {run["python"]} and torch {run["torch"]}"""


def text_of(card, folder):
    """The card as Markdown; experiments are looked for in the folder."""
    f = card["figures"]
    size = {part: f"{count / 1e6:.2f} M" for part, count in f["size"].items()}
    shares = table(
        ["on what it never saw", "right", "95 % interval", "floor", "asked", "seconds"],
        share_rows(f["shares"]),
    )
    numbers = table(["", ""], [(k, f"{v:.3f}") for k, v in f["numbers"].items()])
    experts = table(
        ["layer", "its router", "a random router"],
        [(i, f"{a:.3f}", f"{b:.3f}") for i, (a, b) in enumerate(f["experts"])],
    )
    first, *later = [*card.get("before", []), card]
    again = "\n    minqwen train --from FOLDER --out FOLDER"
    further = "".join(
        f"""Then further, in {spent(run)}, by this recipe:

{settings(run["recipe"])}

{all_curve(run)}

"""
        for run in later
    )
    return f"""# The embedded model

A Qwen3.5-MoE in every respect but size, trained by this project from random weights:
{size["text"]} parameters of text model ({size["active"]} active a token),
{size["vision"]} of vision tower, {size["mtp"]} of MTP head, stored as the released
checkpoints are. It keeps notes, copies, adds, reads small pictures and films, calls
tools and writes the shape of Python; asked for anything else, it says so.

{shares}

An answer is right if it is the expected one word for word, written greedily. Seconds
are those of measuring, on the CPU's default threads. A wrong answer that begins as the
friendly sentence counts as one.

{numbers}

In bf16 as stored, computed in fp32; bits a byte in windows of {WINDOW} tokens.

What a token's expert tells of its task, in bits (mutual information):

{experts}

{parts_text(folder)}## How it was made

    minqwen train --out FOLDER{again * len(later)}

First in {spent(first)}, by recipe.toml, which says why:

{settings(first["recipe"])}

How it learned: shares of held-out answers that are right at the full difficulty of
each task, and bits a byte of held-out text.

{all_curve(first)}

Before that the tower alone learned to say what a picture's cells hold: most of it, its
colour, the first two things whose middle is there, and in which part of the picture
that is. Its losses:

{curve_table(first["curve"], "tower", LABELS)}

{further}
What made it remember, in short trials:

- Where weights begin (minqwen/train/start.py): with an induction head made by hand.
  Before any training, 64 random tokens are said again at 3.6 bits each, where a guess
  costs 11. After 0.41 M tokens it was 1.3 bits (there with two lags, not three), and
  6.7 from a start with blurred heads alone. From transformers' start, 0.3 M tokens of
  repetitions taught nothing.
- Long embeddings, so that a short run does not bend them: of standard deviation 0.3, 1
  and 3, repeating cost 4.2, 1.8 and 1.3 bits after 0.41 M tokens.
- Names that are the same tokens wherever they stand: with a space before capitals left
  out of the merges, notes of up to four facts were answered in 34 % after 0.41 M
  tokens, and in 15 % without.
- Rows with room for whole chats. In rows of 128 tokens, halfway to full difficulty,
  notes were 14 % of what was learned and tools 1 %, since longer chats were left out or
  cut; in rows of 256 tokens, 24 % and 14 %. What does not fit at a row's end is drawn
  again: a tenth of such a row teaches nothing, where three tenths did.
- "I was not told." where nothing was noted. "The notes do not say." began as answers
  about things do ("The lamp ..."), and was said whenever the model was in doubt. With
  this, longer rows, and more notes and fewer sums in the mixture, notes of one, four
  and eight facts were answered in 60, 35 and 33 % after 0.51 M tokens, and in 44, 24
  and 18 % without.
- A tower that is first taught to say what it sees in the language model's embeddings:
  after 15 minutes a digit was read in 63 %, and in 9 % where a head had named it (the
  two runs differed in smaller things, too).
- Small steps and Muon, both with blurred heads and notes of made-up tokens. With steps
  of 1,024 tokens one fact of up to eight came to 94 % after 0.19 M tokens, and of 4,096
  to 31 % after 0.44 M. After 0.24 M tokens Muon had four facts in 93 %, AdamW in 35 %.

All data are made on the spot; nothing is downloaded. Python's standard library
({f["corpus"]["train_source_bytes"] / 1e6:.1f} MB) and its documentation are part of it,
about one file in 25 held out by the hash of its path, so another Python makes another
model. Corpus sha256: `{f["corpus"]["corpus_sha256"][:16]}`.
"""
