"""A vocabulary of explicit vectors: eight 64-bit words that LLVM keeps in registers.

Numba's own vectoriser reaches a third of the machine's popcount limit, because it decides by itself what to keep in
registers. Here the kernel says so: a value of type ``Words8`` is an LLVM ``<8 x i64>``, one AVX-512 register, two AVX2
or four SSE or NEON ones. LLVM lowers the same operations to whatever the target has, so nothing here names a machine.

The functions exist in compiled code only. Indices are in elements of a one-dimensional array and are not checked.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

LANES = 8
_I8, _I16, _I32, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_WORDS = ir.VectorType(_I64, LANES)
_INTS = ir.VectorType(_I32, LANES)
_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)


class Words8(types.Type):
    """The Numba type of eight 64-bit words in a vector register."""

    def __init__(self):
        super().__init__(name="Words8")


words8 = Words8()


@register_model(Words8)
class _Words8Model(models.PrimitiveModel):
    def __init__(self, manager, frontend_type):
        super().__init__(manager, frontend_type, _WORDS)


def _pointer(context, builder, array_type, array, index, element):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), element.as_pointer())


def _load(builder, pointer, align):
    value = builder.load(pointer)
    value.align = align
    return value


def _store(builder, value, pointer, align):
    builder.store(value, pointer).align = align


def _store_first(builder, count, value, pointer):
    """Store the first ``count`` lanes of a vector of 32-bit numbers."""
    vector = value.type
    lanes = ir.Constant(ir.VectorType(_I32, vector.count), list(range(vector.count)))
    wanted = builder.icmp_signed("<", lanes, _splat(builder, builder.trunc(count, _I32), lanes.type))
    kind = "f32" if isinstance(vector.element, ir.FloatType) else "i32"
    store = cgutils.get_or_insert_function(builder.module, ir.FunctionType(
        ir.VoidType(), [vector, pointer.type, _I32, wanted.type]), f"llvm.masked.store.v{vector.count}{kind}.p0")
    builder.call(store, [value, pointer, _I32(4), wanted])


def _splat(builder, scalar, vector_type):
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    lanes = ir.Constant(ir.VectorType(_I32, vector_type.count), [0] * vector_type.count)
    return builder.shuffle_vector(first, undefined, lanes)


@intrinsic
def zero(typing):
    """``() -> Words8`` of zeros."""
    return words8(), lambda context, builder, signature, args: ir.Constant(_WORDS, [0] * LANES)


@intrinsic
def load(typing, array, index):
    """``array[index : index + 8]`` of a uint64 array."""

    def generate(context, builder, signature, args):
        return _load(builder, _pointer(context, builder, signature.args[0], args[0], args[1], _WORDS), 8)

    return words8(array, index), generate


@intrinsic
def broadcast(typing, array, index):
    """``array[index]`` of a uint64 array in all eight lanes."""

    def generate(context, builder, signature, args):
        word = _load(builder, _pointer(context, builder, signature.args[0], args[0], args[1], _I64), 8)
        return _splat(builder, word, _WORDS)

    return words8(array, index), generate


@intrinsic
def add(typing, a, b):
    """Lane-wise sum."""
    return words8(a, b), lambda context, builder, signature, args: builder.add(*args)


@intrinsic
def xor_popcount(typing, a, b):
    """Lane-wise number of bits in which ``a`` and ``b`` differ."""

    def generate(context, builder, signature, args):
        popcount = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_WORDS, [_WORDS]), "llvm.ctpop.v8i64")
        return builder.call(popcount, [builder.xor(*args)])

    return words8(a, b), generate


@intrinsic
def at(typing, array, index):
    """``array[index]``, index >= 0. Plain indexing first asks whether the index counts from the end."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, index), generate


@intrinsic
def put(typing, array, index, value):
    """``array[index] = value``, index >= 0."""

    def generate(context, builder, signature, args):
        array_type, _, value_type = signature.args
        data = context.make_array(array_type)(context, builder, args[0]).data
        builder.store(context.cast(builder, args[2], value_type, array_type.dtype), builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, index, value), generate


@intrinsic
def store_difference(typing, out, index, table, table_index, words, count):
    """``out[index : index + 8] = table[table_index : table_index + 8] - words`` in int32, the first ``count`` of them.

    Nothing is written where count <= 0, so that the caller needs no branch.
    """

    def generate(context, builder, signature, args):
        out, index, table, table_index, words, count = args
        types_ = signature.args
        constant = _load(builder, _pointer(context, builder, types_[2], table, table_index, _INTS), 4)
        difference = builder.sub(constant, builder.trunc(words, _INTS))
        _store_first(builder, count, difference, _pointer(context, builder, types_[0], out, index, _INTS))
        return context.get_dummy_value()

    return types.void(out, index, table, table_index, words, count), generate


MAGIC = 0x4338000000000000  # the bits of MAGIC_FLOAT; adding a small integer to either adds it to the other
MAGIC_FLOAT = 6755399441055744.0  # 2**52 + 2**51


@intrinsic
def add_scaled_difference(typing, out, index, table, table_index, words, scale):
    """``out[index : index + 8] += scale * (table[table_index : table_index + 8] - words)`` in float64.

    ``table`` holds int64 integers plus MAGIC: their difference, read as a float64, is the integer plus MAGIC_FLOAT, so
    that no conversion is needed (few machines have one). Multiplied and added in two roundings, as NumPy does it.
    """

    def generate(context, builder, signature, args):
        out, index, table, table_index, words, scale = args
        types_ = signature.args
        constant = _load(builder, _pointer(context, builder, types_[2], table, table_index, _WORDS), 8)
        difference = builder.bitcast(builder.sub(constant, words), _DOUBLES)
        difference = builder.fsub(difference, ir.Constant(_DOUBLES, [MAGIC_FLOAT] * LANES))
        pointer = _pointer(context, builder, types_[0], out, index, _DOUBLES)
        product = builder.fmul(difference, _splat(builder, scale, _DOUBLES))
        _store(builder, builder.fadd(_load(builder, pointer, 8), product), pointer, 8)
        return context.get_dummy_value()

    return types.void(out, index, table, table_index, words, scale), generate


@intrinsic
def mark_positions(typing, octet, target, codes, source, plane, position):
    """Set bit ``position`` of ``octet[target + c]`` where ``codes[source + c]`` has bit ``plane``, for 16 channels c."""

    def generate(context, builder, signature, args):
        octet, target, codes, source, plane, position = args
        vector = ir.VectorType(_I8, 16)
        pointer = _pointer(context, builder, signature.args[0], octet, target, vector)
        code = _load(builder, _pointer(context, builder, signature.args[2], codes, source, vector), 1)
        one = ir.Constant(_I8, 1)
        wanted = _splat(builder, builder.shl(one, builder.trunc(plane, _I8)), vector)
        mark = _splat(builder, builder.shl(one, builder.trunc(position, _I8)), vector)
        zeros = ir.Constant(vector, [0] * 16)
        found = builder.icmp_unsigned("!=", builder.and_(code, wanted), zeros)
        _store(builder, builder.or_(_load(builder, pointer, 1), builder.select(found, mark, zeros)), pointer, 1)
        return context.get_dummy_value()

    return types.void(octet, target, codes, source, types.int64, types.int64), generate


def _bit_mask(lanes):
    vector, mask = ir.VectorType(_I8, lanes), ir.IntType(lanes)

    @intrinsic
    def bits(typing, array, index, bit):
        def generate(context, builder, signature, args):
            codes = _load(builder, _pointer(context, builder, signature.args[0], args[0], args[1], vector), 1)
            wanted = builder.shl(ir.Constant(_I8, 1), builder.trunc(args[2], _I8))
            found = builder.and_(codes, _splat(builder, wanted, vector))
            flags = builder.icmp_unsigned("!=", found, ir.Constant(vector, [0] * lanes))
            word = builder.bitcast(flags, mask)
            return word if lanes == 64 else builder.zext(word, _I64)

        return types.uint64(array, index, types.int64), generate

    bits.__doc__ = f"One bit of each of ``array[index : index + {lanes}]`` (uint8), gathered into the low bits of a word."
    return bits


bits_of_64, bits_of_16 = _bit_mask(64), _bit_mask(16)


# Sixteen 32-bit integers, and dot products of four bytes into each

_INTS16 = ir.VectorType(_I32, 16)


class Ints16(types.Type):
    """The Numba type of sixteen 32-bit integers in vector registers."""

    def __init__(self):
        super().__init__(name="Ints16")


ints16 = Ints16()


@register_model(Ints16)
class _Ints16Model(models.PrimitiveModel):
    def __init__(self, manager, frontend_type):
        super().__init__(manager, frontend_type, _INTS16)


@intrinsic
def zero16(typing):
    """``() -> Ints16`` of zeros."""
    return ints16(), lambda context, builder, signature, args: ir.Constant(_INTS16, [0] * 16)


@intrinsic
def load16(typing, array, index):
    """``array[index : index + 16]`` of an int32 array."""

    def generate(context, builder, signature, args):
        return _load(builder, _pointer(context, builder, signature.args[0], args[0], args[1], _INTS16), 4)

    return ints16(array, index), generate


@intrinsic
def broadcast_bytes(typing, array, index):
    """The four bytes ``array[index : index + 4]`` of a uint8 array in all sixteen lanes."""

    def generate(context, builder, signature, args):
        word = _load(builder, _pointer(context, builder, signature.args[0], args[0], args[1], _I32), 1)
        return _splat(builder, word, _INTS16)

    return ints16(array, index), generate


@intrinsic
def shift_left(typing, a, bits):
    """``a << bits``, lane by lane."""

    def generate(context, builder, signature, args):
        return builder.shl(args[0], _splat(builder, builder.trunc(args[1], _I32), _INTS16))

    return ints16(a, types.int64), generate


def target_multiplies_bytes():
    """Does the machine that Numba compiles for (not the one it runs on) have byte dot products of 512 bits?"""
    return "+avx512vnni" in str(cpu_target.target_context.codegen().magic_tuple()[-1]).split(",")


@intrinsic
def dot(typing, accum, unsigned, signed):
    """``accum + u0 * s0 + u1 * s1 + u2 * s2 + u3 * s3``: bytes of ``unsigned`` (0..255) and ``signed`` (-128..127) a lane.

    One instruction (VPDPBUSD) where the target has it; elsewhere the same integers, byte by byte.
    """

    def generate(context, builder, signature, args):
        accum, unsigned, signed = args
        if target_multiplies_bytes():
            vpdpbusd = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_INTS16, [_INTS16] * 3),
                                                      "llvm.x86.avx512.vpdpbusd.512")
            return builder.call(vpdpbusd, args)
        for byte in range(4):
            up, down = (ir.Constant(_INTS16, [shift] * 16) for shift in (24 - 8 * byte, 24))
            u = builder.lshr(builder.shl(unsigned, up), down)
            s = builder.ashr(builder.shl(signed, up), down)
            accum = builder.add(accum, builder.mul(u, s))
        return accum

    return ints16(accum, unsigned, signed), generate


@intrinsic
def store_sum(typing, out, index, table, table_index, accum, factor, count):
    """``out[index : index + 16] = table[table_index : table_index + 16] + factor * accum``, the first ``count`` of them."""

    def generate(context, builder, signature, args):
        out, index, table, table_index, accum, factor, count = args
        types_ = signature.args
        constant = _load(builder, _pointer(context, builder, types_[2], table, table_index, _INTS16), 4)
        value = builder.add(constant, builder.mul(accum, _splat(builder, builder.trunc(factor, _I32), _INTS16)))
        _store_first(builder, count, value, _pointer(context, builder, types_[0], out, index, _INTS16))
        return context.get_dummy_value()

    return types.void(out, index, table, table_index, accum, types.int64, types.int64), generate


@intrinsic
def add_scaled_sum(typing, out, index, table, table_index, accum, factor, scale):
    """``out[index : index + 16] += scale * (table[table_index : table_index + 16] + factor * accum)`` in float64.

    Multiplied and added in two roundings, as NumPy does it.
    """

    def generate(context, builder, signature, args):
        out, index, table, table_index, accum, factor, scale = args
        types_ = signature.args
        doubles = ir.VectorType(ir.DoubleType(), 16)
        constant = _load(builder, _pointer(context, builder, types_[2], table, table_index, _INTS16), 4)
        value = builder.add(constant, builder.mul(accum, _splat(builder, builder.trunc(factor, _I32), _INTS16)))
        product = builder.fmul(builder.sitofp(value, doubles), _splat(builder, scale, doubles))
        pointer = _pointer(context, builder, types_[0], out, index, doubles)
        _store(builder, builder.fadd(_load(builder, pointer, 8), product), pointer, 8)
        return context.get_dummy_value()

    return types.void(out, index, table, table_index, accum, types.int64, types.float64), generate


# Sixteen float32 numbers

_FLOATS16 = ir.VectorType(ir.FloatType(), 16)


class Floats16(types.Type):
    """The Numba type of sixteen float32 numbers in vector registers."""

    def __init__(self):
        super().__init__(name="Floats16")


floats16 = Floats16()


@register_model(Floats16)
class _Floats16Model(models.PrimitiveModel):
    def __init__(self, manager, frontend_type):
        super().__init__(manager, frontend_type, _FLOATS16)


@intrinsic
def load_floats(typing, array, index):
    """``array[index : index + 16]`` of a float32 array."""

    def generate(context, builder, signature, args):
        return _load(builder, _pointer(context, builder, signature.args[0], args[0], args[1], _FLOATS16), 4)

    return floats16(array, index), generate


@intrinsic
def multiply_add(typing, accum, array, index, b):
    """``accum + array[index] * b``: one float32 of ``array``, broadcast, times a vector."""

    def generate(context, builder, signature, args):
        accum, array, index, b = args
        number = _load(builder, _pointer(context, builder, signature.args[1], array, index, ir.FloatType()), 4)
        fmuladd = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_FLOATS16, [_FLOATS16] * 3),
                                                 "llvm.fmuladd.v16f32")
        return builder.call(fmuladd, [_splat(builder, number, _FLOATS16), b, accum])

    return floats16(accum, array, index, b), generate


@intrinsic
def store_floats(typing, out, index, a, count):
    """``out[index : index + 16] = a`` of a float32 array, the first ``count`` of them."""

    def generate(context, builder, signature, args):
        out, index, a, count = args
        _store_first(builder, count, a, _pointer(context, builder, signature.args[0], out, index, _FLOATS16))
        return context.get_dummy_value()

    return types.void(out, index, a, types.int64), generate


# Elements of any type

@intrinsic
def copy16(typing, out, index, array, source):
    """``out[index : index + 16] = array[source : source + 16]`` of two arrays of one type. Both must reach that far."""

    def generate(context, builder, signature, args):
        out, index, array, source = args
        out_type, _, array_type, _ = signature.args
        vector = ir.VectorType(context.get_data_type(array_type.dtype), 16)
        align = array_type.dtype.bitwidth // 8
        value = _load(builder, _pointer(context, builder, array_type, array, source, vector), align)
        _store(builder, value, _pointer(context, builder, out_type, out, index, vector), align)
        return context.get_dummy_value()

    return types.void(out, index, array, source), generate


@intrinsic
def prefetch(typing, array, index):
    """Begin to bring ``array[index]``, which may lie beyond the end, from memory to the level-2 cache."""

    def generate(context, builder, signature, args):
        pointer = builder.bitcast(builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]]),
                                  _I8.as_pointer())
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(
            ir.VoidType(), [pointer.type, _I32, _I32, _I32]), "llvm.prefetch.p0")
        builder.call(function, [pointer, _I32(0), _I32(2), _I32(1)])  # to read, moderate locality, data
        return context.get_dummy_value()

    return types.void(array, index), generate
