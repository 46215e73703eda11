"""A cache can be copied, cut back with all its states, and moved."""

import pytest
import torch
from tiny_models import small_model

from minqwen.engine.generate import decoder
from minqwen.engine.prefill import prefill
from minqwen.errors import InputError
from minqwen.model.cache import DeltaState


@pytest.fixture(scope="module")
def model():
    return small_model(seed=1, mtp_num_hidden_layers=1)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def tokens(seed, count, rows=2):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 300, (rows, count), generator=g)


def states(cache):
    delta = [x for x in cache.layers if isinstance(x, DeltaState)]
    return torch.stack([x.state for x in delta]), torch.stack([x.conv for x in delta])


def test_decode_leaves_the_state_prefill_would(model):
    ids = tokens(1, 100)
    whole, pieces = model.new_cache(2, 100), model.new_cache(2, 100)
    model(ids, cache=whole)
    for t in range(100):
        model(ids[:, t : t + 1], cache=pieces)
    for a, b in zip(states(whole), states(pieces), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)


def test_copy_is_independent(model):
    cache = model.new_cache(2, 64)
    model(tokens(1, 20), cache=cache)
    other = cache.copy()
    before = states(cache)
    model(tokens(2, 20), cache=other)
    assert (cache.length, other.length) == (20, 40)
    for a, b in zip(before, states(cache), strict=True):
        assert torch.equal(a, b)
    want = model(tokens(3, 1), cache=cache.copy())
    assert torch.equal(model(tokens(3, 1), cache=cache), want)


@pytest.mark.parametrize("padded", [False, True])
def test_cut_back_goes_on_as_if_nothing_had_happened(model, padded):
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[0, :7] = 1 - padded
    cache = model.new_cache(2, 64)
    model(tokens(1, 20), attention_mask=mask, cache=cache)
    cache.mark()
    want = model(tokens(3, 5), cache=cache.copy())
    model(tokens(2, 9), cache=cache)
    cache.cut(20)
    assert cache.length == 20
    assert torch.equal(model(tokens(3, 5), cache=cache), want)
    cache.cut(20)  # a mark serves more than once
    assert torch.equal(model(tokens(3, 5), cache=cache), want)


def test_cut_to_nothing_is_a_new_cache(model):
    want = model(tokens(1, 20), cache=model.new_cache(2, 64))
    cache = model.new_cache(2, 64)
    model(tokens(2, 30), cache=cache)
    cache.cut(0)
    assert torch.equal(model(tokens(1, 20), cache=cache), want)


def test_cut_without_a_mark_says_so(model):
    cache = model.new_cache(2, 64)
    model(tokens(1, 20), cache=cache)
    with pytest.raises(InputError, match="cannot go back to length 19.*mark"):
        cache.cut(19)


def test_full_cache_says_so(model):
    cache = model.new_cache(2, 16)
    with pytest.raises(InputError, match="holds 16 tokens and 17 are needed"):
        model(tokens(1, 17), cache=cache)
    want = model(tokens(1, 16), cache=model.new_cache(2, 16))
    assert torch.equal(model(tokens(1, 16), cache=cache), want)  # still whole
    with pytest.raises(InputError, match="made for 2 rows, the input has 1"):
        model(tokens(1, 1, rows=1), cache=model.new_cache(2, 16))


@pytest.mark.parametrize("failing", range(4))
def test_half_a_call_is_noticed_and_can_be_undone(model, failing):
    """Whichever layer fails, unless all memories were written."""
    cache = model.new_cache(2, 64)
    model(tokens(1, 20), cache=cache)
    cache.mark()
    want = model(tokens(2, 5), cache=cache.copy())

    def fail(*_):
        raise KeyboardInterrupt

    layer = model.model.language_model.layers[failing]
    handle = layer.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        model(tokens(2, 5), cache=cache)
    handle.remove()
    with pytest.raises(InputError, match="left half-written by a call that failed"):
        model(tokens(2, 5), cache=cache)
    cache.cut(20)
    assert torch.equal(model(tokens(2, 5), cache=cache), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernels", ["torch", "numba"])
def test_places_not_yet_written_are_never_read(dtype, kernels):
    """So they may hold anything, and a limit of many tokens takes no memory."""
    model = small_model(seed=1).to(dtype).eval()
    model.kernels = kernels
    found = []
    for value in (0.0, float("nan")):
        cache = model.new_cache(1, 600)
        for layer in cache.layers:
            if not isinstance(layer, DeltaState):
                layer.k.fill_(value)
                layer.v.fill_(value)
        logits = [prefill(model, {"input_ids": tokens(1, 300, 1)}, cache)]
        read = decoder(model, cache, 300)
        logits += [read(ids, cache) for ids in tokens(2, 70, 1).split(1, dim=1)]
        found.append(torch.cat(logits, 1))
    # numba's threads add in an order of their own; NaN would be close to nothing
    torch.testing.assert_close(
        *found, atol=2e-2 if dtype.itemsize < 4 else 1e-5, rtol=0
    )


def test_nothing_larger_is_kept_alive(model):
    """The window is a copy: a view would hold on to all inputs of the prefill."""
    cache = model.new_cache(2, 64)
    model(tokens(1, 50), cache=cache)
    conv = cache.layers[0].conv
    assert conv.untyped_storage().nbytes() == conv.nbytes


def test_a_cache_holds_no_graph(model):
    cache = model.new_cache(2, 64)
    with torch.enable_grad():
        model(tokens(1, 8), cache=cache)
        want = model(tokens(2, 1), cache=cache.copy())
    assert not cache.layers[0].state.requires_grad
    torch.testing.assert_close(model(tokens(2, 1), cache=cache), want)


def test_move(model):
    """To the meta device and to the CPU; a GPU takes the same path."""
    cache = model.new_cache(2, 64)
    model(tokens(1, 20), cache=cache)
    cache.mark()
    assert cache.copy().to("cpu").layers[0].state.device.type == "cpu"
    moved = cache.to("meta")
    kept = [t for layer in moved.layers for t in vars(layer).values()]
    assert {t.device.type for t in kept if torch.is_tensor(t)} == {"meta"}
    assert moved.layers[0].state.is_meta and moved.next_position.is_meta
    assert moved.layers[3].k.is_meta and moved.marks[20][0][0][0].is_meta


def test_bytes_are_those_of_397b():
    """180 MiB of state, 3.16 MiB of windows, 30,720 bytes of KV a token."""
    from minqwen.model.cache import Cache
    from minqwen.model.config import Config

    cfg = Config.named("397B-A17B").text
    size = Cache(cfg, 1, 1000, torch.bfloat16, "meta").num_bytes()
    assert size["kv"] == 1000 * (30_720 + 2048)  # the last is the MTP layer's
    assert size["state"] == 180 * 2**20 + 45 * 12288 * 3 * 2


def test_drafts_are_those_of_a_whole_pass(model):
    """MTP through its cache, piece by piece, equals MTP over the whole sequence."""
    ids = tokens(1, 30)
    hidden = model.hidden(ids)
    want, _ = model.draft(hidden[:, :-1], ids[:, 1:])
    cache = model.new_cache(2, 64)
    parts = [model.draft(hidden[:, :11], ids[:, 1:12], cache=cache)[0]]
    parts += [
        model.draft(hidden[:, t : t + 1], ids[:, t + 1 : t + 2], cache=cache)[0]
        for t in range(11, 29)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), want, atol=2e-5, rtol=1e-4)
