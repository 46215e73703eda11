"""Traces: what is recorded against transformers and the rule itself; files; imports."""

import base64
import copy
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from tiny_models import small_model, transformers_twin

import minqwen
from minqwen.errors import InputError
from minqwen.model.delta import delta_recurrent
from minqwen.trace import Trace
from minqwen.trace.engines import from_llama_csv, from_routed_experts, open_trace
from minqwen.trace.trace import token_texts

ROOT = Path(__file__).resolve().parent.parent
HEADS = [(0, 3), (2, 1), (3, 2)]  # two of delta layers, one of the full one


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def processor():
    return minqwen.Processor.load(ROOT / "assets" / "tiny")


def ids(length, rows=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(5, 290, (rows, length), generator=g)


def with_picture(seed=0):
    """A prompt with a picture of 2 x 3 tokens at column 4, as the model takes it."""
    tokens = ids(16, seed=seed)
    tokens[0, 3], tokens[0, 4:10], tokens[0, 10] = 303, 301, 304
    pixels = torch.rand(24, 1536, generator=torch.Generator().manual_seed(seed))
    grid = torch.tensor([[1, 4, 6]])
    return dict(input_ids=tokens, pixel_values=2 * pixels - 1, image_grid_thw=grid)


def record(model, inputs, **options):
    with torch.no_grad(), minqwen.record(model, **options) as trace:
        model(**inputs)
    return trace


def same(a, b):
    assert a.meta == b.meta and a.tensors.keys() == b.tensors.keys()
    for name, array in a.tensors.items():
        near(array, b[name], name)


def near(a, b, name):
    """Equal but for rounding, which may make of an fp16 number its neighbour."""
    step = 2**-10 if a.dtype == np.float16 else 0
    np.testing.assert_allclose(a, b, rtol=step, atol=2e-5, err_msg=name)


# ---- listening changes nothing


def everything(model):
    """All that a recording could leave behind, by module."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs")
    kept = {
        name: ({k: len(vars(m)[k]) for k in hooks}, sorted(vars(m)))
        for name, m in model.named_modules()
    }
    return kept


@pytest.mark.parametrize("inputs", [dict(input_ids=ids(20)), with_picture()])
def test_logits_are_equal_to_the_bit(model, inputs):
    before = everything(model)
    with torch.no_grad():
        plain = model(**inputs)
        with minqwen.record(model, states=HEADS, norms=True):
            assert torch.equal(model(**inputs), plain)
        assert torch.equal(model(**inputs), plain)
    assert everything(model) == before


def test_generation_is_the_same_and_nothing_is_left(model):
    before = everything(model)
    prompt = dict(input_ids=ids(9, rows=2))
    plain = list(minqwen.generate(model, prompt, 8, stop_ids=[]))
    with minqwen.record(model, states=HEADS, norms=True) as trace:
        assert list(minqwen.generate(model, prompt, 8, stop_ids=[])) == plain
    assert everything(model) == before and len(trace.rows) == 2
    written = [[step.token for step in steps] for steps in zip(*plain, strict=True)]
    for row, prompt_ids, tokens in zip(trace.rows, ids(9, 2), written, strict=True):
        assert row["token_ids"].tolist() == prompt_ids.tolist() + tokens[:-1]


def test_gradients_pass_as_before(model):
    with minqwen.record(model, states=HEADS):
        model(ids(6)).square().mean().backward()
    weight = model.model.language_model.layers[0].mlp.gate.weight
    seen, weight.grad = weight.grad, None
    model.zero_grad()
    model(ids(6)).square().mean().backward()
    assert torch.equal(seen, weight.grad)
    model.zero_grad()


def test_an_exception_leaves_nothing_behind(model):
    before = everything(model)
    with pytest.raises(ZeroDivisionError), minqwen.record(model, HEADS) as trace:
        model(ids(5))
        raise ZeroDivisionError
    assert everything(model) == before and trace.length == 5
    with pytest.raises(InputError), minqwen.record(model, HEADS) as trace:
        model(ids(5) + 1000)
    assert everything(model) == before and trace.rows == []
    with pytest.raises(InputError, match="nothing is recorded"):
        trace["expert_ids"]


def test_two_recordings_at_once_hear_the_same(model):
    before = everything(model)
    with minqwen.record(model) as whole:
        model(ids(3))
        with minqwen.record(model) as part:
            model(ids(4))
    assert everything(model) == before
    assert [row.length for row in whole.rows] == [3, 4]
    assert (whole.rows[1]["expert_ids"] == part["expert_ids"]).all()


def test_a_copy_made_while_recording_is_not_recorded(model):
    with minqwen.record(model) as trace:
        twin = copy.deepcopy(model)
        twin(ids(5))
        model(ids(3))
    assert trace.length == 3 and torch.equal(twin(ids(3)), model(ids(3)))


def test_heads_that_do_not_exist_are_named(model):
    for pair, words in [
        ((4, 0), "no layer 4"),
        ((0, 4), "no head 4"),
        ((3, 4), "head"),
    ]:
        with pytest.raises(InputError, match=words), minqwen.record(model, [pair]):
            pass


# ---- what is recorded is what happened


def test_routing_equals_transformers(model):
    """Router logits out of another implementation decide all that is stored."""
    inputs = dict(input_ids=ids(40))
    trace = record(model, inputs)
    twin = transformers_twin(model)
    with torch.no_grad():
        logits = twin(**inputs, output_router_logits=True).router_logits
    k = model.cfg.text.num_experts_per_tok
    for layer, scores in enumerate(logits):
        scores = scores.float()
        if (scores.sum(-1) - 1).abs().max() < 1e-3:  # some releases give probabilities
            scores = scores.log()
        top, chosen = scores.topk(k + 1)
        assert trace["expert_ids"][:, layer].tolist() == chosen[:, :k].tolist()
        assert trace["runner_up"][:, layer].tolist() == chosen[:, k].tolist()
        weights = top[:, :k].softmax(-1).numpy()
        assert np.abs(trace["expert_weights"][:, layer] - weights).max() < 1e-3
        margin = (top[:, k - 1] - top[:, k]).numpy()
        assert np.abs(trace["router_margin"][:, layer] - margin).max() < 2e-3
        share = scores.softmax(-1).double().numpy()
        bits = -(share * np.log2(share)).sum(-1)
        assert np.abs(trace["router_entropy"][:, layer] - bits).max() < 3e-3


def test_a_trace_of_the_first_version_is_read(trace, tmp_path):
    def older(meta, tensors):
        meta["version"] = 1
        del tensors["router_entropy"]

    (tmp_path / "old.safetensors").write_bytes(changed(trace, older))
    old = Trace.load(tmp_path / "old.safetensors")
    assert trace.meta["version"] == 2 and old.compare(trace).tokens == []


def test_shared_gate_and_order(model):
    """The gate, by hand for one layer, from the states that reach its router."""
    seen = []
    mlp = model.model.language_model.layers[1].mlp
    hook = mlp.gate.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    trace = record(model, dict(input_ids=ids(12)))
    hook.remove()
    gate = (seen[0] @ mlp.shared_expert_gate.weight[0]).sigmoid().detach().numpy()
    assert np.abs(trace["shared_gate"][:, 1] - gate).max() < 1e-3
    assert (np.diff(trace["expert_weights"].astype(np.float32)) <= 0).all()


def replay(trace, layer, head):
    """The head's state after the trace, by the rule alone."""
    part = {p: torch.from_numpy(trace[f"delta.{layer}.{head}.{p}"]) for p in "qkv"}
    q, k, v = (x[None, :, None] for x in part.values())
    g, beta = (
        torch.from_numpy(trace[f"delta.{layer}.{head}.{p}"])[None, :, None]
        for p in ("g", "beta")
    )
    start = trace.tensors.get(f"delta.{layer}.{head}.start")
    start = None if start is None else torch.from_numpy(start)[None, None]
    return delta_recurrent(q, k, v, g=g, beta=beta, state=start)[1][0, 0]


def test_replay_gives_the_states_of_the_cache(model):
    cache = model.new_cache(2, 40)
    with torch.no_grad(), minqwen.record(model, states=HEADS) as trace:
        model(ids(20, 2), cache=cache)
        for t in range(5):
            model(ids(1, 2, seed=t), cache=cache)
    for b, row in enumerate(trace.rows):
        assert row.length == 25 and row.heads == HEADS
        for layer, head in HEADS[:2]:
            state = cache.layers[layer].state[b, head]
            assert (replay(row, layer, head) - state).abs().max() < 1e-6


def test_a_recording_may_begin_in_the_middle(model):
    cache = model.new_cache(1, 40)
    with torch.no_grad():
        model(ids(11), cache=cache)
        with minqwen.record(model, states=HEADS, norms=True) as trace:
            model(ids(6, seed=1), cache=cache)
    state = cache.layers[2].state[0]
    assert trace.length == 6 and trace["delta.2.1.start"].any()
    assert (replay(trace, 2, 1) - state[1]).abs().max() < 1e-6
    norm = state.flatten(1).norm(dim=1)
    assert np.abs(trace["state_norm"][-1, 2] - norm.numpy()).max() < 1e-2
    # What came before is unknown, so is the attention over it.
    assert not [name for name in trace.tensors if name.startswith("attention")]


def test_attention_equals_transformers(model):
    inputs = dict(input_ids=ids(24))
    trace = record(model, inputs, states=[(3, 2)])
    q, k = (torch.from_numpy(trace[f"attention.3.2.{p}"]) for p in "qk")
    scores = q @ k.T * q.shape[1] ** -0.5
    ahead = torch.ones_like(scores, dtype=torch.bool).triu(1)
    ours = scores.masked_fill(ahead, -torch.inf).softmax(-1)
    twin = transformers_twin(model)
    twin.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = twin(**inputs, output_attentions=True).attentions
    theirs = [weights for weights in theirs if weights is not None][-1][0, 2]
    assert (ours - theirs).abs().max() < 1e-5


def test_norms_are_those_of_the_states(model):
    trace = record(model, dict(input_ids=ids(10)), norms=True)
    cache = model.new_cache(1, 10)
    with torch.no_grad():
        for t in range(10):
            model(ids(10)[:, t : t + 1], cache=cache)
            layers = [cache.layers[i].state[0].flatten(1).norm(dim=1) for i in range(3)]
            error = np.abs(trace["state_norm"][t] - torch.stack(layers).numpy())
            assert error.max() < 5e-3
    assert (trace["state_decay"] <= 0).all() and (trace["state_beta"] > 0).all()


def test_prefill_equals_decode(model):
    whole = record(model, dict(input_ids=ids(12)), states=HEADS, norms=True)
    cache = model.new_cache(1, 12)
    with torch.no_grad(), minqwen.record(model, HEADS, norms=True) as stepped:
        for t in range(12):
            model(ids(12)[:, t : t + 1], cache=cache)
    assert (whole["expert_ids"] == stepped["expert_ids"]).all()
    for name in ("delta.0.3.v", "attention.3.2.q", "token_ids"):
        near(whole[name], stepped[name], name)


def test_a_padded_row_is_what_it_would_be_alone(model):
    rows = [ids(4, seed=1)[0], ids(9, seed=2)[0]]
    padded = torch.zeros(2, 9, dtype=torch.long)
    padded[0, 5:], padded[1] = rows[0], rows[1]
    mask = (padded > 0).long()
    batch = record(model, dict(input_ids=padded, attention_mask=mask), states=HEADS)
    for row, alone in zip(batch.rows, rows, strict=True):
        same(row, record(model, dict(input_ids=alone[None]), states=HEADS))
    with pytest.raises(InputError, match="2 sequences"):
        batch.save("nowhere.safetensors")


def test_calls_without_a_cache_are_sequences_of_their_own(model):
    with torch.no_grad(), minqwen.record(model) as trace:
        model(ids(3))
        model(ids(5))
    assert [row.length for row in trace.rows] == [3, 5]


def test_a_cache_cut_back_takes_its_trace_along(model):
    cache = model.new_cache(1, 20)
    with torch.no_grad(), minqwen.record(model, states=HEADS) as trace:
        model(ids(6), cache=cache)
        cache.mark()
        model(ids(4, seed=9), cache=cache)
        cache.cut(6)
        model(ids(3, seed=2), cache=cache)
    alone = record(model, dict(input_ids=torch.cat([ids(6), ids(3, seed=2)], 1)))
    assert (trace["token_ids"] == alone["token_ids"]).all()
    assert (trace["expert_ids"] == alone["expert_ids"]).all()


def test_many_small_steps_are_kept_in_order(model):
    """More steps than are pooled, with a way back in the middle of a pool."""
    cache, tokens = model.new_cache(2, 100), ids(90, rows=2)
    with torch.no_grad(), minqwen.record(model, HEADS, norms=True) as trace:
        for t in range(80):
            model(tokens[:, t : t + 1], cache=cache)
            if t == 69:
                cache.mark()
        cache.cut(70)
        for t in range(70, 90):
            model(tokens[:, t : t + 1], cache=cache)
    whole = record(model, dict(input_ids=tokens), states=HEADS, norms=True)
    for stepped, row in zip(trace.rows, whole.rows, strict=True):
        assert (stepped["token_ids"] == row["token_ids"]).all()
        assert (stepped["expert_ids"] == row["expert_ids"]).mean() > 0.99
        for name in ("delta.2.1.v", "attention.3.2.q"):
            np.testing.assert_allclose(stepped[name], row[name], atol=1e-4)
        for name in ("state_norm", "state_decay"):
            np.testing.assert_allclose(stepped[name], row[name], rtol=0.01, atol=1e-3)


def test_drafting_records_the_same_text():
    model = small_model(mtp_num_hidden_layers=1)
    plain, drafted = [], []
    with minqwen.record(model) as trace:
        for step in minqwen.generate(model, dict(input_ids=ids(7)), 12, stop_ids=[]):
            plain.append(step.token)
    with minqwen.record(model) as other:
        inputs = dict(input_ids=ids(7))
        for step in minqwen.generate(model, inputs, 12, stop_ids=[], draft=3):
            drafted.append(step.token)
    assert plain == drafted
    assert (other["token_ids"][: trace.length] == trace["token_ids"]).all()
    assert trace.compare(other).tokens == []


def test_long_prompts_are_one_sequence(model, monkeypatch):
    from minqwen.engine.prefill import prefill

    inputs = with_picture()
    whole = record(model, inputs)
    with torch.no_grad(), minqwen.record(model) as pieces:
        prefill(model, inputs, model.new_cache(1, 20), size=7)
    assert pieces.meta == whole.meta and len(pieces.rows) == 1
    assert (pieces["picture.0"] == whole["picture.0"]).all()


def test_pictures_are_kept_small_and_found_again(model, processor):
    trace = record(model, with_picture())
    assert trace.meta["pictures"] == [dict(kind="image", start=4, rows=2, columns=3)]
    tiny = minqwen.load(ROOT / "assets" / "tiny")
    parts = [{"type": "image", "image": ROOT / "assets" / "seven.png"}]
    messages = [{"role": "user", "content": parts + [{"type": "text", "text": "?"}]}]
    inputs = processor.chat([messages, [{"role": "user", "content": "longer, no?"}]])
    trace = record(tiny, inputs, processor=processor).rows[0]
    (place,) = trace.meta["pictures"]
    count = place["rows"] * place["columns"]
    pads = trace.tokens[place["start"] : place["start"] + count]
    assert pads == ["<|image_pad|>"] * count == [t for t in trace.tokens if "_pad" in t]
    from PIL import Image

    with Image.open(ROOT / "assets" / "seven.png") as picture:
        size = place["columns"] * 16, place["rows"] * 16
        small = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BOX))
    assert np.abs(trace["picture.0"].astype(int) - small).mean() < 6


def test_frames_of_a_film_are_pictures_of_their_own(model):
    tokens = ids(14)
    tokens[0, 2:6], tokens[0, 8:12] = 302, 302
    pixels = torch.rand(32, 1536)
    trace = record(model, dict(input_ids=tokens, pixel_values_videos=pixels,
                               video_grid_thw=torch.tensor([[2, 4, 4]])))  # fmt: skip
    grid = dict(kind="video", rows=2, columns=2)
    assert trace.meta["pictures"] == [grid | dict(start=2), grid | dict(start=8)]


def test_a_model_without_experts_or_chosen_heads(tmp_path):
    dense = small_model(moe=False)
    trace = record(dense, dict(input_ids=ids(5)), states=[(0, 0)])
    trace.save(tmp_path / "x.safetensors")
    again = Trace.load(tmp_path / "x.safetensors")
    assert again.meta["num_experts"] == 0 and "expert_ids" not in again.tensors
    assert repr(again) == "Trace(5 tokens, 4 layers, 1 heads)"


# ---- texts


@pytest.mark.parametrize(
    "text", ["def f(x):\n    return x", "naïve — 你好 👩‍🚀", "ab\ufffd"]
)
def test_token_texts_join_to_the_text(processor, text):
    tokens = processor.encode(text)
    texts = token_texts(processor, tokens)
    assert "".join(texts) == text and len(texts) == len(tokens)


def test_token_texts_of_broken_characters_and_special_tokens(processor):
    half = [t for t in processor.encode("你") if processor.token_bytes(t)][0]
    end = processor.tokenizer.token_to_id("<|im_end|>")
    texts = token_texts(processor, [half, end, half])
    assert texts[1].endswith("<|im_end|>") and len(texts) == 3
    assert (
        len(processor.encode("你")) == 1
        or "\ufffd" in texts[1]
        and "\ufffd" in texts[2]
    )


# ---- files


@pytest.fixture(scope="module")
def trace(model, processor):
    trace = record(model, with_picture(), states=HEADS, norms=True)
    trace.name_tokens(processor)
    return Trace(trace.meta, trace.tensors)


def test_round_trip(trace, tmp_path):
    trace.save(tmp_path / "a.safetensors")
    again = Trace.load(tmp_path / "a.safetensors")
    assert again.meta == trace.meta and again.tensors.keys() == trace.tensors.keys()
    for name, array in trace.tensors.items():
        assert array.dtype == again[name].dtype and (array == again[name]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.slow
def test_bytes_are_the_same_in_every_process(trace, tmp_path):
    trace.save(tmp_path / "a.safetensors")
    code = "import minqwen, sys; minqwen.Trace.load(sys.argv[1]).save(sys.argv[2])"
    for seed in "12":
        other = tmp_path / f"{seed}.safetensors"
        args = [sys.executable, "-c", code, tmp_path / "a.safetensors", other]
        subprocess.run(args, check=True, cwd=ROOT, env={"PYTHONHASHSEED": seed})
        assert other.read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_compact_is_a_trace_too(trace, tmp_path):
    path = tmp_path / "small.safetensors"
    path.write_bytes(trace.compact())
    small = Trace.load(path)
    weights = small["expert_weights"]
    assert weights.dtype == np.uint8 and small["delta.0.3.k"].dtype == np.float16
    assert np.abs(weights / 255 - trace["expert_weights"]).max() <= 0.5 / 255 + 1e-3
    assert small.compact() == trace.compact()


def test_first_cuts_tokens_and_pictures(trace):
    head = trace.first(7)
    assert head.length == 7 and head.tokens == trace.tokens[:7]
    assert head.meta["pictures"] == [] and "picture.0" not in head.tensors
    assert head["delta.0.3.q"].shape == (7, 16)
    assert trace.first(10).meta["pictures"] == trace.meta["pictures"]
    for count in (17, 0, "7", 7.0):
        with pytest.raises(InputError, match="first tokens is"):
            trace.first(count)


def changed(trace, change=None, metadata=None):
    """The trace's file, after `change(meta, tensors)` or with other metadata."""
    meta, tensors = json.loads(json.dumps(trace.meta)), dict(trace.tensors)
    tensors = {name: array.copy() for name, array in tensors.items()}
    if change:
        change(meta, tensors)
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    return save(tensors, metadata or {"minqwen_trace": json.dumps(meta)})


METADATA = [
    {"x": "{}"},
    *({"minqwen_trace": t} for t in ("", "{", "[]", "[" * 100_000)),
]
HOSTILE = {
    "version": (lambda m, t: m.update(version=3), "version 3"),
    "version null": (lambda m, t: m.update(version=None), "version None"),
    "length": (lambda m, t: m.update(length=15), "length"),
    "length true": (lambda m, t: m.update(length=True), "length"),
    "length absent": (lambda m, t: m.pop("length"), "length"),
    "no tokens": (lambda m, t: m.update(tokens=m["tokens"][1:]), "tokens"),
    "token numbers": (lambda m, t: m.update(tokens=[1] * 16), "tokens"),
    "half a pair": (lambda m, t: m.update(tokens=["\ud800"] * 16), "tokens"),
    "model": (lambda m, t: m.update(model={"a": 1}), "model"),
    "layer types": (lambda m, t: m.update(layer_types=["<b>"] * 4), "layer_types"),
    "too few layers": (lambda m, t: m["layer_types"].pop(), "layer_types"),
    "layers a text": (lambda m, t: m.update(layer_types="abcd"), "layer_types"),
    "experts": (lambda m, t: m.update(num_experts=5), "expert"),
    "experts text": (lambda m, t: m.update(num_experts="33"), "num_experts"),
    "prompt": (lambda m, t: m.update(prompt_length=17), "prompt_length"),
    "opens nowhere": (lambda m, t: m.update(opens={"token": 99}), "opens"),
    "opens null": (lambda m, t: m.update(opens=None), "opens"),
    "opens null head": (lambda m, t: m.update(opens={"head": None}), "opens"),
    "opens long head": (lambda m, t: m.update(opens={"head": [0, 3, 1]}), "opens"),
    "opens null token": (lambda m, t: m.update(opens={"token": None}), "opens"),
    "opens a list": (lambda m, t: m.update(opens=[]), "opens"),
    "opens more": (lambda m, t: m.update(opens={"view": 1}), "opens"),
    "opens no head": (lambda m, t: m.update(opens={"head": [9, 9]}), "opens"),
    "opens a text": (lambda m, t: m.update(opens={"head": "ab"}), "opens"),
    "pictures": (lambda m, t: m.update(pictures={}), "pictures"),
    "picture": (lambda m, t: m.update(pictures=[1]), "picture 0"),
    "picture far": (lambda m, t: m["pictures"][0].update(start=11), "picture 0"),
    "picture big": (lambda m, t: m["pictures"][0].update(rows=10**9), "picture 0"),
    "no pixels": (lambda m, t: t.pop("picture.0"), "picture 0"),
    "shape": (lambda m, t: t.update(shared_gate=t["shared_gate"].T), "shared_gate"),
    "rank": (lambda m, t: t.update(expert_ids=t["expert_ids"][0]), "length"),
    "scalar": (lambda m, t: t.update(expert_ids=np.array(3, "u2")), "length"),
    "dtype": (lambda m, t: t.update(token_ids=t["token_ids"].astype(float)), "F64"),
    "kind": (lambda m, t: t.update(token_ids=t["token_ids"].astype("u2")), "U16"),
    "twice": (lambda m, t: t["expert_ids"].fill(1), "twice"),
    "weights": (lambda m, t: t["expert_weights"].fill(2), "between 0 and 1"),
    "nan": (lambda m, t: t["delta.0.3.k"].fill(np.nan), "not finite"),
    "stranger": (lambda m, t: t.update(x=np.zeros(3, "u1")), "x is not a tensor"),
    "no beta": (lambda m, t: t.pop("delta.0.3.beta"), "without its beta"),
    "wrong layer": (lambda m, t: t.update({"delta.3.0.q": t["delta.0.3.q"]}), "not a"),
    "far layer": (lambda m, t: t.update({"delta.9.0.q": t["delta.0.3.q"]}), "not a"),
    "narrow": (lambda m, t: t.update({"delta.0.3.k": t["delta.0.3.k"][:, 1:]}), "q is"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_get_one_sentence(trace, tmp_path, case):
    change, words = HOSTILE[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(changed(trace, change))
    with pytest.raises(InputError, match=words) as caught:
        Trace.load(path)
    assert "\n" not in str(caught.value) and "bad.safetensors" in str(caught.value)


@pytest.mark.parametrize("metadata", METADATA)
def test_hostile_metadata_gets_one_sentence(trace, tmp_path, metadata):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(changed(trace, metadata=metadata))
    with pytest.raises(InputError, match="not a trace"):
        Trace.load(path)


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1])
def test_damaged_files(trace, tmp_path, size):
    trace.save(tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[:size])
    with pytest.raises(InputError):
        Trace.load(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        Trace.load(tmp_path / "absent.safetensors")


# ---- comparing


def test_compare_counts_by_hand(trace):
    assert "All choices agree" in str(trace.compare(trace))
    other = Trace(trace.meta, dict(trace.tensors))
    other.tensors["expert_ids"] = ids_ = trace["expert_ids"].copy()
    ids_[5, 2, :2] = ids_[5, 2, 1::-1]  # another order is no other choice
    ids_[7, 1, 0] = trace["runner_up"][7, 1]
    ids_[9, 0, 3] = trace["runner_up"][9, 0]
    found = trace.compare(other)
    assert found.first == (7, 1) and found.tokens == [7, 9]
    assert np.allclose(found.share, [1 - 1 / 80, 1 - 1 / 80, 1, 1])
    assert "token 7" in str(found) and "2 of 16 tokens" in str(found)


def test_compare_stops_where_the_texts_part(trace):
    other = Trace(trace.meta, dict(trace.tensors))
    other.tensors["token_ids"] = trace["token_ids"].copy()
    other.tensors["token_ids"][6] += 1
    assert trace.compare(other).equal.shape == (6, 4)
    other.tensors["token_ids"][0] += 1
    with pytest.raises(InputError, match="different tokens"):
        trace.compare(other)
    other.tensors["expert_ids"] = trace["expert_ids"][..., :2]
    with pytest.raises(InputError, match="same model"):
        trace.compare(other)


# ---- other engines


def test_vllm_arrays_in_every_form(trace, model, tmp_path):
    array = trace["expert_ids"].astype(np.int16)
    file = io.BytesIO()
    np.save(file, array)
    path = tmp_path / "routed.npy"
    path.write_bytes(file.getvalue())
    text = base64.b64encode(file.getvalue()).decode()  # as its server answers
    for form in (array, torch.from_numpy(array), array.tolist(), text, path):
        found = from_routed_experts(form, config=model.cfg)
        assert (found["expert_ids"] == trace["expert_ids"]).all()
        assert found.meta["layer_types"] == trace.meta["layer_types"]
        assert found.meta["num_experts"] == 33 and found.meta["source"] == "vllm"
        assert trace.compare(found).tokens == []
    bare = open_trace(path)
    assert bare.meta["layer_types"] == ["unknown"] * 4 and bare.tokens[2] == "[2]"
    bare.save(tmp_path / "x.safetensors")
    assert open_trace(tmp_path / "x.safetensors").meta == bare.meta


def test_sglang_text_needs_a_shape(trace, model, processor):
    text = base64.b64encode(trace["expert_ids"].astype("<i4").tobytes()).decode()
    tokens = trace["token_ids"].tolist() + [7]  # the last has no row: it was not read
    found = from_routed_experts(
        text, shape=(4, 5), token_ids=tokens, processor=processor, source="sglang"
    )
    assert (found["expert_ids"] == trace["expert_ids"]).all()
    assert found.tokens == trace.tokens and found.meta["source"] == "sglang"
    for kwargs, words in [(dict(), "shape"), (dict(shape=(4, 7)), "no whole number")]:
        with pytest.raises(InputError, match=words):
            from_routed_experts(text, **kwargs)


def csv(ids, batches):
    """As moe-trace writes: batches one after another, each layer by layer."""
    lines = ["layer,expert"]
    for start, end, last in batches:
        for layer in range(ids.shape[1]):
            rows = ids[start:end, layer]
            if layer == ids.shape[1] - 1 and last:
                rows = rows[-1:]  # llama.cpp goes on with the tokens it needs
            lines += [f"{layer},{expert}" for expert in rows.flatten()]
    return "\n".join(lines) + "\n"


def test_llama_csv(trace, model, tmp_path):
    array, path = trace["expert_ids"], tmp_path / "moe_trace.csv"
    steps = [(t, t + 1, True) for t in range(12, 16)]
    path.write_text(csv(array, [(0, 8, False), (8, 12, False), *steps]))
    assert (open_trace(path)["expert_ids"] == array).all()
    path.write_text(csv(array, [(0, 8, True), (8, 12, True), *steps]))
    found = from_llama_csv(path, config=model.cfg)
    assert (found["expert_ids"] == array[:, :3]).all()
    assert found.meta["layer_types"] == ["linear_attention"] * 3


def test_bad_imports_get_one_sentence(tmp_path, model):
    path = tmp_path / "x.csv"
    for text, words in [
        ("", "layer,expert"), ("0,1\n0", "layer,expert"), ("a,b\n", "layer,expert"),
        ("0,1\n0,-2\n", "-2"), ("0,1\n0,99999\n", "99999"),
        ("0,1\n0,2\n1,1\n0,3\n1,2\n", "whole tokens|unequal"),
    ]:  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=words) as caught:
            from_llama_csv(path, top_k=2 if "whole" in words else None)
        assert "\n" not in str(caught.value)
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY nonsense")
    with pytest.raises(InputError, match="not a .npy file"):
        open_trace(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match="not a .npy file"):
        open_trace(tmp_path / "x.npy")
    for routed, words in [
        (np.zeros((2, 3)), "whole numbers"), (np.zeros((2, 3, 2), int), "twice"),
        (-np.ones((2, 3, 1), int), "-1"), ("!", "base64"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            from_routed_experts(routed)
    with pytest.raises(InputError, match="another model"):
        from_routed_experts(np.zeros((2, 9, 1), int), config=model.cfg)
    path.write_text("-1,0\n0,1\n")
    with pytest.raises(InputError, match="layer -1"):
        from_llama_csv(path, config=model.cfg, top_k=1)


def test_arguments_of_imports_are_checked(tmp_path, model):
    ids, text = np.arange(6).reshape(2, 3, 1), base64.b64encode(bytes(24)).decode()
    for routed, options, words in [
        ([[[1]], [[1, 2]]], {}, "numbers of one shape"),
        ("\u00e4", {}, "base64"),
        (text, {"shape": (0, 5)}, "a part of shape is 0"),
        (text, {"shape": ("1", 5)}, 'a part of shape is "1"'),
        (text, {"shape": 6}, "two numbers"),
        (ids, {"token_ids": ["a", "b"]}, "token_ids is list that holds no numbers"),
        (ids, {"token_ids": [[1, 2]]}, "whole numbers"),
        (ids, {"token_ids": [-1, 2]}, "from 0"),
        (ids, {"token_ids": [1]}, "1 token_ids are given for 2"),
    ]:
        with pytest.raises(InputError, match=words):
            from_routed_experts(routed, **options)
    path = tmp_path / "x.csv"
    path.write_text("0,1\n")
    for top_k in (0, -1, 1.0, "1"):
        with pytest.raises(InputError, match="top_k is"):
            from_llama_csv(path, top_k=top_k)


@pytest.mark.parametrize("count", ["1" + "0" * 15, "2"])
def test_an_array_file_that_promises_more_than_it_holds(tmp_path, count):
    """Ten thousand terabytes, none of which is asked for."""
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 1), np.int32))
    content = (tmp_path / "x.npy").read_bytes()
    said = f"({count}, 1, 1)".encode()
    content = content.replace(b"(1, 1, 1), }" + b" " * len(count), said + b", } ")
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InputError, match="not a .npy file"):
        open_trace(tmp_path / "x.npy")
