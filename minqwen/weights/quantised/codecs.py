"""The forms of a quantised weight matrix: what is stored, and how it is widened.

    fp8    as released: F8_E4M3, and BF16 scales `_scale_inv`, one for each block of
           128 x 128
    int8   ours: each row is its BF16 scales, one for every 128 columns, then its codes
    int4   the same with two codes a byte, the even column in the low half
    Q8_0, Q4_K, Q5_K, Q6_K   llama.cpp's: see ggml.py

A row of ours needs nothing else to be widened, so an expert, being rows, lies in one
piece of the file and is read at once. A form gives the same numbers wherever it is
widened, since the product of two short numbers is exact in float32. What weights are
multiplied with stays as it is, unless `rounded` is asked for.
"""

import torch
import torch.nn.functional as F

from ...errors import InputError, show
from .ggml import BLOCKS, Ggml

SIDE = 128  # rows and columns of fp8's blocks, columns of our groups
TOP = 448.0  # the largest E4M3 number
LEAST = torch.finfo(torch.float32).tiny  # the smallest scale
CONTIGUOUS = torch.contiguous_format  # `contiguous` leaves odd strides to axes of 1
# Never quantised: small, read by rows, or sensitive.
KEPT = ("embed_tokens", "lm_head", "norm", "conv1d", "A_log", "dt_bias", "in_proj_a",
        "in_proj_b", "mlp.gate.", "shared_expert_gate", "visual", "mtp.fc")  # fmt: skip


def quantisable(name):
    """Is the parameter of this name one of the large matrices that are quantised?"""
    return not any(word in name for word in KEPT)


def scale(x, by):
    """Multiply x [..., W] in place by [..., ceil(W / 128)], one for 128 columns."""
    whole = x.shape[-1] // SIDE
    full = x[..., : whole * SIDE].unflatten(-1, (whole, SIDE))
    full.mul_(by[..., :whole, None])
    x[..., whole * SIDE :].mul_(by[..., whole:])
    return x


def groups(width):
    return -(-width // SIDE)


def by_group(x):
    """[..., W] -> [..., ceil(W / 128), 128], the last filled up with zeros."""
    return F.pad(x, (0, -x.shape[-1] % SIDE)).unflatten(-1, (-1, SIDE))


def rounded(x):
    """x [..., W] as 8 bits hold it: of 128 columns, whole 127ths of the largest |x|."""
    some = by_group(x.float())
    scales = (some.abs().amax(-1, keepdim=True) * (1 / 127)).clamp_min(LEAST)
    wide = (some * scales.reciprocal()).round_().mul_(scales)
    return wide.flatten(-2)[..., : x.shape[-1]].to(x.dtype)


class Blocks:
    """fp8: float8_e4m3fn [..., R, C], and scales [..., ceil(R/128), ceil(C/128)]."""

    suffixes = "", "_scale_inv"

    def __init__(self, scale_dtype):
        self.scale_dtype = scale_dtype

    def stored(self, shape):
        """{suffix: (shape, dtype)} of what is stored of a [..., R, C]."""
        *lead, rows, width = shape
        blocks = (*lead, groups(rows), groups(width))
        return {
            "": (tuple(shape), torch.float8_e4m3fn),
            "_scale_inv": (blocks, self.scale_dtype),
        }

    def pack(self, w):
        """{suffix: tensor} that encodes w [..., R, C], float32."""
        tops = by_group(w.abs()).amax(-1)  # [..., R, ceil(C / 128)]
        tops = by_group(tops.mT).amax(-1).mT.clone(memory_format=CONTIGUOUS)
        scales = nonzero((tops / TOP).to(self.scale_dtype))
        each = self._rows(scales.float().reciprocal(), w.shape[-2])
        ratio = scale(w.clone(), each)
        return {
            "": ratio.clamp_(-TOP, TOP).to(torch.float8_e4m3fn),
            "_scale_inv": scales,
        }

    def widen(self, parts, width):
        """float32 [..., R, C] of what `pack` gave, or of the released files."""
        codes, scales = parts[""], parts["_scale_inv"]
        return scale(codes.float(), self._rows(scales.float(), codes.shape[-2]))

    def _rows(self, scales, rows):
        """A row of scales for each row of the matrix."""
        return scales.repeat_interleave(SIDE, -2)[..., :rows, :]

    def fault(self, parts, width):
        """What is wrong with some of the parts, as a phrase, or None."""
        scales, codes = parts.get("_scale_inv"), parts.get("")
        if scales is not None and not (scales.isfinite() & (scales > 0)).all():
            return "has scales that are NaN, infinite, zero or negative"
        # E4M3 has no infinities; its NaN are all ones behind the sign
        if codes is not None and (codes.view(torch.uint8) & 127 == 127).any():
            return "holds NaN"
        return None


class Groups:
    """int8, int4: uint8 [..., R, bytes of a row], scales first."""

    suffixes = ("",)

    def __init__(self, bits):
        self.bits, self.zero = bits, 2 ** (bits - 1)

    def stored(self, shape):
        *lead, width = shape
        codes = -(-width * self.bits // 16) * 2  # whole pairs of bytes
        return {"": ((*lead, 2 * groups(width) + codes), torch.uint8)}

    def pack(self, w):
        """The largest of a group, with its sign, becomes the lowest code."""
        # So all 2^bits codes are used, which at 4 bits loses less than a symmetric
        # range of 15, and needs no second number, as a range of its own would.
        width = w.shape[-1]
        least, most = by_group(w).aminmax(dim=-1)
        tops = torch.where(most >= -least, most, least)
        scales = nonzero((tops / -self.zero).bfloat16())
        codes = scale(w.clone(), scales.float().reciprocal()).round_()
        codes = codes.clamp_(-self.zero, self.zero - 1).add_(self.zero).byte()
        row = w.new_zeros(self.stored(w.shape)[""][0], dtype=torch.uint8)
        row[..., : 2 * scales.shape[-1]] = scales.view(torch.uint8)
        body = row[..., 2 * scales.shape[-1] :]
        if self.bits == 4:
            body[..., : (width + 1) // 2] = codes[..., ::2]
            body[..., : width // 2] |= codes[..., 1::2] << 4
        else:
            body[..., :width] = codes
        return {"": row}

    def widen(self, parts, width):
        scales, body = self._split(parts[""], width)
        out = torch.empty(*body.shape[:-1], width, device=body.device)
        if self.bits == 4:
            out[..., ::2] = body[..., : (width + 1) // 2] & 15
            out[..., 1::2] = body[..., : width // 2] >> 4
        else:
            out[:] = body[..., :width]
        return scale(out.sub_(self.zero), scales.float())

    def _split(self, row, width):
        edge = 2 * groups(width)
        return row[..., :edge].view(torch.bfloat16), row[..., edge:]

    def fault(self, parts, width):
        scales, _ = self._split(parts[""], width)
        if not (scales.isfinite() & (scales != 0)).all():
            return "has scales that are NaN, infinite or zero"
        return None


FORMS = {
    "fp8": Blocks(torch.bfloat16), "int8": Groups(8), "int4": Groups(4),
    "fp8 f32": Blocks(torch.float32),  # as transformers writes it
} | {kind: Ggml(kind) for kind in BLOCKS}  # fmt: skip


def nonzero(scales):
    """Put 1 where a scale is (nearly) zero, since weights are divided by it."""
    return scales.masked_fill_(scales.abs() < torch.finfo(torch.bfloat16).tiny, 1)


def take(parts, low, high, rows):
    """Rows [low, high) of `rows` of packed parts; low a multiple of 128, for fp8."""
    return {
        suffix: part[..., slice(*rows_of(part.shape, low, high, rows)), :]
        for suffix, part in parts.items()
    }


def rows_of(shape, low, high, rows):
    """Where the stored [..., n, w] holds rows [low, high) of a matrix of `rows`.

    n is `rows`, or one for each block of 128 begun, or twice that for two matrices.
    """
    return low * shape[-2] // rows, high * shape[-2] // rows


def read_choice(text, allowed, plain):
    """ "int4" or "int4:int8" -> (form of experts, form of the rest); plain as None.

    allowed: the forms that may be named; plain: the word for none.
    """
    names = show(text).split(":")
    if len(names) > 2 or not {*names} <= {*allowed, plain} or names[0] == plain:
        listed = ", ".join(repr(name) for name in allowed)
        raise InputError(
            f"quantize={show(text)!r} is not supported; give {listed}, or the experts' "
            f"form and the rest's, such as 'int4:int8' or 'int4:{plain}'."
        )
    experts, rest = names[0], names[-1]
    return experts, None if rest == plain else rest
