"""The delta rule by hand, and each of its forms beside a float64 loop.

The bound stands in numpy_forms.BOUND; where another one is used, the test says why.
"""

import numpy_forms as forms
import pytest
import torch
from numpy_forms import BOUND, error, wide

from minqwen.model.delta import delta_chunked, delta_recurrent, delta_step

F32 = BOUND[torch.float32]
RULES = {
    "recurrent": delta_recurrent,
    "chunk 64": delta_chunked,
    "chunk 16": lambda *a, **k: delta_chunked(*a, **k, chunk=16),
    "chunk 1": lambda *a, **k: delta_chunked(*a, **k, chunk=1),
}
EACH = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
# Two unit keys at an angle whose cosine is 3/5.
KEYS, VALUES = [[1.0, 0.0], [0.6, 0.8]], [[2.0, 1.0], [0.0, 5.0]]


def by_hand(rule, alpha=1.0, queries=KEYS):
    """Both pairs written with beta = 1, alpha in force at the second one."""
    q, k, v = (torch.tensor(x)[None, :, None] for x in (queries, KEYS, VALUES))
    g = torch.tensor([1.0, alpha]).log()[None, :, None]
    return rule(q, k, v, g=g, beta=torch.ones(1, 2, 1))


def near(x, want):
    assert torch.allclose(x.squeeze(), torch.tensor(want), atol=1e-6), x


def test_the_errors_by_hand():
    """(2, 1) into an empty memory, then (-1.2, 4.4): what each write corrects."""
    S = torch.zeros(1, 1, 2, 2)
    for key, value, read, wrong in [
        (KEYS[0], VALUES[0], [0.0, 0.0], [2.0, 1.0]),
        (KEYS[1], VALUES[1], [1.2, 0.6], [-1.2, 4.4]),
    ]:
        k, v = torch.tensor([[key]]), torch.tensor([[value]])
        near((S * k[..., None]).sum(-2), read)
        o, new = delta_step(
            k, k, v, g=torch.zeros(1, 1), beta=torch.ones(1, 1), state=S
        )
        near(((new - S) * k[..., None]).sum(-2), wrong)  # k is a unit vector
        near(o, value)
        S = new
    near(S, [[1.28, 3.64], [-0.96, 3.52]])


@EACH
def test_the_same_memory_from_every_form(rule):
    o, S = by_hand(rule)
    near(S, [[1.28, 3.64], [-0.96, 3.52]])
    near(o, [[2.0, 1.0], [0.0, 5.0]])  # Hebbian writing would read (1.2, 5.6)
    o, _ = by_hand(rule, queries=[KEYS[0], KEYS[0]])
    near(o[:, 1], [1.28, 3.64])  # the second pair has disturbed the first


@EACH
def test_forget_then_measure_the_error(rule):
    """With alpha = 1/2 the second key reads (0, 5), not (-0.6, 4.7) as in the other
    order, where the error is that of a memory which is then halved."""
    o, _ = by_hand(rule, alpha=0.5)
    near(o[:, 1], [0.0, 5.0])


def rule_inputs(T, Hk=4, H=16, K=8, V=6, seed=0, size=1.0):
    """Unit keys, rates from a token to hundreds, one row. As delta_recurrent takes."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=g)

    q, k = (torch.nn.functional.normalize(draw(1, T, Hk, K), dim=-1) for _ in "qk")
    decay = -(draw(1, T, H).mul(2) - 3).exp() * size
    return (q, k, draw(1, T, H, V)), dict(
        g=decay, beta=draw(1, T, H).sigmoid(), state=draw(1, H, K, V)
    )


def loop(args, keywords):
    q, k, v, g, beta, S = (wide(x[0]) for x in (*args, *keywords.values()))
    return forms.delta_heads(q, k, v, g, beta, S)


@pytest.fixture(scope="module")
def long():
    """130 tokens, value heads 16 on 4 key heads; outputs and all 130 states in f64."""
    args, keywords = rule_inputs(130)
    return args, keywords, *loop(args, keywords)


@EACH
@pytest.mark.parametrize("T", [*range(1, 131, 7), 16, 63, 64, 65, 128, 130])
def test_any_length(long, rule, T):
    """Each length from an initial state; ragged last chunks, and the state after."""
    args, keywords, outputs, states = long
    cut = {n: x if n == "state" else x[:, :T] for n, x in keywords.items()}
    o, S = rule(*(x[:, :T] for x in args), **cut)
    assert error(o[0], outputs[:T]) < F32
    assert error(S[0], states[T - 1]) < F32


def test_every_length_from_1_to_130(long):
    args, keywords, outputs, states = long
    for T in range(1, 131):
        cut = {n: x if n == "state" else x[:, :T] for n, x in keywords.items()}
        o, S = delta_chunked(*(x[:, :T] for x in args), **cut)
        assert error(o[0], outputs[:T]) < F32 and error(S[0], states[T - 1]) < F32


@EACH
def test_without_a_state(rule):
    args, keywords = rule_inputs(70, seed=1)
    keywords["state"] = torch.zeros_like(keywords["state"])
    want, states = loop(args, keywords)
    del keywords["state"]
    o, S = rule(*args, **keywords)
    assert error(o[0], want) < F32 and error(S[0], states[-1]) < F32


@EACH
@pytest.mark.parametrize("Hk, H", [(4, 16), (4, 4), (1, 6), (3, 6)])
def test_heads_that_share_a_key(rule, Hk, H):
    args, keywords = rule_inputs(20, Hk, H, seed=2)
    want, states = loop(args, keywords)
    o, S = rule(*args, **keywords)
    assert error(o[0], want) < F32 and error(S[0], states[-1]) < F32


@EACH
@pytest.mark.parametrize("cuts", [(64, 65), (1, 130), (50, 51, 128)])
def test_in_pieces(long, rule, cuts):
    args, keywords, outputs, states = long
    S, parts, start = keywords["state"], [], 0
    for end in (*cuts, 130):
        now = {n: keywords[n][:, start:end] for n in ("g", "beta")}
        if end > start:
            o, S = rule(*(x[:, start:end] for x in args), **now, state=S)
            parts.append(o)
        start = end
    assert error(torch.cat(parts, 1)[0], outputs) < F32
    assert error(S[0], states[-1]) < F32


def test_rows_of_a_batch_do_not_meet():
    pairs = [rule_inputs(70, seed=s) for s in (3, 4)]
    args = [torch.cat(x) for x in zip(*(a for a, _ in pairs), strict=True)]
    keywords = {n: torch.cat([k[n] for _, k in pairs]) for n in pairs[0][1]}
    o, _ = delta_chunked(*args, **keywords)
    for b, pair in enumerate(pairs):
        assert error(o[b], loop(*pair)[0]) < F32


@EACH
def test_forgetting_all_at_every_token(rule):
    """g = -50: sums reach -3200 in a chunk, and exp of the difference the wrong way
    round would be infinite. Only each token's own pair is left."""
    args, keywords = rule_inputs(130, seed=5)
    keywords["g"] = torch.full_like(keywords["g"], -50.0)
    q, k, v = args
    o, S = rule(*args, **keywords)
    assert error(o[0], loop(args, keywords)[0]) < F32
    own = (q * k).sum(-1).repeat_interleave(4, 2) * keywords["beta"]
    assert error(o, wide(own[..., None] * v)) < F32


@EACH
def test_forgetting_all_now_and_then(rule):
    """g = -50 at one token of four, small between. A chunk's sum reaches -800, whose
    fp32 neighbours are 6e-5 apart, so chunks are that much less exact."""
    args, keywords = rule_inputs(130, seed=6)
    keywords["g"][:, ::4] = -50.0
    want, states = loop(args, keywords)
    o, S = rule(*args, **keywords)
    bound = F32 if rule is delta_recurrent else 1e-4
    assert error(o[0], want) < bound and error(S[0], states[-1]) < bound


@EACH
def test_never_forgetting(rule):
    args, keywords = rule_inputs(130, seed=7, size=0.0)
    want, states = loop(args, keywords)
    o, S = rule(*args, **keywords)
    assert error(o[0], want) < 1e-5 and error(S[0], states[-1]) < 1e-5


def test_gradients_of_long_decays_are_finite_and_agree():
    grads = []
    for rule in (delta_recurrent, delta_chunked):
        args, keywords = rule_inputs(70, seed=8)
        keywords["g"][:, ::9] = -50.0
        leaves = [x.requires_grad_() for x in (*args, *keywords.values())]
        o, S = rule(*args, **keywords)
        (o.square().sum() + S.square().sum()).backward()
        grads.append([x.grad for x in leaves])
    for slow, fast in zip(*grads, strict=True):
        assert fast.isfinite().all() and error(fast, wide(slow)) < 1e-4
