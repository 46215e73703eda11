"""A page of findings on the small model, each a link to where it can be seen.

    python -m tools.gallery OUT

Writes index.html into the folder OUT, and what it leads to: the sample traces as pages,
pages of what a cause (minqwen.analyse) makes of an answer, alone and beside the whole,
and the page with the model inside. They ask nothing of any network. Every number and
answer in a sentence is counted again by tests/test_gallery.py; where the page computes
it, a browser is asked too.
"""

import argparse
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import minqwen
from minqwen import analyse
from minqwen.errors import InputError
from minqwen.files import ASSETS, write_whole
from minqwen.widgets.explore import live_page, page

from .sample_trace import asked, recorded

NOTE = "The key is in the drawer. Now the key is in the garage. Where is the key?"
WHO = "Who are you?"
# What is changed in the second of two traces: the head, whose memory is recorded too;
# the question's messages; and the cause.
CAUSES = {
    "deleted": (
        (0, 1),
        asked("note"),
        lambda model, head: analyse.edited(model, head, 25, beta=0),
    ),
    "unseen": (
        (5, 6),
        asked("picture"),
        lambda model, head: analyse.skipped(model, heads=[head]),
    ),
}


@dataclass(frozen=True)
class Finding:
    """One sentence, and where it can be seen: a page's name and an address in it."""

    name: str
    title: str
    says: str
    page: str
    at: str

    @property
    def link(self):
        return f"{self.page}.html#{self.at}"


def live(question, without):
    return f"ask={quote(question, safe='')},without={without}"


FINDINGS = [
    Finding(
        "attention", "The note is fetched by one layer's attention",
        "Asked where the key is, the model answers from the note. With the "
        "attention of layer 3 switched off it writes “I was not told.”; without "
        "that of layer 7 the answer stays as it was.",
        "live", live(NOTE, "3"),
    ),
    Finding(
        "stutter", "One expert is all that stands between it and a stutter",
        "Asked who it is, without expert 6 of layer 6 it writes “Qwen3.5 in in in "
        "in” to the end of its room. With it: “a Qwen3.5 in all but size.”",
        "live", live(WHO, "6.6"),
    ),
    Finding(
        "variant", "Another expert decides which of its answers it gives",
        "Asked who it is, without expert 2 of layer 3 it writes “I am minqwen's "
        "tiny model, a tiny language model.”",
        "live", live(WHO, "3.2"),
    ),
    Finding(
        "silenced", "A head of the first layer knows that the note was overwritten",
        "The key is in the drawer, then in the garage. With head 1 of layer 0 "
        "silenced, the model answers “The key is in the drawer.”, what was true "
        "before.",
        "live", live(NOTE, "0.m1"),
    ),
    Finding(
        "deleted", "One write deleted, one word is another",
        "Of all that 48 heads write of this note, one write is left out: that of "
        "head 1 of layer 0 at token 25, “ in”. Now the key is “on the box”, as it "
        "was “on the table” before.",
        "deleted", "token=47",
    ),
    Finding(
        "unseen", "The picture passes through one memory",
        "Shown a seven, with head 6 of layer 5 silenced the model writes “I see no "
        "picture.”",
        "unseen", "token=26",
    ),
    Finding(
        "frames", "An expert for the film",
        "Expert 0 of layer 1 reads all 18 patches of the film, and 25 of its 66 "
        "tokens.",
        "film", "layer=1,expert=0",
    ),
    Finding(
        "digits", "An expert for time",
        "Expert 9 of layer 4 reads all 6 digits of the film's time stamps, among 10"
        " tokens.",
        "film", "layer=4,expert=9",
    ),
    Finding(
        "carried", "Patches keep their experts, words do not",
        "From one patch of the film to the next, 43 % of the experts stay the same;"
        " from one token of its text to the next, 24 %.",
        "film", "all",
    ),
    Finding(
        "patches", "Four patches, one expert",
        "Expert 11 of layer 2 reads 6 of 30 tokens, and all 4 patches of the "
        "picture are among them.",
        "picture", "layer=2,expert=11",
    ),
    Finding(
        "ends", "The end of every turn",
        "Expert 5 of layer 3 reads every <|im_end|>. Masked alone it moves the "
        "answers of all 7 tasks further than any other of 128 experts: by 0.10 to "
        "0.86 bits, the three most like it in load by 0.01 at most.",
        "note", "layer=3,expert=5",
    ),
    Finding(
        "gaps", "An expert for gaps",
        "Expert 8 of layer 7 reads 7 of 51 tokens, and every one is a space or a "
        "line's end.",
        "note", "layer=7,expert=8",
    ),
    Finding(
        "close", "Many choices are close",
        "In layer 1, 45 % of the note's choices were made by less than 0.1 logits; "
        "in layer 3, 16 %.",
        "note", "layer=1",
    ),
    Finding(
        "lives", "Memories of every length",
        "Half of what head 2 of layer 2 holds is forgotten after 1,120 tokens; of "
        "head 0 of layer 0, after 0.05.",
        "note", "view=memory,head=4.5",
    ),
]  # fmt: skip

HEAD = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>What the small model does inside</title>
<style>
html { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60em; margin: 24px auto; padding: 0 16px; }
ol { padding: 0; display: grid; gap: 14px 28px; list-style: none;
  grid-template-columns: repeat(auto-fill, minmax(18em, 1fr)); }
li { border-top: 1px solid; padding-top: 6px; }
h2 { font-size: 1em; margin: 0; }
p { margin: 4px 0; }
</style>
<h1>What the small model does inside</h1>
<p>Findings on <code>assets/tiny</code>, a Qwen3.5 in all but size. Each link opens the explorer
where it can be seen. Where the model is in the page, press Answer.</p>
<ol>
"""  # noqa: E501


def index():
    """The page of findings: their words are data, never markup."""
    parts = []
    for f in FINDINGS:
        links = f'<a href="{escape(f.link)}">See it</a>'
        if f.page in CAUSES:
            links += f' · <a href="{f.page}-beside.html#all,other">beside the whole</a>'
        text = f"<h2>{escape(f.title)}</h2><p>{escape(f.says)}</p><p>{links}</p>"
        parts.append(f"<li>{text}</li>\n")
    return HEAD + "".join(parts) + "</ol></html>\n"


def before_and_after(model, processor, name):
    """The two traces of a cause: without it, and with it."""
    head, messages, cause = CAUSES[name]
    found = []
    for block in (nullcontext(), cause(model, head)):
        with block:
            trace = recorded(model, processor, messages, [head])
            found.append(minqwen.Trace(trace.meta, trace.tensors))
    return found


def pages():
    """{name: HTML} of all that the findings lead to."""
    model = minqwen.load(ASSETS / "tiny")
    processor = minqwen.Processor.load(ASSETS / "tiny")
    made = {"live": live_page(ASSETS / "tiny")}
    for name in ("note", "picture", "film"):
        trace = minqwen.Trace.load(ASSETS / f"{name}.safetensors")
        made[name] = page([trace], names=[name])
    for name in CAUSES:
        both = before_and_after(model, processor, name)
        made[name] = page(both[1:], names=[name])
        made[f"{name}-beside"] = page(both, names=["as it is", name])
    return made


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m tools.gallery", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder")
    out = parser.parse_args(arguments).out
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, html in (pages() | {"index": index()}).items():
            write_whole(out / f"{name}.html", html.encode())
    except (InputError, OSError) as error:
        sys.exit(f"minqwen: {error}")
    print(f"{len(FINDINGS)} findings: {out / 'index.html'}")


if __name__ == "__main__":
    main()
