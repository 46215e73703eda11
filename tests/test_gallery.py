"""The gallery: every number in a finding's sentence, counted again from the model."""

import json
from contextlib import nullcontext

import numpy as np
import pytest

import minqwen
from minqwen import analyse
from minqwen.files import ASSETS
from minqwen.widgets.address import FORMS
from tools import gallery
from tools.gallery import FINDINGS, NOTE, WHO

BY_NAME = {finding.name: finding for finding in FINDINGS}


@pytest.fixture(scope="module")
def model():
    return minqwen.load(ASSETS / "tiny")


@pytest.fixture(scope="module")
def processor():
    return minqwen.Processor.load(ASSETS / "tiny")


@pytest.fixture(scope="module")
def written(model, processor):
    """written(messages, block): the model's greedy answer within a cause."""

    def written(messages, block=None):
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        inputs = processor.chat(messages)
        with block or nullcontext():
            steps = minqwen.generate(model, inputs, 60, processor=processor)
            return "".join(step.text for step in steps)

    return written


def sample(name):
    return minqwen.Trace.load(ASSETS / f"{name}.safetensors")


def patches(trace):
    found = np.zeros(trace.length, bool)
    for picture in trace.meta["pictures"]:
        start, size = picture["start"], picture["rows"] * picture["columns"]
        found[start : start + size] = True
    return found


def read_by(trace, layer, expert):
    """Whether each token is sent to this expert."""
    return (trace["expert_ids"][:, layer] == expert).any(1)


def says(name, *parts):
    """The sentence, which must have these parts, in order."""
    at, text = 0, BY_NAME[name].says
    for part in parts:
        assert part in text[at:], f"{name}: {part!r} is not in {text[at:]!r}"
        at = text.index(part, at) + len(part)


# ---- causes


def test_the_note_is_fetched_by_layer_3(model, written):
    whole = written(NOTE)
    says("attention", written(NOTE, analyse.skipped(model, mixers=[3])))
    assert whole == "The key is in the garage."
    assert written(NOTE, analyse.skipped(model, mixers=[7])) == whole


def test_masked_experts_change_what_it_says_of_itself(model, written):
    without = written(WHO, analyse.masked(model, {6: [6]}))
    assert without.endswith(" in" * 30)
    assert "Qwen3.5 in in in in" in without
    whole = written(WHO)
    assert whole.endswith("a Qwen3.5 in all but size.")
    says("stutter", "“Qwen3.5 in in in in”", "a Qwen3.5 in all but size.")
    says("variant", written(WHO, analyse.masked(model, {3: [2]})))


def test_a_silenced_head_and_a_deleted_write(model, processor, written):
    says("silenced", written(NOTE, analyse.skipped(model, heads=[(0, 1)])))
    before, after = gallery.before_and_after(model, processor, "deleted")
    assert before.tokens[25] == after.tokens[25] == " in"
    says("deleted", "48 heads", "token 25, “ in”", "“on the box”", "“on the table”")
    beta = after["delta.0.1.beta"]
    assert beta[25] == 0 and (before["delta.0.1.beta"][:25] == beta[:25]).all()
    assert "".join(before.tokens).endswith("The key is in the box.")
    assert "".join(after.tokens).endswith("The key is on the box.")
    assert "".join(before.tokens).count("on the table") == 1
    kinds = model.cfg.text.layer_types
    delta = kinds.count("linear_attention") * model.cfg.text.linear_num_value_heads
    assert delta == 48


def test_the_picture_passes_through_one_head(model, written):
    messages = gallery.asked("picture")
    assert written(messages) == "This is the digit 7."
    silenced = written(messages, analyse.skipped(model, heads=[(5, 6)]))
    assert silenced == "I see no picture."
    says("unseen", "head 6 of layer 5", silenced)


def test_the_end_of_every_turn(model, processor):
    found = json.loads((ASSETS / "tiny/experiments/causes.json").read_bytes())["tasks"]
    tops = [next(iter(row["alone"].items())) for row in found.values()]
    assert {place for place, _ in tops} == {"3.5"} and len(tops) == 7
    kls = [numbers["kl"] for _, numbers in tops]
    most = max(numbers["control"] for _, numbers in tops)
    says(
        "ends",
        "all 7 tasks",
        "128 experts",
        f"by {min(kls):.2f} to {max(kls):.2f} bits",
    )
    says("ends", f"by {np.ceil(most * 100) / 100:.2f} at most")
    ends = [trace for trace in map(sample, ("note", "picture", "film"))]
    for trace in ends:
        where = [t for t, text in enumerate(trace.tokens) if text == "<|im_end|>"]
        assert where and read_by(trace, 3, 5)[where].all()


def test_the_table_of_causes_is_what_the_experiment_wrote():
    text = (ASSETS.parent / "docs" / "inside.md").read_text()
    found = json.loads((ASSETS / "tiny/experiments/causes.json").read_bytes())["tasks"]
    for task, row in found.items():
        others, right = row["controls"]["kl"], (row["whole right"], row["right"])
        shares = ", ".join(f"{share * 100:.0f} %" for share in right)
        told = ["yes" if row[word] else "no" for word in ("matters", "its own")]
        line = f"| {task} | {row['kl']:.3f} | {np.mean(others):.3f}, {max(others):.3f} "
        assert f"{line}| {shares} | {told[0]} | {told[1]} |" in text
        name = "rate difference and kl, rank correlation"
    ranks = [row[name] for row in found.values()]
    assert f"by {min(ranks):.2f} to {max(ranks):.2f}" in text
    tops = [next(iter(row["alone"].values())) for row in found.values()]
    kls, controls = ([top[n] for top in tops] for n in ("kl", "control"))
    alone = f"{min(kls):.2f} to {max(kls):.2f} bits, while the three as busy come to "
    assert f"{alone}{max(controls):.3f} at most" in text


# ---- counts


def test_experts_of_patches_and_digits():
    film, picture = sample("film"), sample("picture")
    frames, own = patches(film), read_by(film, 1, 0)
    assert own[frames].all()
    says(
        "frames",
        f"all {frames.sum()} patches",
        f"{own.sum()} of its {film.length} tokens",
    )
    digits = np.array([text.isdigit() for text in film.tokens])
    own = read_by(film, 4, 9)
    assert own[digits].all()
    says("digits", f"all {digits.sum()} digits", f"among {own.sum()} tokens")
    own, seen = read_by(picture, 2, 11), patches(picture)
    assert own[seen].all()
    says(
        "patches",
        f"{own.sum()} of {picture.length} tokens",
        f"all {seen.sum()} patches",
    )


def test_what_patches_keep():
    film = sample("film")
    chose = analyse.counts.chosen(film)
    kept = (chose[1:] & chose[:-1]).sum(2).mean(1) / 2
    seen = patches(film)
    both, none = seen[1:] & seen[:-1], ~seen[1:] & ~seen[:-1]
    says("carried", f"{kept[both].mean():.0%}".replace("%", " %"))
    says("carried", "43 %", f"{kept[none].mean():.0%}".replace("%", " %"))


def test_gaps_and_close_choices_and_half_lives():
    note = sample("note")
    own = read_by(note, 7, 8)
    texts = {text for text, mine in zip(note.tokens, own, strict=True) if mine}
    assert {"\n", "\n\n"} <= texts and not any(text.strip() for text in texts)
    says("gaps", f"{own.sum()} of {note.length} tokens")
    close = (note["router_margin"].astype(float) < 0.1).mean(0)
    says(
        "close", f"layer 1, {close[1] * 100:.0f} %", f"layer 3, {close[3] * 100:.0f} %"
    )
    lives = analyse.half_lives(note)
    assert max(lives, key=lives.get) == (2, 2) and min(lives, key=lives.get) == (0, 0)
    says("lives", f"{round(lives[2, 2], -1):,.0f} tokens", f"after {lives[0, 0]:.2f}.")


# ---- the pages


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery") / "out"
    gallery.main([str(folder)])
    return folder


@pytest.mark.slow
def test_what_the_command_writes(folder):
    index = (folder / "index.html").read_text()
    assert len(FINDINGS) >= 12 and len(BY_NAME) == len(FINDINGS)
    assert index.count("<li>") == len(FINDINGS) and "<script" not in index
    assert "&lt;|im_end|&gt;" in index, "words are data"
    for finding in FINDINGS:
        assert (folder / f"{finding.page}.html").exists()
        keys = {part.split("=")[0] for part in finding.at.split(",")}
        assert keys <= {*FORMS, "ask", "without", "other"}
    with pytest.raises(SystemExit, match="minqwen: "):
        gallery.main([str(folder / "index.html")])
