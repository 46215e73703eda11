"""Weights to begin with, so that the untrained model already copies what it read.

From transformers' start a short run never learns to copy. Here an induction head
(Olsson and others, arXiv 2209.11895) is built in by hand, as wide as the model, and
training has only to use it. The state's first half holds what a token is; the second
half, what stood before it:

    embeddings     long beside the steps of a short run, with one number that all have,
                   so that gates, which have no bias, can be open or shut from the start
    first layer    its delta heads pass on the last three tokens: they write the first
                   half of each, compressed, into the second half
    attention      (its first layer) a key is the three tokens before; a query, this
                   token and two before; found is what came next, and that is said
    other deltas   blurred induction heads: q and k are alike, but k looks further back
    dt_bias        half-lives from a token to hundreds of them

Compare Trockman and others (arXiv 2410.11135), whose state space models learn to copy
from a start with structure.
"""

import math

import torch

from ..model.attention import GatedAttention
from ..model.deltanet import GatedDeltaNet

WIDTH = 3.0  # standard deviation of embeddings
CONSTANT = 30.0  # the first number of every embedding
SMALL = 0.1  # standard deviation of values' weights and of the head's
ALIKE = 0.95  # correlation of q's weights and k's
NOISE = 0.05  # of the taps
LAGS = 3  # tokens back that the first layer passes on


@torch.no_grad()
def start(model):
    """Set the weights of a new Qwen, from torch's generator, as far as it has them.

    Without delta layers nothing is passed on, and without that nothing is found.
    """
    language = model.model.language_model
    words = language.embed_tokens.weight
    half = words.shape[1] // 2
    words.normal_()
    model.lm_head.weight.copy_(SMALL * words)  # what is copied is said
    model.lm_head.weight[:, half:] *= 0.1
    model.lm_head.weight[:, 0] = 0
    words *= WIDTH
    words[:, 0] = CONSTANT
    squeeze = torch.randn(half // LAGS, half) / math.sqrt(half)
    parts = list(language.modules())
    deltas = [part for part in parts if isinstance(part, GatedDeltaNet)]
    attentions = [part for part in parts if isinstance(part, GatedAttention)]
    for layer in deltas:
        start_delta(layer)
    for layer in deltas[:1]:
        pass_on(layer, squeeze)
    for number, layer in enumerate(attentions):
        if deltas and number == 0:
            induce(layer, squeeze)
        else:
            layer.o_proj.weight *= SMALL * WIDTH


def start_delta(layer):
    q, k, v = projections(layer)
    keys = len(q)
    k.copy_(ALIKE * q + math.sqrt(1 - ALIKE**2) * k)
    v.normal_(0, SMALL)
    layer.out_proj.weight.copy_(0.15 * WIDTH * v.T)  # what was written is read
    layer.in_proj_qkv.weight[:, 0] = 0  # what all have alike tells no two apart
    layer.in_proj_z.weight[:, 0] += 0.4  # open
    taps = layer.conv1d.weight[:, 0]  # [channels, W], the last one is the token itself
    taps.normal_(0, NOISE)
    taps[2 * keys :, -1] += 1
    for head in range(layer.key_heads):
        back = 1 + head % (taps.shape[1] - 1)
        of_head = slice(head * layer.head_k_dim, (head + 1) * layer.head_k_dim)
        taps[:keys][of_head, -back] += 1
        taps[keys : 2 * keys][of_head, -back - 1] += 1
    start_decay(layer)


def start_decay(layer):
    """Half-lives from a token to hundreds of them.

    softplus(dt_bias) is log-uniform in [0.001, 0.1], as Mamba2 (arXiv 2405.21060) and
    Gated DeltaNet were trained. With dt_bias 1, where transformers' class starts,
    nearly every head forgets within a token, and a short run does not unlearn that.
    """
    step = torch.empty_like(layer.dt_bias)
    step.uniform_(math.log(1e-3), math.log(0.1)).exp_()
    layer.dt_bias.copy_(step.expm1().log())  # the inverse of softplus


def projections(layer):
    """The rows of in_proj_qkv that make q, k and v: [keys, D] twice, [values, D]."""
    keys = layer.key_heads * layer.head_k_dim
    return layer.in_proj_qkv.weight.split([keys, keys, layer.out_proj.in_features])


def pass_on(layer, squeeze):
    """What is written is read at once (q is k, beta near 1): `squeeze` of past tokens.

    squeeze [half / LAGS, half]; each lag has its own share of the channels.
    """
    each, half = squeeze.shape
    q, k, v = projections(layer)
    keys = len(q)
    taps = layer.conv1d.weight[:, 0].normal_(0, 0.4 * NOISE)
    taps[: 2 * keys, -1] += 1
    k.copy_(q)
    v.zero_()
    layer.in_proj_b.weight[:, 0] += 0.6  # write strength
    layer.out_proj.weight.zero_()
    share = len(v) // LAGS
    what = torch.randn(share, half) * SMALL
    what[:, 0] = 0
    for lag in range(LAGS):
        rows = slice(lag * share, (lag + 1) * share)
        v[rows, :half] = what
        taps[2 * keys :][rows, -2 - lag] += 1
        place = half + lag * each
        layer.out_proj.weight[place : place + each, rows] = (
            0.45 * WIDTH * squeeze @ what.T
        )


def induce(layer, squeeze):
    """After what now stands here and before it, what came the last time?"""
    each, half = squeeze.shape
    H, G, K = layer.heads, layer.kv_heads, layer.head_dim
    queries = layer.q_proj.weight.view(H, 2, K, -1)  # a head's query, then its gate
    queries.zero_()
    queries[:, 1].normal_(0, 0.02)
    queries[:, 1, :, 0] += 0.25  # open
    layer.k_proj.weight.zero_()
    layer.v_proj.weight.zero_()
    for group in range(G):
        rows = slice(group * K, (group + 1) * K)
        turned = 4 * torch.linalg.qr(torch.randn(K, LAGS * each))[0]
        turned[: K // 4] = 0  # rotated with the place, which shall not count
        layer.k_proj.weight[rows, half : half + LAGS * each] = turned
        layer.v_proj.weight[rows, :half] = torch.linalg.qr(torch.randn(K, half))[0]
        layer.v_proj.weight[rows, 0] = 0
        for head in range(group * H // G, (group + 1) * H // G):
            queries[head, 0, :, :half] = turned[:, :each] @ squeeze
            queries[head, 0, :, half : half + turned.shape[1] - each] = turned[:, each:]
            queries[head, 0, :, 0] = 0
            own = slice(head * K, (head + 1) * K)
            # Louder than the token's own embedding, which would be said again.
            layer.o_proj.weight[:, own] = layer.v_proj.weight[rows].T * (15 * WIDTH / H)
    for norm in (layer.q_norm, layer.k_norm):
        norm.weight.fill_(1.0)  # NOTE: 1 + w is the factor: scores four times as large
