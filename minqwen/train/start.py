"""Weights to begin with, so that to find again what was said is soon learned.

From transformers' start a short run never learns to copy. Here each delta layer begins
as a blurred induction head, which training sharpens (compare Trockman and others,
arXiv 2410.11135, on state space models that learn to copy):

    one constant     every embedding has it, so gates, which have no bias, are open
    head             begins as the embedding: what is copied is said
    q and k          alike, but k looks one token further back: a token's key is what
                     stood before it, and it is found by what stands now
    v and output     one is the other's transpose, so what is read is what was written
    dt_bias          half-lives from a token to hundreds of them
"""

import math

import torch

from ..model.deltanet import GatedDeltaNet

WIDTH = 0.1  # standard deviation of embeddings and values
CONSTANT = 1.0  # the first number of every embedding
OPEN = 0.4  # how much of it the output gate takes
ALIKE = 0.95  # correlation of q's weights and k's
NOISE = 0.05  # of the taps
SAID = 0.5  # of what was written, read back


@torch.no_grad()
def start(model):
    """Set the weights of a new Qwen, from torch's generator."""
    words = model.model.language_model.embed_tokens.weight
    words.normal_(0, WIDTH)
    if hasattr(model, "lm_head"):
        model.lm_head.weight.copy_(words)
    words[:, 0] = CONSTANT
    for module in model.modules():
        if isinstance(module, GatedDeltaNet):
            start_delta(module)


def start_delta(layer):
    keys = layer.key_heads * layer.head_k_dim
    q, k, v = layer.in_proj_qkv.weight.split([keys, keys, len(layer.out_proj.weight.T)])
    k.copy_(ALIKE * q + math.sqrt(1 - ALIKE**2) * k)
    v.normal_(0, WIDTH)
    layer.out_proj.weight.copy_(SAID * v.T)
    layer.in_proj_qkv.weight[:, 0] = 0  # what all have alike tells no two apart
    layer.in_proj_z.weight[:, 0] += OPEN
    taps = layer.conv1d.weight[:, 0]  # [channels, W], the last one is the token itself
    taps.normal_(0, NOISE)
    taps[2 * keys :, -1] += 1
    for head in range(layer.key_heads):
        back = 1 + head % (taps.shape[1] - 1)
        of_head = slice(head * layer.head_k_dim, (head + 1) * layer.head_k_dim)
        taps[:keys][of_head, -back] += 1
        taps[keys : 2 * keys][of_head, -back - 1] += 1
    # softplus(dt_bias) log-uniform in [0.001, 0.1], as Mamba2 (arXiv 2405.21060) and
    # Gated DeltaNet were trained. With dt_bias 1, where transformers' class starts,
    # nearly every head forgets within a token, and a short run does not unlearn that.
    step = torch.empty_like(layer.dt_bias)
    step.uniform_(math.log(1e-3), math.log(0.1)).exp_()
    layer.dt_bias.copy_(step.expm1().log())  # the inverse of softplus
