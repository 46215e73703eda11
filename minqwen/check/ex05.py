"""Notebook 05, gates, the short convolution and the layer around the delta rule."""

import math
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from ..model.delta import delta_recurrent
from ..model.deltanet import GatedDeltaNet
from ..model.norm import l2norm
from .core import Exercise, with_slopes

LN2 = math.log(2)


def _decay(a, A_log, dt_bias, sign=-1, rate=torch.exp, gate=F.softplus):
    return sign * rate(A_log) * gate(a + dt_bias)


decay = Exercise(
    "05",
    "how much to forget",
    _decay,
    lambda rand: [
        {"a": rand(T, H), "A_log": rand(H), "dt_bias": rand(H)}
        for T, H in [(1, 1), (3, 2), (4, 5)]
    ],
    wrong={
        "right, and cannot be trained: no slope comes back. "
        "Work on the tensors as they are, without item(), "
        "detach(), numpy() or torch.tensor()": lambda **case: _decay(**case).detach(),
        "right, and cannot be trained: no slope comes back to A_log and dt_bias": (
            lambda a, A_log, dt_bias: _decay(a, A_log.detach(), dt_bias.detach())
        ),
        "g is positive: exp(g) is above one and the memory grows; a minus is missing": (
            partial(_decay, sign=1)
        ),
        "A_log is the logarithm of the rate: take its exp first": (
            partial(_decay, rate=lambda A_log: A_log)
        ),
        "the minus belongs outside: -exp(A_log), not exp(-A_log)": (
            partial(_decay, rate=lambda A_log: (-A_log).exp())
        ),
        "A_log is not used; each head has a rate of its own": (
            partial(_decay, rate=torch.ones_like)
        ),
        "the softplus is missing, so a token below zero makes the memory grow": (
            partial(_decay, gate=lambda x: x)
        ),
        "that is relu: zero below zero, where nothing is forgotten and nothing can be "
        "learned; softplus is its smooth form": partial(_decay, gate=F.relu),
        "that is a sigmoid, which stops at one; softplus has no upper end, so one "
        "token can clear everything": partial(_decay, gate=torch.sigmoid),
        "dt_bias is added after the softplus; add it to `a`, inside": (
            lambda a, A_log, dt_bias: -A_log.exp() * (F.softplus(a) + dt_bias)
        ),
        "dt_bias is added to the finished g; add it to `a`, inside the softplus": (
            lambda a, A_log, dt_bias: _decay(a, A_log, 0 * a) + dt_bias
        ),
        "dt_bias is not used": lambda a, A_log, dt_bias: _decay(a, A_log, 0 * a),
        "that is exp(g), the share that is kept; return g itself": (
            lambda a, A_log, dt_bias: _decay(a, A_log, dt_bias).exp()
        ),
    },
    returns=("g", "its slopes"),
    through=with_slopes,
)


def _set(tokens, A_log, dt_bias, half=LN2, bias=1, rate=torch.exp, undo=torch.expm1):
    return undo(half / (tokens * rate(A_log))).log() - bias * dt_bias


set_half_life = Exercise(
    "05",
    "set a half-life",
    _set,
    lambda rand: [
        {"tokens": tokens, "A_log": 0.2 + rand(()).abs(), "dt_bias": rand(())}
        for tokens in (0.25, 2.0, 100.0)
    ],
    wrong={
        "dt_bias is not taken off again": partial(_set, bias=0),
        "dt_bias has the wrong sign: softplus sees a + dt_bias, so take it off": (
            partial(_set, bias=-1)
        ),
        "multiplied by the rate: g is the rate times what softplus gives, so divide by "
        "it": partial(_set, rate=lambda A_log: (-A_log).exp()),
        "the head's rate exp(A_log) is not used": partial(_set, rate=torch.ones_like),
        "A_log is the logarithm of the rate: take its exp first": (
            partial(_set, rate=lambda A_log: A_log)
        ),
        "after that many tokens 1/e is left, and not one half: ln 2 is missing": (
            partial(_set, half=1.0)
        ),
        "softplus(x) is log(1 + exp(x)), so from its value y comes log(exp(y) - 1); "
        "the - 1 is missing": partial(_set, undo=torch.exp),
        "softplus is undone by log(exp(y) - 1), not by log(y), which only comes near "
        "it for small y": partial(_set, undo=lambda y: y),
    },
    returns=("a",),
)


def _moved_on(window, x, y):
    return torch.cat([window, x])[len(x) :]


def _conv(x, taps, window, ahead=0, act=F.silu, carry=1, keep=_moved_on):
    """Right by default; each option is one mistake."""
    read = torch.cat([carry * window, x, torch.zeros_like(x[:ahead])])[ahead:]
    mixed = sum(read[j : j + len(x)] * taps[:, j] for j in range(taps.shape[1]))
    y = act(mixed)
    return y, keep(window, x, y)


short_conv = Exercise(
    "05",
    "four taps",
    _conv,
    lambda rand: [
        {"x": rand(T, C), "taps": rand(C, W), "window": rand(W - 1, C)}
        for T, C, W in [(6, 2, 4), (1, 3, 4), (2, 2, 3)]
    ],
    wrong={
        "the taps are read newest first; the last tap meets the newest token": (
            lambda x, taps, window: _conv(x, taps.flip(-1), window)
        ),
        "the silu is missing": partial(_conv, act=lambda y: y),
        "it sees one token ahead: output t is made from the tokens up to t, and from "
        "none after": partial(_conv, ahead=1),
        "it starts from zeros; the window holds the tokens before this call": (
            partial(_conv, carry=0)
        ),
        "the new window holds outputs; keep the inputs, from before taps and silu": (
            partial(_conv, keep=lambda old, x, y: _moved_on(old, y, y))
        ),
        "the new window has only tokens of this call; "
        "when the call is shorter than the window, "
        "older ones stay in it": partial(_conv, keep=lambda old, x, y: x[-len(old) :]),
        "the new window is the old one; it moves on with the text": (
            partial(_conv, keep=lambda old, x, y: old)
        ),
        "the new window is one token too long: the next token brings the last of its "
        "W inputs itself": (
            partial(_conv, keep=lambda old, x, y: torch.cat([old, x])[len(x) - 1 :])
        ),
    },
    returns=("the outputs", "the new window"),
)


def _tile(x, share, dim):
    return torch.cat([x] * share, dim)


def _heads(
    qkv, key_heads, heads, K,
    norm=l2norm, scale=(-0.5, 0), spread=torch.repeat_interleave,
):  # fmt: skip
    """Right by default; each option is one mistake."""
    keys = key_heads * K
    *pair, v = qkv.split([keys, keys, qkv.shape[1] - 2 * keys], dim=-1)
    q, k = (
        spread(norm(x.view(-1, key_heads, K)) * K**power, heads // key_heads, 1)
        for x, power in zip(pair, scale, strict=True)
    )
    return q, k, v.view(len(qkv), heads, -1)


def _swapped(qkv, key_heads, heads, K):
    keys = key_heads * K
    q, k, v = qkv.split([keys, keys, qkv.shape[1] - 2 * keys], dim=-1)
    return _heads(torch.cat([k, q, v], dim=-1), key_heads, heads, K)


def _grouped(qkv, key_heads, heads, K):
    rows = qkv.view(len(qkv), key_heads, -1)
    parts = rows.split([K, K, rows.shape[2] - 2 * K], dim=-1)
    qkv = torch.cat([part.flatten(1) for part in parts], dim=-1)
    return _heads(qkv, key_heads, heads, K)


head_inputs = Exercise(
    "05",
    "what each head gets",
    _heads,
    lambda rand: [
        {"qkv": rand(T, 2 * Hk * K + H * V), "key_heads": Hk, "heads": H, "K": K}
        for T, Hk, H, K, V in [(3, 2, 4, 4, 4), (2, 2, 6, 4, 3), (1, 3, 6, 2, 5)]
    ],
    wrong={
        "the key heads are tiled (0, 1, 0, 1); neighbours share one (0, 0, 1, 1): "
        "repeat_interleave, not repeat": partial(_heads, spread=_tile),
        "the queries are not multiplied by K^-0.5": partial(_heads, scale=(0, 0)),
        "the keys are scaled as well; K^-0.5 is for the queries, and keys keep length "
        "one": partial(_heads, scale=(-0.5, -0.5)),
        "the scale is on the keys; it belongs to the queries": (
            partial(_heads, scale=(0, -0.5))
        ),
        "queries and keys keep the size they came with; l2norm makes it one": (
            partial(_heads, norm=lambda x: x)
        ),
        "that is the root mean square norm, whose "
        "vectors have length K^0.5; l2norm divides "
        "by the length": partial(_heads, norm=lambda x: l2norm(x) * x.shape[-1] ** 0.5),
        "all heads of a token were normed together; each "
        "has a length of its own, so cut into heads before "
        "the norm": partial(_heads, norm=lambda x: l2norm(x.flatten(1)).view(x.shape)),
        "queries and keys are swapped; the order is q, k, v": _swapped,
        "the numbers are not grouped by key head, as they are in Qwen3-Next: all "
        "queries come first, then all keys, then all values": _grouped,
    },
    returns=("the queries", "the keys", "the values"),
)


_LAYER_SIZES = SimpleNamespace(
    hidden_size=12, linear_num_key_heads=2, linear_num_value_heads=4,
    linear_key_head_dim=4, linear_value_head_dim=3, linear_conv_kernel_dim=4,
    conv_dim=28, rms_norm_eps=1e-2,
)  # fmt: skip


def _random_layer(rand):
    with torch.random.fork_rng(devices=[]):  # leave the reader's own draws alone
        layer = GatedDeltaNet(_LAYER_SIZES).requires_grad_(False)
    for weight in layer.parameters():
        width = weight.shape[-1] if weight.dim() > 1 else 1
        weight.copy_(rand(*weight.shape) / width**0.5)
    return layer


def _normed(o, layer, over=-1):
    return o * torch.rsqrt(o.square().mean(over, keepdim=True) + layer.norm.eps)


def _output(o, z, layer, more=0.0, gate=F.silu, over=-1):
    return _normed(o, layer, over) * (more + layer.norm.weight) * gate(z)


def _gate_first(o, z, layer):
    return _normed(o * F.silu(z), layer) * layer.norm.weight


def _deltanet(
    layer, x, out=_output, beta=torch.sigmoid, conv=_conv, makes="ab", twice=0, **heads
):
    """Right by default; each option is one mistake."""
    taps = layer.conv1d.weight[:, 0]
    qkv, _ = conv(layer.in_proj_qkv(x), taps, x.new_zeros(taps.shape[1] - 1, len(taps)))
    q, k, v = _heads(qkv, layer.key_heads, layer.heads, layer.head_k_dim, **heads)
    a, b = (getattr(layer, f"in_proj_{name}")(x) for name in makes)
    g, b = _decay(a, layer.A_log, layer.dt_bias), beta(b)
    inputs = [y[None] for y in (q, k, v * b[..., None] ** twice)]
    o, _ = delta_recurrent(*inputs, g=g[None], beta=b[None])
    z = layer.in_proj_z(x).view(o[0].shape)
    return layer.out_proj(out(o[0], z, layer).flatten(1))


deltanet_layer = Exercise(
    "05",
    "the layer",
    lambda layer, x: layer(x[None])[0],
    lambda rand: [{"layer": _random_layer(rand), "x": rand(T, 12)} for T in (6, 1, 3)],
    wrong={
        "the gated norm multiplies by 1 + w; this one stores its gain as it is": (
            partial(_deltanet, out=partial(_output, more=1.0))
        ),
        "the gate is a sigmoid; it is silu(z), which is z times its sigmoid": (
            partial(_deltanet, out=partial(_output, gate=torch.sigmoid))
        ),
        "the output gate is missing: multiply by silu(z), with z from in_proj_z": (
            partial(_deltanet, out=partial(_output, gate=torch.ones_like))
        ),
        "the norm is missing: divide each head's read by its root mean square": (
            partial(
                _deltanet, out=lambda o, z, layer: o * layer.norm.weight * F.silu(z)
            )
        ),
        "z is multiplied in before the norm; norm first, then the gate": (
            partial(_deltanet, out=_gate_first)
        ),
        "all heads are normed together; each head's output is normed by itself": (
            partial(_deltanet, out=partial(_output, over=(-2, -1)))
        ),
        "beta is the bare projection; a sigmoid keeps it between 0 and 1": (
            partial(_deltanet, beta=lambda b: b)
        ),
        "in_proj_a and in_proj_b are swapped: a makes g, b makes beta": (
            partial(_deltanet, makes="ba")
        ),
        "beta is applied twice: the rule multiplies the error by it, so leave the "
        "values alone": partial(_deltanet, twice=1),
        "the convolution is missing": (
            partial(_deltanet, conv=lambda x, taps, window: (x, window))
        ),
        "the convolution is left without its silu": (
            partial(_deltanet, conv=partial(_conv, act=lambda y: y))
        ),
        "the key heads are tiled (0, 1, 0, 1); neighbours share one (0, 0, 1, 1)": (
            partial(_deltanet, spread=_tile)
        ),
        "the queries are not multiplied by K^-0.5. The norm hides most of that; faint "
        "reads show it, through eps": partial(_deltanet, scale=(0, 0)),
    },
    returns=("the output",),
)
