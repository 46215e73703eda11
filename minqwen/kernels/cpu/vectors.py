"""32 numbers at a time, where numba's loops do not become the vectors they should.

A compiler makes vectors of a plain loop over floats, but of codes that are cut out of
bytes it makes little. Here a vector is a value in numba's eyes, with operators:

    codes = load(row, at)                 32 bytes of a uint8 array
    sums += scale * (floats(codes & 15) * load(x, i))
    total(sums)

LLVM cuts it into registers of the processor at hand. Numbers beside vectors stand for
32 of them. Products and sums may be fused and reordered, as in loops.py; differences
are exact, so that what is widened has the same last bit everywhere.
"""

import operator

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 32
INDEX = ir.IntType(32)
FLAGS = ("reassoc", "contract", "nsz", "arcp")


class Vector(types.Type):
    """The type of 32 numbers of a kind."""

    def __init__(self, number, kind):
        super().__init__(name=f"Vector({number})")
        self.number, self.kind = number, kind


FLOATS = Vector(types.float32, ir.FloatType())
BYTES = Vector(types.uint8, ir.IntType(8))
OF = {types.float32: FLOATS, types.uint8: BYTES}


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, of):
        super().__init__(manager, of, ir.VectorType(of.kind, WIDTH))


def each(builder, value, kind):
    """A vector of 32 times a value."""
    vector = ir.VectorType(kind, WIDTH)
    nothing = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(INDEX, 0))
    return builder.shuffle_vector(one, nothing, lanes([0] * WIDTH))


def lanes(places):
    return ir.Constant(ir.VectorType(INDEX, len(places)), places)


def pointer(context, builder, signature, values, vector):
    """Where a vector begins in an array: the first two values of an intrinsic."""
    start = context.cast(builder, values[1], signature.args[1], types.intp)
    data = context.make_array(signature.args[0])(context, builder, values[0]).data
    return builder.bitcast(builder.gep(data, [start]), vector.as_pointer())


@intrinsic
def load(typing, array, at):
    """32 numbers of a float32 or uint8 array [n] from `at` on."""
    of = OF[array.dtype]

    def build(context, builder, signature, values):
        vector = ir.VectorType(of.kind, WIDTH)
        place = pointer(context, builder, signature, values, vector)
        return builder.load(place, align=1)

    return of(array, at), build


@intrinsic
def put(typing, array, at, vector):
    """Write 32 float32 into an array [n] from `at` on."""

    def build(context, builder, signature, values):
        place = pointer(context, builder, signature, values, values[2].type)
        builder.store(values[2], place, 4)
        return context.get_dummy_value()

    return types.none(array, at, FLOATS), build


@intrinsic
def put_pairs(typing, array, at, even, odd):
    """Write 64 float32, taken by turns out of two vectors."""

    def build(context, builder, signature, values):
        places = [i // 2 + i % 2 * WIDTH for i in range(2 * WIDTH)]
        both = builder.shuffle_vector(values[2], values[3], lanes(places))
        place = pointer(context, builder, signature, values, both.type)
        builder.store(both, place, 4)
        return context.get_dummy_value()

    return types.none(array, at, FLOATS, FLOATS), build


@intrinsic
def floats(typing, codes):
    """Bytes, from 0 to 255, as float32."""

    def build(context, builder, signature, values):
        return builder.uitofp(values[0], ir.VectorType(ir.FloatType(), WIDTH))

    return FLOATS(BYTES), build


@intrinsic
def signed(typing, codes):
    """Bytes, from -128 to 127, as float32."""

    def build(context, builder, signature, values):
        return builder.sitofp(values[0], ir.VectorType(ir.FloatType(), WIDTH))

    return FLOATS(BYTES), build


@intrinsic
def halves(typing, first, second):
    """A vector of 16 times one number and 16 times another."""

    def build(context, builder, signature, values):
        a, b = (each(builder, value, FLOATS.kind) for value in values)
        both = [0] * (WIDTH // 2) + [WIDTH] * (WIDTH // 2)
        return builder.shuffle_vector(a, b, lanes(both))

    return FLOATS(types.float32, types.float32), build


@intrinsic
def total(typing, vector):
    """The sum of 32 float32."""

    def build(context, builder, signature, values):
        (v,), width = values, WIDTH
        while width > 1:
            width //= 2
            low, high = range(width), range(width, 2 * width)
            parts = (builder.shuffle_vector(v, v, lanes([*x])) for x in (low, high))
            v = builder.fadd(*parts, flags=FLAGS)
        return builder.extract_element(v, ir.Constant(INDEX, 0))

    return types.float32(FLOATS), build


def binary(operation, on_floats, on_bytes):
    """Let an operator work on vectors, or on one and a number."""

    @intrinsic
    def combine(typing, a, b):
        of = a if isinstance(a, Vector) else b

        def build(context, builder, signature, values):
            both = [
                value if given == of
                else each(builder, context.cast(builder, value, given, of.number),
                          of.kind)
                for given, value in zip((a, b), values, strict=True)
            ]  # fmt: skip
            if of == BYTES:
                return getattr(builder, on_bytes)(*both)
            flags = () if on_floats == "fsub" else FLAGS
            return getattr(builder, on_floats)(*both, flags=flags)

        return of(a, b), build

    @overload(operation)
    def operate(a, b):
        if isinstance(a, Vector) or isinstance(b, Vector):
            return lambda a, b: combine(a, b)
        return None


for operation, *names in (
    (operator.add, "fadd", "add"), (operator.iadd, "fadd", "add"),
    (operator.sub, "fsub", "sub"),
    (operator.mul, "fmul", "mul"), (operator.and_, None, "and_"),
    (operator.or_, None, "or_"), (operator.rshift, None, "lshr"),
    (operator.lshift, None, "shl"),
):  # fmt: skip
    binary(operation, *names)


@intrinsic
def zeros(typing):
    """32 times 0.0."""
    vector = ir.VectorType(ir.FloatType(), WIDTH)
    return FLOATS(), lambda *_: ir.Constant(vector, [0.0] * WIDTH)
