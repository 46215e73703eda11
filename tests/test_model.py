"""The whole model beside transformers 5.23, fp32, random weights off their start.

Every figure is the largest logit difference over the largest logit.
"""

import pytest
import torch
from tiny_models import small_model, transformers_twin

from minqwen.errors import InputError

BOUND = 2e-5
SIZES = [(4, 6), (8, 4), (6, 6)]  # patches; height unlike width in two of three
KINDS = {
    "moe": dict(moe=True),
    "moe conv 3": dict(moe=True, linear_conv_kernel_dim=3),
    "dense": dict(moe=False),
    "dense conv 3": dict(moe=False, linear_conv_kernel_dim=3),
}


def error(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    model = small_model(seed=1, **KINDS[request.param])
    return model, transformers_twin(model)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def text(seed=1, shape=(2, 333)):
    return torch.randint(0, 300, shape, generator=torch.Generator().manual_seed(seed))


def scene(images=(), videos=(), seed=1):
    """A prompt with pictures and films between words, as the Processor writes it."""
    g = torch.Generator().manual_seed(seed)
    ids, inputs = [5, 6, 7], {}
    for h, w in images:
        ids += [303] + [301] * (h * w // 4) + [304, 8, 9]
    for t, h, w in videos:
        for _ in range(t):
            ids += [10, 303] + [302] * (h * w // 4) + [304]
        ids += [11]

    def patches(grids):
        count = sum(t * h * w for t, h, w in grids)
        return torch.rand(count, 1536, generator=g) * 2 - 1, torch.tensor(grids)

    if images:
        grids = [(1, h, w) for h, w in images]
        inputs["pixel_values"], inputs["image_grid_thw"] = patches(grids)
    if videos:
        inputs["pixel_values_videos"], inputs["video_grid_thw"] = patches(videos)
    inputs["input_ids"] = torch.tensor([ids])
    return inputs


def theirs(twin, inputs):
    ids = inputs["input_ids"]
    kinds = (ids == 301).int() + 2 * (ids == 302).int()
    return twin(**inputs, mm_token_type_ids=kinds).logits


def test_333_tokens(pair):
    model, twin = pair
    assert error(model(text()), twin(text()).logits) < BOUND


@pytest.mark.parametrize(
    "images, videos",
    [
        (SIZES[:1], []),
        (SIZES[:2], []),
        (SIZES, []),
        ([], [(2, 4, 6)]),
        ([], [(3, 6, 4), (2, 4, 4)]),
        (SIZES[:2], [(2, 4, 6), (3, 6, 4)]),
    ],
)
def test_pictures_and_films(pair, images, videos):
    model, twin = pair
    inputs = scene(images, videos)
    assert error(model(**inputs), theirs(twin, inputs)) < BOUND


def left_padded(short=40):
    ids, mask = text(), torch.ones(2, 333, dtype=torch.long)
    mask[0, :short] = 0
    return ids, mask


def test_left_padding(pair):
    model, twin = pair
    ids, mask = left_padded()
    ours = model(ids, attention_mask=mask)
    want = twin(ids, attention_mask=mask).logits
    assert error(ours[0, 40:], want[0, 40:]) < BOUND
    assert error(ours[1], want[1]) < BOUND
    alone = model(ids[:1, 40:])  # and a padded row computes what it would alone
    assert error(ours[:1, 40:], alone) < BOUND


def test_left_padded_pictures(pair):
    model, _ = pair
    long, short = scene(SIZES[:2]), scene(SIZES[1:2], seed=2)
    T, t = long["input_ids"].shape[1], short["input_ids"].shape[1]
    ids = torch.full((2, T), 7)
    ids[0], ids[1, T - t :] = long["input_ids"][0], short["input_ids"][0]
    mask = torch.ones(2, T, dtype=torch.long)
    mask[1, : T - t] = 0
    both = model(
        ids,
        attention_mask=mask,
        pixel_values=torch.cat([long["pixel_values"], short["pixel_values"]]),
        image_grid_thw=torch.cat([long["image_grid_thw"], short["image_grid_thw"]]),
    )
    assert error(both[:1], model(**long)) < BOUND
    assert error(both[1:, T - t :], model(**short)) < BOUND


@pytest.mark.parametrize("cut", [1, 64, 200])
def test_split_prefill_then_decode(pair, cut):
    """Two pieces, then token by token through the cache, padded rows included."""
    model, twin = pair
    ids, mask = left_padded(short=40 if cut > 40 else 0)
    pad = int((mask[0] == 0).sum())
    want = twin(ids, attention_mask=mask).logits
    cache = model.new_cache(2, 333)
    parts = [model(ids[:, :cut], attention_mask=mask[:, :cut], cache=cache)]
    parts += [model(ids[:, cut:310], cache=cache)]
    parts += [model(ids[:, i : i + 1], cache=cache) for i in range(310, 333)]
    ours = torch.cat(parts, dim=1)
    assert error(ours[0, pad:], want[0, pad:]) < BOUND
    assert error(ours[1], want[1]) < BOUND


def test_pictures_split_then_decode(pair):
    """Positions go on after a picture from where it ends, in the cache as without."""
    model, twin = pair
    inputs = scene(SIZES[:2], [(2, 4, 6)])
    ids = torch.cat([inputs["input_ids"], text(2, (1, 9))], dim=1)
    whole = inputs | {"input_ids": ids}
    want = theirs(twin, whole)
    first = 3 + 1 + SIZES[0][0] * SIZES[0][1] // 4 + 2  # up to after the first picture
    n = SIZES[0][0] * SIZES[0][1]
    cache = model.new_cache(1, ids.shape[1])
    parts = [
        model(
            ids[:, :first],
            pixel_values=inputs["pixel_values"][:n],
            image_grid_thw=inputs["image_grid_thw"][:1],
            cache=cache,
        ),
        model(
            ids[:, first:-9],
            pixel_values=inputs["pixel_values"][n:],
            image_grid_thw=inputs["image_grid_thw"][1:],
            pixel_values_videos=inputs["pixel_values_videos"],
            video_grid_thw=inputs["video_grid_thw"],
            cache=cache,
        ),
    ]
    parts += [model(ids[:, i : i + 1], cache=cache) for i in range(-9, -1)]
    parts += [model(ids[:, -1:], cache=cache)]
    assert error(torch.cat(parts, dim=1), want) < BOUND


def test_tied_head():
    model = small_model(seed=1, moe=False, tie_word_embeddings=True)
    assert "lm_head.weight" not in model.state_dict()
    twin = transformers_twin(model)
    assert error(model(text()), twin(text()).logits) < BOUND


@pytest.mark.parametrize("moe", [True, False])
def test_text_only(moe):
    model = small_model(seed=1, moe=moe, vision=False)
    twin = transformers_twin(model)
    assert error(model(text()), twin(text()).logits) < BOUND


def test_yarn():
    rope = dict(
        rope_type="yarn", rope_theta=10_000_000.0, partial_rotary_factor=0.25,
        mrope_section=[2, 1, 1], mrope_interleaved=True, factor=4.0,
        original_max_position_embeddings=64,
    )  # fmt: skip
    model = small_model(seed=1, rope_parameters=rope)
    twin = transformers_twin(model)
    assert error(model(text()), twin(text()).logits) < BOUND
    plain = small_model(seed=1)
    assert error(model(text()), plain(text())) > 1e-3  # it is not silently ignored


def test_last_only():
    model = small_model(seed=1)
    assert error(model(text(), last_only=True), model(text())[:, -1:]) < 1e-6


def test_33_experts_use_both_products():
    """Widths of whole 16 bytes take grouped_mm, others the loop: same model, 2e-5."""
    for width in (24, 26):
        model = small_model(seed=1, moe_intermediate_size=width)
        twin = transformers_twin(model)
        twin.set_experts_implementation("eager")  # its grouped form refuses 26
        assert error(model(text()), twin(text()).logits) < BOUND


def test_gradients():
    """The loss's gradient, in every weight, beside transformers'."""
    with torch.enable_grad():
        model = small_model(seed=1)
        twin = transformers_twin(model)
        ids = text(shape=(1, 70))
        model(ids).logsumexp(-1).sum().backward()
        twin(ids).logits.logsumexp(-1).sum().backward()
        want = {n: p.grad for n, p in twin.named_parameters() if p.grad is not None}
        got = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert set(got) == set(want)
        for name, g in want.items():
            assert error(got[name], g) < 1e-4, name


def right_padded(inputs):
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, -1] = 0
    return mask


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda i: i["input_ids"].fill_(5), "0 image placeholders"),
        (lambda i: i.update(image_grid_thw=i["image_grid_thw"][:1]), "56 patches"),
        (lambda i: i["input_ids"].__setitem__((0, 6), 5), "placeholders"),
        (lambda i: i["input_ids"].__setitem__((0, 0), 320), "token id 320"),
        (lambda i: i["input_ids"].__setitem__((0, 0), -1), "token id -1"),
        (lambda i: i.pop("pixel_values"), "without its pixel values"),
        (lambda i: i.update(attention_mask=torch.ones(1, 3)), "mask covers 3"),
        (lambda i: i.update(attention_mask=right_padded(i)), "pad on the left"),
        (lambda i: i.pop("image_grid_thw"), "without image_grid_thw"),
    ],
)
def test_bad_input_is_one_sentence(change, words):
    model = small_model(seed=1)
    inputs = scene(SIZES[:2])
    change(inputs)
    with pytest.raises(InputError) as e:
        model(**inputs)
    assert words in str(e.value) and "\n" not in str(e.value)
