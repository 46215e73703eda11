"""The model in the page beside Python on the same int8 weights; and the page."""

import json
import re
from contextlib import nullcontext
from functools import partial

import chromium
import numpy as np
import pytest
import torch
from PIL import Image
from views import violations

import minqwen
from minqwen import analyse
from minqwen.engine.sampling import probabilities
from minqwen.files import ASSETS
from minqwen.model.moe import route
from minqwen.model.taps import listen
from minqwen.trace import Trace
from minqwen.train.cases import CASES
from minqwen.train.corpus.pictures import one_digit
from minqwen.weights.convert import convert
from minqwen.widgets import live as live_files
from minqwen.widgets.bundle import bundle
from minqwen.widgets.explore import live_page
from tests.tiny_models import small_model

pytestmark = pytest.mark.slow

NOTE = (
    "The key is on the table. The lamp is in the hall. Now the key is in the box. "
    "Where is the key?"
)
TOOLS = """
import { readFileSync, writeFileSync } from "node:fs";
const [folder, given] = process.argv.slice(2);
const file = (name) => readFileSync(`${folder}/${name}`);
const config = JSON.parse(file("config.json"));
const words = JSON.parse(file("tokenizer.json"));
const tokenizer = new module_live_tokenizer.Tokenizer(words);
const input = JSON.parse(readFileSync(given));
const loaded = () => new module_live_model.Model(
  config, module_live_weights.readWeights(new Uint8Array(file("model.safetensors"))));
const pixels = (given) => ({ ...given, data: Uint8Array.from(given.data) });
const tell = (value) => console.log(JSON.stringify(value));
"""
ANSWER = """
const model = loaded();
const found = [];
for (const { messages, pictures, thinking, most, off = [] } of input) {
  const cuts = off.map(([mixer, ids, heads, writes = []]) => ({
    mixer, experts: new Set(ids), heads: new Set(heads),
    writes: new Map(writes.map(([t, head, beta]) => [t, new Map([[head, beta]])])),
  }));
  const shown = pictures.map(pixels);
  const asked = { messages, pictures: shown, thinking, most, off: cuts };
  const { text, reason, bytes, choices } = await module_live_answer.answer(
    model, tokenizer, asked, () => {}, async () => true);
  writeFileSync(`${given}.${found.length}`, bytes);
  found.push({ text, reason, choices });
}
const both = found.slice(0, 2).map(({ choices }) => choices);
const change = both[1] ? module_live_answer.moved(...both, tokenizer) : null;
tell(found.map(({ text, reason }) => ({ text, reason, change })));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """assets/tiny as int8."""
    folder = tmp_path_factory.mktemp("live") / "int8"
    convert(ASSETS / "tiny", folder, "int8")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return minqwen.load(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def processor(folder):
    return minqwen.Processor.load(folder)


def told(code, folder, given, tmp_path, timeout=600):
    path = tmp_path / "given"
    path.write_text(json.dumps(given))
    modules = bundle("live/worker.mjs")
    return json.loads(
        chromium.node(modules + TOOLS + code, folder, path, timeout=timeout)
    )


def pixels(picture):
    """RGBA, as a canvas has it."""
    data = np.asarray(picture.convert("RGBA"))
    return {
        "width": picture.width,
        "height": picture.height,
        "data": data.ravel().tolist(),
    }


def drawn(seed):
    """A picture of a digit, as the card measures it."""
    scenes, _ = one_digit(np.random.default_rng(seed), 1.0, True)
    return Image.fromarray(np.asarray(scenes[0].picture)).convert("RGB")


def asked(count):
    """Conversations of all kinds that have text, or one picture, alone."""
    texts = [case for case in CASES if case.task in ("notes", "sums", "about")]
    chats = []
    for i in range(count):
        case = texts[i % len(texts)]
        if case.long:
            continue
        chat = case.chats(i + 1)[i]
        messages = [
            {"role": m["role"], "text": m["content"], "pictures": 0}
            for m in chat.messages[:-1]
        ]
        thinking = "thinking" in case.what
        chats.append({"messages": messages, "pictures": [], "thinking": thinking})
        question = {"role": "user", "text": "Which digit is this?", "pictures": 1}
        chats.append(
            {"messages": [question], "pictures": [drawn(i)], "thinking": False}
        )
    return chats


def inputs(processor, chat):
    """The same conversation through the Processor."""
    pictures, messages = iter(chat["pictures"]), []
    for message in chat["messages"]:
        shown = [
            {"type": "image", "image": next(pictures)}
            for _ in range(message["pictures"])
        ]
        content = [*shown, {"type": "text", "text": message["text"]}]
        messages.append({"role": message["role"], "content": content})
    return processor.chat(messages, thinking=chat["thinking"])


def test_it_writes_what_python_writes(folder, model, processor, tmp_path, count=12):
    """And its trace is what `record` gives of the same tokens."""
    chats = [chat | {"most": 80} for chat in asked(count)]
    given = [c | {"pictures": [pixels(p) for p in c["pictures"]]} for c in chats]
    found = told(ANSWER, folder, given, tmp_path)
    for i, (chat, said) in enumerate(zip(chats, found, strict=True)):
        prompt = inputs(processor, chat)
        steps = list(minqwen.generate(model, prompt, 80, processor=processor, draft=0))
        text = "".join(step.text for step in steps if not step.thinking)
        assert said["text"] == text.lstrip("\n"), chat
        trace = Trace.load(f"{tmp_path / 'given'}.{i}")
        ids = prompt["input_ids"][0].tolist() + [step.token for step in steps]
        ids = ids[: trace.length]
        assert trace["token_ids"].tolist() == ids
    heads = [(0, 0), (6, 7)]
    with minqwen.record(model, states=heads, norms=True) as want:
        pictures = {k: v for k, v in prompt.items() if "pixel" in k or "grid" in k}
        with torch.inference_mode():
            model(torch.tensor([ids]), **pictures)
    assert trace.meta["pictures"] == want.meta["pictures"]
    assert trace.meta["layer_types"] == want.meta["layer_types"]
    for name in want.tensors:
        mine, other = trace[name].astype(float), want[name].astype(float)
        assert np.abs(mine - other).max() < 2e-2 * max(1, np.abs(other).max()), name


def test_what_is_switched_off_is_off_in_python(folder, model, processor, tmp_path):
    """Experts 5 and 7 of layer 2, the memory of layer 4, two heads of layer 5's."""

    def refuse(layer, weights, ids, logits):
        if layer != 2:
            return None
        weights, ids = route(logits.index_fill(1, torch.tensor([5, 7]), -torch.inf), 2)
        return {"weights": weights, "ids": ids}

    def silence(layer, x):
        return {"x": torch.zeros_like(x)} if layer == 4 else None

    off = [[i == 4, [5, 7] * (i == 2), [1, 6] * (i == 5)] for i in range(8)]
    chats = [chat | {"most": 40} for chat in asked(4)]
    given = [
        c | {"pictures": [pixels(p) for p in c["pictures"]], "off": off} for c in chats
    ]
    found = told(ANSWER, folder, given, tmp_path)
    for i, (chat, said) in enumerate(zip(chats, found, strict=True)):
        prompt = inputs(processor, chat)
        heads = analyse.skipped(model, heads=[(5, 1), (5, 6)])
        with listen(model, router=refuse, attn_out=silence), heads:
            steps = minqwen.generate(model, prompt, 40, processor=processor, draft=0)
            text = "".join(step.text for step in steps if not step.thinking)
        assert said["text"] == text.lstrip("\n"), chat
        ids = Trace.load(f"{tmp_path / 'given'}.{i}")["expert_ids"]
        assert not np.isin(ids[:, 2], [5, 7]).any() and np.isin(ids, [5, 7]).any()


@pytest.mark.parametrize("place, beta", [((0, 1), 0.0), ((2, 4), 0.25)])
def test_a_changed_write_is_pythons(
    folder, model, processor, tmp_path, place, beta, token=25
):
    """What is written then, what was fed, and how the next token's shares moved."""
    message = {"role": "user", "text": NOTE, "pictures": 0}
    chat = {"messages": [message], "pictures": [], "thinking": False, "most": 40}
    layer, head = place
    off = [[False, [], [], [[token, head, beta]] * (n == layer)] for n in range(8)]
    found = told(ANSWER, folder, [chat, chat | {"off": off}], tmp_path)
    prompt = inputs(processor, chat)
    answers, shares = [], []
    for edit in (nullcontext, partial(analyse.edited, model, place, token, beta=beta)):
        with edit(), minqwen.record(model, states=[place]) as want:
            steps = minqwen.generate(model, prompt, 40, processor=processor, draft=0)
            answers.append([step.token for step in steps])
            ids = torch.tensor([prompt["input_ids"][0].tolist() + answers[0]])
        with edit(), torch.inference_mode():
            at = len(prompt["input_ids"][0]) - 1
            shares.append(model(ids)[0, at:].double().softmax(-1))
        assert found[len(shares) - 1]["text"] == processor.decode(answers[-1])
    fed = Trace.load(f"{tmp_path / 'given'}.1")[f"delta.{layer}.{head}.beta"]
    assert fed[token] == np.float32(beta)
    n = min(len(fed), len(want[f"delta.{layer}.{head}.beta"]))
    assert np.abs(fed - want[f"delta.{layer}.{head}.beta"])[:n].max() < 1e-3
    p, q = shares
    kl = (p * (p / q).log2()).sum(-1)
    pairs = zip(*answers, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), int(kl.argmax()))
    change = found[0]["change"]
    assert change["bits"] == pytest.approx(kl[at].item(), rel=1e-2)
    assert change["text"] == processor.decode(answers[0][:at])
    want = torch.maximum(p, q)[at].topk(5).indices
    for id, (text, before, after) in zip(want, change["rows"], strict=True):
        assert text == processor.decode([id], skip_special=False)
        assert (before, after) == pytest.approx(
            (p[at, id].item(), q[at, id].item()), abs=1e-3
        )


def test_what_an_expert_does_is_pythons(folder, model, tmp_path, most=24):
    """KL of the busiest experts, of which no more are masked when told to stop."""
    found = told("""
const model = loaded();
const messages = [{ role: "user", text: input.text }];
const { read } = await module_live_answer.answer(
  model, tokenizer, { messages, most: 6 }, () => {}, async () => true);
const told = [];
const whole = await module_live_causes.causes(
  model, read, (event) => told.push(event), async () => told.length <= input.most);
const all = Array.from({ length: model.embedding.rows }, (_, id) => id);
const ids = read.map(({ x }) =>
  all.find((id) => model.embed(id).every((value, i) => value === x[i])));
tell({ told, whole, ids });
""", folder, {"text": "Who are you?", "most": most}, tmp_path)  # fmt: skip
    assert not found["whole"]
    (uses, *told_of) = found["told"]
    assert len(told_of) >= most
    experts = {}
    for cause in told_of:
        experts.setdefault(cause["layer"], []).append(cause["expert"])
    ids = torch.tensor([found["ids"]])
    want = analyse.causal_map(model, {"input_ids": ids}, experts=experts)
    assert (np.array(uses["chosen"]) == want.load * ids.numel()).all()
    busy = np.sort(want.load[want.load > 0] * ids.numel())[::-1]
    assert [cause["count"] for cause in told_of] == busy[: len(told_of)].tolist()
    for cause in told_of:
        kl = want.kl[cause["layer"], cause["expert"]]
        assert cause["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-5), cause
    assert np.nanmax(want.kl) > 0.1


def test_logits_are_those_of_python(folder, model, processor, tmp_path):
    (chat,) = asked(1)[1:]
    prompt = inputs(processor, chat)
    with torch.inference_mode():
        want = model(**prompt)[0].numpy()
    given = {"picture": pixels(chat["pictures"][0])}
    found = told("""
const model = loaded();
const { width, height, data } = pixels(input.picture);
const [rows, columns] = [height / 16, width / 16];
const places = module_live_tower.inBlocks(rows, columns, 2);
const patches = module_live_chat.patchesOf({ width, height, data }, places);
const vectors = model.tower.see(patches, rows, columns);
const messages = [{ role: "user", text: "Which digit is this?", pictures: 1 }];
const grids = [[rows / 2, columns / 2]];
const prompt = module_live_chat.promptOf(messages);
const ids = module_live_chat.idsOf(tokenizer, prompt, grids);
const { tokens } = module_live_model.placed(ids, grids, tokenizer.id("<|image_pad|>"));
const memory = model.memory();
const heard = () => ({ router() {}, rule() {} });
tell(tokens.map(({ id, position, patch }) => {
  const x = patch === undefined ? model.embed(id) : vectors[patch];
  return Array.from(model.logits(model.step(x, position, memory, heard)));
}));
""", folder, given, tmp_path)  # fmt: skip
    assert np.abs(np.array(found) - want).max() < 1e-3


ODD = [
    "", " ", "a", "It's 12,345  miles\r\n\r\n\tto go…", "don'T WE'LL I'M you'd",
    "naïve e\u0301", "שלום עולם", "日本語 한국어", "🙂👩\u200d👧", "\u200b\ufeffx",
    "x\u0085y\u00a0z", "<|im_end|>a<think>", "foo_bar(x=1)  # why\n    return",
    "it\u017f 'ſ", "\x00\x1f", "'''", "ﬁ Å",
]  # fmt: skip


def test_the_tokenizer_is_the_librarys(folder, processor, tmp_path):
    rng = np.random.default_rng(0)
    letters = "abcXYZ 019\n\t'\"!?.,_-éßЖש中🙂\u0301"
    texts = ODD + ["".join(rng.choice(list(letters), 40)) for _ in range(300)]
    found = told("""
tell(input.map((text) => {
  const ids = tokenizer.encode(text);
  return [ids, tokenizer.texts(ids).join("")];
}));
""", folder, texts, tmp_path)  # fmt: skip
    for text, (ids, back) in zip(texts, found, strict=True):
        assert ids == processor.encode(text), repr(text)
        assert back == processor.decode(ids, skip_special=False), repr(text)


def test_the_prompt_is_the_templates(folder, processor, tmp_path):
    history = [
        {"role": "user", "text": "What is it?", "pictures": 1},
        {"role": "assistant", "text": "This is the digit 3."},
        {"role": "user", "text": "And <b>this</b>?\n", "pictures": 1},
    ]
    shown = [drawn(0).resize((96, 64)), drawn(1)]
    for thinking in (False, True):
        given = {"messages": history, "thinking": thinking, "grids": [[2, 3], [2, 2]]}
        found = told("""
const { messages, thinking, grids } = input;
const prompt = module_live_chat.promptOf(messages, thinking);
tell(module_live_chat.idsOf(tokenizer, prompt, grids));
""", folder, given, tmp_path)  # fmt: skip
        chat = {"thinking": thinking, "pictures": [shown[0], shown[1].resize((64, 64))]}
        messages = [{"pictures": 0} | message for message in history]
        want = inputs(processor, chat | {"messages": messages})
        assert found == want["input_ids"][0].tolist()


@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (5, 1.0), (0, 0.6), (20, 0.9)])
def test_a_draw_means_the_same_as_in_python(folder, tmp_path, top_k, top_p):
    rng = np.random.default_rng(1)
    logits, numbers = rng.normal(0, 3, 50), rng.random(200)
    given = {"logits": logits.tolist(), "numbers": numbers.tolist(),
             "how": {"temperature": 0.7, "topK": top_k, "topP": top_p}}  # fmt: skip
    found = told("""
const { logits, numbers, how } = input;
tell(numbers.map((n) => module_live_sampling.choose(logits, how, () => n)));
""", folder, given, tmp_path)  # fmt: skip
    p = probabilities(torch.tensor(logits), 0.7, top_k, top_p)
    want = torch.searchsorted(p.cumsum(0), torch.tensor(numbers), right=True)
    assert found == want.tolist()


# ---- the page


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "live.html"
    path.write_text(live_page(ASSETS / "tiny"))
    return path


def waited(page, condition, seconds=120):
    """Poll: the page's policy forbids playwright's own way to wait."""
    for _ in range(seconds * 10):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never came: {condition}")


@pytest.fixture
def live(new_page, html):
    page = new_page(viewport={"width": 1280, "height": 900})
    page.goto(html.as_uri())
    waited(page, "performance.getEntriesByName('ready').length > 0")
    return page


def answered(page, text=None, button="Answer"):
    """What the log says when the model has answered."""
    if text is not None:
        page.get_by_label("What to say to the model").fill(text)
    answer = page.get_by_role("button", name=button)
    answer.click()  # which disables it, until the answer is there
    for _ in range(1200):
        if answer.is_enabled():
            return page.get_by_role("log").inner_text()
        page.wait_for_timeout(100)
    raise AssertionError("never answered")


def test_the_page_answers_and_shows_what_happened(live, html):
    assert html.stat().st_size < 12e6
    log = answered(live, "The key is in the drawer. Now the key is in the garage. "
                   "Where is the key?")  # fmt: skip
    assert log.split("model")[-1].strip() == "The key is in the garage."
    assert "the model in this page" in live.title()
    tab = live.get_by_role("tab", name="Experts")
    assert tab.get_attribute("aria-selected") == "true"
    live.get_by_role("tab", name="Memory").click()
    live.get_by_role("heading", name="A memory as it is written").wait_for()
    assert live.get_by_label("head").locator("option").count() == 48


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(new_page, html, scheme):
    page = new_page(viewport={"width": 900, "height": 900}, color_scheme=scheme,
                    bypass_csp=True)  # fmt: skip
    page.goto(html.as_uri())
    waited(page, "performance.getEntriesByName('ready').length > 0")
    answered(page, "Hello")
    page.get_by_role("button", name="What does each expert do?").click()
    page.get_by_text("s left").wait_for()
    page.get_by_role("button", name="Stop masking").click()
    page.get_by_role("button", name="Draw a picture").click()
    page.locator(".glow canvas").click(position={"x": 20, "y": 18 + 14 * 4 + 7})
    assert violations(page) == []


def test_it_goes_on_in_turn_and_begins_anew(live):
    answered(live, "My name is Ada.")
    log = answered(live, "What is my name?")
    assert "Ada" in log.split("model")[-1]
    live.get_by_role("button", name="New chat").click()
    assert "Ada" not in live.get_by_role("log").inner_text()


def test_an_expert_is_switched_off_and_the_answers_compared(live):
    answered(live, "Tom has 3 pears. Now Tom has 6 pears. How many pears has Tom?")
    live.get_by_label("layer", exact=True).first.select_option("2")
    live.get_by_label("part", exact=True).select_option("5")
    live.get_by_role("button", name="Switch").click()
    live.get_by_text("Switched off: layer 2's expert 5.").wait_for()
    answered(live, button="Ask again")
    assert "layer 2's expert 5" in live.get_by_role("log").inner_text()
    assert "beside “asked again”" in live.get_by_role("banner").inner_text()
    live.locator(".glow canvas").click(position={"x": 20, "y": 18 + 14 * 4 + 7})
    live.get_by_text("layer 4's memory").wait_for()
    live.get_by_label("part", exact=True).select_option("memory 3")
    live.get_by_label("layer", exact=True).first.select_option("3")
    live.get_by_role(
        "button", name="Switch"
    ).click()  # attention has no memory of this kind
    live.get_by_label("layer", exact=True).first.select_option("5")
    live.get_by_role("button", name="Switch").click()
    live.get_by_text("layer 5's memory 3.").wait_for()


def test_a_write_is_deleted_at_a_token_and_the_next_one_moves(live):
    answered(live, NOTE)
    live.get_by_role("tab", name="Memory").click()
    live.get_by_label("memory that writes").select_option("layer 0, memory 1")
    live.get_by_label("token of the write").fill("25")
    live.get_by_text("“␣in”").wait_for()
    live.get_by_role("button", name="Change").click()
    live.get_by_text("layer 0's write of memory 1 at token 25 (beta 0).").wait_for()
    said = answered(live, button="Ask again").split("model changed")[-1]
    assert "The key is on the box." in said and "moved by" in said
    before, now, *_ = re.findall(r"([\d.]+) %", said)
    assert float(before) > 90 and float(now) < 50, said
    live.get_by_role("button", name="Change").click()  # once more: its own again
    assert live.get_by_text("Changed:").count() == 0


@pytest.mark.parametrize(
    "write, said",
    [
        ("0.1.25", "Changed: layer 0's write of memory 1 at token 25 (beta 0)."),
        ("3.1.25", None),  # attention
        ("0.8.25", None),
        ("99.1.25", None),
        ("0.1", None),
        ("0.1.25.1", None),
    ],
)
def test_an_address_deletes_a_write_that_is_there(new_page, html, write, said):
    page = new_page()
    page.goto(f"{html.as_uri()}#ask=Hello,write={write}")
    waited(page, "performance.getEntriesByName('ready').length > 0")
    assert page.get_by_label("What to say to the model").input_value() == "Hello"
    found = page.get_by_text("Changed: ")
    assert found.all_inner_texts() == ([said] if said else [])


def test_a_map_of_what_each_expert_does(live):
    answered(live, "Hello")
    live.get_by_role("button", name="What does each expert do?").click()
    live.get_by_text("s left").wait_for()
    read = re.search(r"(\d+) tokens read, (\d+) w", live.locator(".live").inner_text())
    tokens = int(read[1]) + int(read[2])
    live.get_by_text(f"the mean over the {tokens} tokens of this").wait_for()
    waited(
        live,
        """document.querySelector("body > div").shadowRoot
        .querySelectorAll(".effects .masked").length > 9""",
    )
    live.get_by_role("button", name="Stop masking").click()
    live.get_by_text("Stopped: ").wait_for()
    live.locator(".effects .masked").nth(3).click()
    layer, expert = re.match(
        r"layer (\d+), expert (\d+): ",
        live.locator(".effects .masked").nth(3).get_attribute("title"),
    ).groups()
    live.get_by_role("heading", name=f"Layer {layer}, expert {expert}").wait_for()
    live.get_by_role("button", name="What does each expert do?").click()
    answered(live, "Hello again")  # which ends the map
    assert live.locator(".effects").count() == 0


def test_a_drawn_digit_is_read(live):
    live.get_by_role("button", name="A drawn digit").click()
    box = live.get_by_label("A square to draw in with a pointer").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"]
    live.mouse.move(x, y + 30)
    live.mouse.down()
    live.mouse.move(x, y + 160, steps=8)
    live.mouse.up()
    assert answered(live).endswith("This is the digit 1.")


def test_it_stops_when_told(live):
    long = "Say this four times:\n" + "x " * 300
    live.get_by_label("What to say to the model").fill(long)
    live.get_by_role("button", name="Answer").click()
    live.get_by_text("reading:").wait_for()
    live.get_by_role("button", name="Stop").click()
    live.get_by_text("; stopped").wait_for(timeout=60_000)


def test_typed_text_is_data(live):
    hostile = "<img src=x onerror=alert(1)></script><b>\u202e <|im_end|><|image_pad|>"
    live.get_by_label("What to say to the model").fill(hostile)
    live.get_by_role("button", name="Answer").click()
    live.get_by_text("That failed: the text holds 1").wait_for()
    assert "⟨U+202E⟩" in live.get_by_role("log").inner_text()
    assert "Hello" in answered(live, "Hello")


def test_what_a_page_cannot_hold_is_refused(tmp_path, run, monkeypatch):
    minqwen.save(small_model(moe=False), tmp_path / "dense")
    words = r"has [\d,]+ parameters and no experts; a page can hold"
    with pytest.raises(minqwen.InputError, match=words):
        live_files.model_files(tmp_path / "dense")
    monkeypatch.setattr(live_files, "MOST", 10)
    with pytest.raises(minqwen.InputError, match="of up to 10"):
        live_files.model_files(ASSETS / "tiny")
    code, _, err = run("explore", "--live", "--other", "x")
    assert code == 1 and "and no --live" in err
