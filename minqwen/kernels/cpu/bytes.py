"""Sums of products of bytes, for at most 128 columns: int32, exact.

    signed(codes, x)     of codes, a byte each, 128 standing for 0
    nibbles(codes, x)    of bytes' low halves with x[:64], their high halves with x[64:]

x holds int8 in the guise of uint8, -127 to 127. AVX2 multiplies unsigned bytes with
signed ones and adds up pairs in 16 bits. LLVM does not find that by itself, so it is
named here, for 128 columns; the rest, and other processors, take the plain loops.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.cgutils import get_or_insert_function
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from .loops import FAST

AVX2 = "+avx2" in cpu_target.target_context.codegen().magic_tuple()[2]
I32, U8 = np.int32, np.uint8
INT, BYTES = ir.IntType(32), ir.VectorType(ir.IntType(8), 32)
PAIRS, FOURS = ir.VectorType(ir.IntType(16), 16), ir.VectorType(INT, 8)


@njit(**FAST)
def signed(codes, x):
    if AVX2 and len(codes) == 128:
        return vector_signed(codes, x)
    return plain_signed(codes, x)


@njit(**FAST)
def nibbles(codes, x):
    if AVX2 and len(codes) == 64:
        return vector_nibbles(codes, x)
    return plain_nibbles(codes, x)


@njit(**FAST)
def plain_signed(codes, x):
    total = I32(0)
    for c in range(len(codes)):
        code = I32(I32(codes[c]) - I32(128))
        total = I32(total + I32(code * I32(np.int8(x[c]))))
    return total


@njit(**FAST)
def plain_nibbles(codes, x):
    total = I32(0)
    for c in range(len(codes)):
        low, high = U8(codes[c] & U8(15)), U8(codes[c] >> U8(4))
        total = I32(total + I32(I32(low) * I32(np.int8(x[c]))))
        total = I32(total + I32(I32(high) * I32(np.int8(x[c + 64]))))
    return total


def in_vectors(parts):
    """A function of codes and x: the sum of the PAIRS or FOURS that parts() yields."""

    @intrinsic
    def total(typing, codes, x):
        def build(context, builder, signature, args):
            def call(name, result, *values):  # LLVM's intrinsic
                kind = ir.FunctionType(result, [v.type for v in values])
                function = get_or_insert_function(builder.module, kind, "llvm." + name)
                return builder.call(function, values)

            def load(array, i):
                value = builder.load(
                    builder.bitcast(builder.gep(array, [INT(i)]), BYTES.as_pointer())
                )
                value.align = 1
                return value

            arrays = zip(map(context.make_array, signature.args), args, strict=True)
            codes, x = (make(context, builder, a).data for make, a in arrays)
            loads = (lambda i: load(codes, i)), (lambda i: load(x, i))
            sum_ = None
            for part in parts(builder, call, *loads):
                sum_ = builder.add(sum_, part) if sum_ else part
            if sum_.type == PAIRS:
                sum_ = call("x86.avx2.pmadd.wd", FOURS, sum_, PAIRS([1] * 16))
            return call("vector.reduce.add.v8i32", INT, sum_)

        return types.int32(codes, x), build

    return total


def signed_parts(builder, call, codes, x):
    # |w| times x with w's sign: a pair is at most 2 * 128 * 127, two would not fit.
    for i in range(0, 128, 32):
        w = builder.xor(codes(i), BYTES([128] * 32))
        size = call("abs.v32i8", BYTES, w, ir.IntType(1)(0))
        some = call("x86.avx2.psign.b", BYTES, x(i), w)
        some = call("x86.avx2.pmadd.ub.sw", PAIRS, size, some)
        yield call("x86.avx2.pmadd.wd", FOURS, some, PAIRS([1] * 16))


def nibble_parts(builder, call, codes, x):
    # Four of these, each at most 2 * 15 * 127, fit into 16 bits.
    for i in 0, 32:
        w = codes(i)
        low, high = builder.and_(w, BYTES([15] * 32)), builder.lshr(w, BYTES([4] * 32))
        yield call("x86.avx2.pmadd.ub.sw", PAIRS, low, x(i))
        yield call("x86.avx2.pmadd.ub.sw", PAIRS, high, x(64 + i))


vector_signed, vector_nibbles = in_vectors(signed_parts), in_vectors(nibble_parts)
