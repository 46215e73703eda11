"""Four of llama.cpp's forms: rows of blocks, each its scales and its codes.

    Q8_0   32 weights in 34 bytes: scale d; a signed byte q each         d q
    Q4_K   256 in 144: d, m; 6 bits of s and of t for every 32; 4 of q   d s q - m t
    Q5_K   256 in 176: the same, and 32 bytes with a fifth bit of q      d s q - m t
    Q6_K   256 in 210: 4 bits of q, 2 more, signed s for every 16, d     d s (q - 32)

d and m are float16. Codes lie in the order in which 32 weights are taken out of 32
bytes: the lower halves are 32 weights, the upper halves 32 others.
Source: ggml/src/ggml-quants.c of llama.cpp; equal to its `gguf` package bit for bit.
"""

import torch

BLOCKS = {"Q8_0": (32, 34), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)}
SCALES = {"Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}  # float16


class Ggml:
    """uint8 [..., R, bytes of a row], with no packing: llama.cpp's tools do that."""

    suffixes = ("",)

    def __init__(self, kind):
        self.kind = kind

    def stored(self, shape):
        *lead, width = shape
        weights, size = BLOCKS[self.kind]
        return {"": ((*lead, width // weights * size), torch.uint8)}

    def widen(self, parts, width):
        blocks = parts[""].unflatten(-1, (-1, BLOCKS[self.kind][1]))
        return WIDEN[self.kind](blocks).flatten(-2)[..., :width]

    def fault(self, parts, width):
        blocks = parts[""].unflatten(-1, (-1, BLOCKS[self.kind][1]))
        if all(half(blocks, at).sum().isfinite() for at in SCALES[self.kind]):
            return None
        return "has scales that are NaN or infinite"


def half(blocks, at):
    """The float16 at a byte of each block, as float32 [..., 1]."""
    return blocks[..., at : at + 2].contiguous().view(torch.float16).float()


def q8_0(blocks):
    return half(blocks, 0) * blocks[..., 2:].view(torch.int8).float()


def q4_k(blocks, fifth=0):
    """fifth: what is added to the codes [..., 8, 32]."""
    pairs = blocks[..., -128:].unflatten(-1, (4, 1, 32))
    codes = torch.cat((pairs & 15, pairs >> 4), -2).flatten(-3, -2) + fifth
    s, t = six_bits(blocks[..., 4:16])
    least = half(blocks, 2) * t.float()
    wide = (half(blocks, 0) * s.float())[..., None] * codes.float()
    return (wide - least[..., None]).flatten(-2)


def q5_k(blocks):
    bits = blocks[..., None, 16:48] >> steps(blocks, 1)
    return q4_k(blocks, (bits & 1) << 4)


def q6_k(blocks):
    low = blocks[..., :128].unflatten(-1, (2, 1, 64))
    low = torch.cat((low & 15, low >> 4), -2).unflatten(-1, (2, 32))  # [2, 2, 2, 32]
    high = blocks[..., 128:192].unflatten(-1, (2, 32))[..., None, :]
    high = high >> steps(blocks, 2) & 3
    codes = (low.flatten(-3, -2) | high << 4).flatten(-3) - 32.0
    scales = half(blocks, 208) * blocks[..., 192:208].view(torch.int8).float()
    return (scales[..., None] * codes.unflatten(-1, (16, 16))).flatten(-2)


def steps(blocks, by):
    """The shifts 0, by, 2 by ... below 8, as uint8 [n, 1]."""
    return torch.arange(0, 8, by, dtype=torch.uint8, device=blocks.device)[:, None]


def six_bits(packed):
    """s and t [..., 8] of 12 bytes: four of each, four of each, the others' halves."""
    s, t, rest = packed.unflatten(-1, (3, 4)).unbind(-2)
    return (
        torch.cat((s & 63, rest & 15 | s >> 6 << 4), -1),
        torch.cat((t & 63, rest >> 4 | t >> 6 << 4), -1),
    )


WIDEN = {"Q8_0": q8_0, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}
