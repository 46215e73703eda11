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
from functools import partial

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 32
INDEX = ir.IntType(32)
AVX2 = "+avx2" in cpu_target.target_context.codegen().magic_tuple()[2]
FLAGS = ("reassoc", "contract", "nsz", "arcp")


class Vector(types.Type):
    """The type of 32 numbers of a kind, or of eight sums."""

    def __init__(self, number, kind, width=WIDTH):
        super().__init__(name=f"Vector({number}, {width})")
        self.number, self.kind = number, kind
        self.vector = ir.VectorType(kind, width)


FLOATS = Vector(types.float32, ir.FloatType())
BYTES = Vector(types.uint8, ir.IntType(8))
SUMS = Vector(types.int32, INDEX, 8)
OF = {types.float32: FLOATS, types.uint8: BYTES}


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, of):
        super().__init__(manager, of, of.vector)


def each(builder, value, of):
    """A vector of a type with one value everywhere."""
    nothing = ir.Constant(of.vector, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(INDEX, 0))
    return builder.shuffle_vector(one, nothing, lanes([0] * of.vector.count))


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
        a, b = (each(builder, value, FLOATS) for value in values)
        both = [0] * (WIDTH // 2) + [WIDTH] * (WIDTH // 2)
        return builder.shuffle_vector(a, b, lanes(both))

    return FLOATS(types.float32, types.float32), build


@intrinsic
def total(typing, vector):
    """The sum of a vector's numbers."""

    def build(context, builder, signature, values):
        (v,), width = values, vector.vector.count
        add = partial(builder.fadd, flags=FLAGS) if vector == FLOATS else builder.add
        while width > 1:
            width //= 2
            low, high = range(width), range(width, 2 * width)
            v = add(*(builder.shuffle_vector(v, v, lanes([*x])) for x in (low, high)))
        return builder.extract_element(v, ir.Constant(INDEX, 0))

    return vector.number(vector), build


def load_words(of, array, at, unit):
    """An intrinsic's result: a vector of an int32 array from unit `at` on."""

    def build(context, builder, signature, values):
        start = context.cast(builder, values[1], signature.args[1], types.intp)
        data = context.make_array(array)(context, builder, values[0]).data
        data = builder.bitcast(data, unit.as_pointer())
        place = builder.bitcast(builder.gep(data, [start]), of.vector.as_pointer())
        return builder.load(place, align=1)

    return of(array, at), build


@intrinsic
def load_bytes(typing, words, at):
    """32 bytes of an int32 array [n], from byte `at` on."""
    return load_words(BYTES, words, at, BYTES.kind)


@intrinsic
def load_sums(typing, words, at):
    """8 numbers of an int32 array [n], from number `at` on."""
    return load_words(SUMS, words, at, SUMS.kind)


@intrinsic
def products(typing, codes, x, first, second):
    """Sums of four of codes (0 to 127, or 128 once) times x (int8) times a factor.

    `first` is the factor of the first 16 columns, `second` of the others: int8.
    """
    pairs, wide = ir.VectorType(ir.IntType(16), 16), ir.VectorType(INDEX, WIDTH)

    def by_name(builder, codes, x, factors):
        def call(name, out, *args):
            kind = ir.FunctionType(out, [a.type for a in args])
            function = get_or_insert_function(builder.module, kind, "llvm." + name)
            return builder.call(function, args)

        # NOTE: two products must fit into 16 bits, as 2 * 128 * 127 does.
        some = call("x86.avx2.pmadd.ub.sw", pairs, codes, x)
        return call(
            "x86.avx2.pmadd.wd", SUMS.vector, some, builder.trunc(factors, pairs)
        )

    def plainly(builder, codes, x, factors):
        some = builder.mul(builder.zext(codes, wide), builder.sext(x, wide))
        twice = [i // 2 for i in range(WIDTH)]
        some = builder.mul(some, builder.shuffle_vector(factors, factors, lanes(twice)))
        for width in 16, 8:  # neighbours are added up
            even, odd = (lanes([2 * i + k for i in range(width)]) for k in range(2))
            some = builder.add(
                *(builder.shuffle_vector(some, some, p) for p in (even, odd))
            )
        return some

    def build(context, builder, signature, values):
        a, b = (
            each(builder, context.cast(builder, v, given, types.int32), SUMS)
            for v, given in zip(values[2:], signature.args[2:], strict=True)
        )
        factors = builder.shuffle_vector(a, b, lanes([0] * 8 + [8] * 8))
        return (by_name if AVX2 else plainly)(builder, *values[:2], factors)

    return SUMS(codes, x, first, second), build


@intrinsic
def sizes(typing, codes):
    """|codes| of int8: 128 of -128."""

    def build(context, builder, signature, values):
        none = ir.Constant(BYTES.vector, None)
        below = builder.icmp_signed("<", values[0], none)
        return builder.select(below, builder.neg(values[0]), values[0])

    return BYTES(codes), build


@intrinsic
def with_signs(typing, x, codes):
    """x, negative where int8 codes are."""

    def build(context, builder, signature, values):
        none = ir.Constant(BYTES.vector, None)
        below = builder.icmp_signed("<", values[1], none)
        return builder.select(below, builder.neg(values[0]), values[0])

    return BYTES(x, codes), build


@intrinsic
def no_sums(typing):
    """Eight times 0, int32."""
    return SUMS(), lambda *_: ir.Constant(SUMS.vector, None)


def binary(operation, on_floats, on_bytes):
    """Let an operator work on vectors, or on one and a number."""

    @intrinsic
    def combine(typing, a, b):
        of = a if isinstance(a, Vector) else b

        def build(context, builder, signature, values):
            both = [
                value if given == of
                else each(builder, context.cast(builder, value, given, of.number), of)
                for given, value in zip((a, b), values, strict=True)
            ]  # fmt: skip
            if of != FLOATS:
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
    (operator.lshift, None, "shl"), (operator.xor, None, "xor"),
):  # fmt: skip
    binary(operation, *names)


@intrinsic
def zeros(typing):
    """32 times 0.0."""
    vector = ir.VectorType(ir.FloatType(), WIDTH)
    return FLOATS(), lambda *_: ir.Constant(vector, [0.0] * WIDTH)
