"""A vocabulary of explicit vectors for Numba: sixteen 32-bit numbers that LLVM keeps in registers.

Numba's own vectoriser reaches a third of the machine's popcount limit, because it decides by itself what to keep in
registers. Here the kernel says so: a value of type ``Ints16`` is an LLVM ``<16 x i32>``, one AVX-512 register, two AVX2 or
four SSE or NEON ones; ``Floats16`` the same of float32. LLVM lowers the operations to whatever the target has, so nothing
here names a machine, but for one instruction in ``multiply``.

The functions exist in compiled code only. Indices are in elements of a one-dimensional array and are not checked.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model
from numba.np.arrayobj import populate_array

LANES = 16  # part of many a name here and of how kernels lay out what they load: not a number to turn
_I8, _I16, _I32, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_INTS = ir.VectorType(_I32, LANES)
_SHORTS = ir.VectorType(_I16, LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)


class Ints16(types.Type):
    """The Numba type of sixteen 32-bit integers or words in vector registers."""

    def __init__(self):
        super().__init__(name="Ints16")


class Floats16(types.Type):
    """The Numba type of sixteen float32 numbers in vector registers."""

    def __init__(self):
        super().__init__(name="Floats16")


ints16, floats16 = Ints16(), Floats16()


@register_model(Ints16)
class _Ints16Model(models.PrimitiveModel):
    def __init__(self, manager, frontend_type):
        super().__init__(manager, frontend_type, _INTS)


@register_model(Floats16)
class _Floats16Model(models.PrimitiveModel):
    def __init__(self, manager, frontend_type):
        super().__init__(manager, frontend_type, _FLOATS)


def _pointer(context, builder, array_type, array, index, element):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), element.as_pointer())


def _load(builder, pointer, align):
    value = builder.load(pointer)
    value.align = align
    return value


def _store(builder, value, pointer, align):
    builder.store(value, pointer).align = align


def _first(builder, count, lanes):
    """A mask of the first ``count`` of so many lanes."""
    numbers = ir.Constant(ir.VectorType(_I32, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, _splat(builder, builder.trunc(count, _I32), numbers.type))


def _store_first(builder, count, value, pointer):
    """Store the first ``count`` lanes of a vector of numbers of 16 or 32 bits."""
    vector = value.type
    wanted = _first(builder, count, vector.count)
    kind, size = {_FLOATS: ("f32", 4), _INTS: ("i32", 4), _SHORTS: ("i16", 2)}[vector]
    store = cgutils.get_or_insert_function(builder.module, ir.FunctionType(
        ir.VoidType(), [vector, pointer.type, _I32, wanted.type]), f"llvm.masked.store.v{vector.count}{kind}.p0")
    builder.call(store, [value, pointer, _I32(size), wanted])


def _splat(builder, scalar, vector_type):
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    lanes = ir.Constant(ir.VectorType(_I32, vector_type.count), [0] * vector_type.count)
    return builder.shuffle_vector(first, undefined, lanes)


@intrinsic
def at(typing, array, index):
    """``array[index]``, index >= 0. Plain indexing first asks whether the index counts from the end."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.intp), generate  # intp: a gep would take the sign of an index of fewer bits


@intrinsic
def put(typing, array, index, value):
    """``array[index] = value``, index >= 0."""

    def generate(context, builder, signature, args):
        array_type, _, value_type = signature.args
        data = context.make_array(array_type)(context, builder, args[0]).data
        builder.store(context.cast(builder, args[2], value_type, array_type.dtype), builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def zero(typing):
    """``() -> Ints16`` of zeros."""
    return ints16(), lambda context, builder, signature, args: ir.Constant(_INTS, [0] * LANES)


@intrinsic
def load(typing, array, index):
    """``array[index : index + 16]`` of an array of 32-bit integers."""

    def generate(context, builder, signature, args):
        return _load(builder, _pointer(context, builder, signature.args[0], args[0], args[1], _INTS), 4)

    return ints16(array, index), generate


@intrinsic
def broadcast(typing, array, index):
    """Sixteen times the 32 bits that begin at ``array[index]``: a word, or four bytes."""

    def generate(context, builder, signature, args):
        word = _load(builder, _pointer(context, builder, signature.args[0], args[0], args[1], _I32), 1)
        return _splat(builder, word, _INTS)

    return ints16(array, index), generate


@intrinsic
def add(typing, a, b):
    """Lane-wise sum."""
    return ints16(a, b), lambda context, builder, signature, args: builder.add(*args)


@intrinsic
def maximum(typing, a, b):
    """Lane-wise larger of two signed numbers."""

    def generate(context, builder, signature, args):
        a, b = args
        return builder.select(builder.icmp_signed(">", a, b), a, b)

    return ints16(a, b), generate


@intrinsic
def shift_left(typing, a, bits):
    """``a << bits``, lane by lane."""

    def generate(context, builder, signature, args):
        return builder.shl(args[0], _splat(builder, builder.trunc(args[1], _I32), _INTS))

    return ints16(a, types.int64), generate


def _bit_product(builder, accum, a, b):
    popcount = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_INTS, [_INTS]), f"llvm.ctpop.v{LANES}i32")
    return builder.add(accum, builder.call(popcount, [builder.xor(a, b)]))


def target_has_wide_registers():
    """Does the machine that Numba compiles for have 32 registers of 512 bits?"""
    return "+avx512f" in str(cpu_target.target_context.codegen().magic_tuple()[-1]).split(",")


def target_multiplies_bytes():
    """Does the machine that Numba compiles for (not the one it runs on) have byte dot products of 512 bits?"""
    return "+avx512vnni" in str(cpu_target.target_context.codegen().magic_tuple()[-1]).split(",")


def _byte_product(builder, accum, unsigned, signed):
    if target_multiplies_bytes():
        vpdpbusd = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_INTS, [_INTS] * 3),
                                                  "llvm.x86.avx512.vpdpbusd.512")
        return builder.call(vpdpbusd, [accum, unsigned, signed])
    for byte in range(4):
        up, down = (ir.Constant(_INTS, [shift] * LANES) for shift in (24 - 8 * byte, 24))
        u = builder.lshr(builder.shl(unsigned, up), down)
        s = builder.ashr(builder.shl(signed, up), down)
        accum = builder.add(accum, builder.mul(u, s))
    return accum


def _product_of(codes):
    """What multiplies codes of an array of this type: code(builder, accum, left, right) -> accum."""
    product = {types.uint32: _bit_product, types.uint8: _byte_product}.get(codes.dtype)
    if product is None:
        raise TypingError(f"codes come in arrays of uint32 (bit planes) or uint8 (bytes), got {codes.dtype}")
    return product


@intrinsic
def multiply(typing, codes, accum, left, right):
    """``accum`` plus the product of two vectors of codes, lane by lane; of ``codes`` only the type matters.

    uint32, bit planes: the number of bits in which ``left`` and ``right`` differ.
    uint8, bytes: u0 * s0 + u1 * s1 + u2 * s2 + u3 * s3 with bytes u of ``left`` (0..255) and s of ``right`` (-128..127); one
    instruction (VPDPBUSD) where the target has it, elsewhere the same integers, byte by byte.
    """
    product = _product_of(codes)
    return ints16(codes, accum, left, right), lambda context, builder, signature, args: product(builder, *args[1:])


@intrinsic
def multiply_codes(typing, accum, codes, index, column):
    """``multiply`` of 32 bits of codes, broadcast from ``codes[index]``, with a vector of columns."""
    product = _product_of(codes)

    def generate(context, builder, signature, args):
        accum, codes, index, column = args
        word = _load(builder, _pointer(context, builder, signature.args[1], codes, index, _I32), 1)
        return product(builder, accum, _splat(builder, word, _INTS), column)

    return ints16(accum, codes, index, column), generate


def _result(context, builder, types_, lhs, table, table_index, sums, doublings):
    """``table[table_index : table_index + 16] - (sums << doublings)`` of bit planes, + of bytes; types of lhs and table."""
    constant = _load(builder, _pointer(context, builder, types_[1], table, table_index, _INTS), 4)
    sums = builder.shl(sums, _splat(builder, builder.trunc(doublings, _I32), _INTS))
    return (builder.sub if types_[0].dtype is types.uint32 else builder.add)(constant, sums)


@intrinsic
def store_result(typing, out, index, lhs, table, table_index, sums, doublings, scale, count):
    """``out[index : index + 16]`` = what ``multiply_codes`` with the left array ``lhs`` summed, made a result.

    That is ``table[table_index : table_index + 16] - 2**doublings * sums`` of bit planes, + of bytes. ``out`` is int32, int16
    or float32; as floats the integers are multiplied by ``scale``, both roundings as NumPy's. ``count``: of the lanes; None:
    all.
    """
    vector = {types.int32: _INTS, types.int16: _SHORTS, types.float32: _FLOATS}[out.dtype]

    def generate(context, builder, signature, args):
        out, index, lhs, table, table_index, sums, doublings, scale, count = args
        types_ = signature.args
        value = _result(context, builder, types_[2:4], lhs, table, table_index, sums, doublings)
        if vector is _SHORTS:
            value = builder.trunc(value, vector)
        elif vector is _FLOATS:
            value = builder.fmul(builder.sitofp(value, vector), _splat(builder, scale, vector))
        pointer = _pointer(context, builder, types_[0], out, index, vector)
        if isinstance(types_[-1], types.NoneType):
            _store(builder, value, pointer, 2 if vector is _SHORTS else 4)
        else:
            _store_first(builder, count, value, pointer)
        return context.get_dummy_value()

    count = types.none if isinstance(count, types.NoneType) else types.int64
    return types.void(out, index, lhs, table, table_index, sums, types.int64, types.float32, count), generate


@intrinsic
def add_scaled_result(typing, out, index, lhs, table, table_index, sums, doublings, scale):
    """``out[index : index + 16]`` += ``scale`` times the result that ``store_result`` describes, in float32.

    Converted, multiplied and added in three roundings, as NumPy does it.
    """

    def generate(context, builder, signature, args):
        out, index, lhs, table, table_index, sums, doublings, scale = args
        types_ = signature.args
        value = _result(context, builder, types_[2:4], lhs, table, table_index, sums, doublings)
        product = builder.fmul(builder.sitofp(value, _FLOATS), _splat(builder, scale, _FLOATS))
        pointer = _pointer(context, builder, types_[0], out, index, _FLOATS)
        _store(builder, builder.fadd(_load(builder, pointer, 4), product), pointer, 4)
        return context.get_dummy_value()

    return types.void(out, index, lhs, table, table_index, sums, types.int64, types.float32), generate


@intrinsic
def store_shifted(typing, out, target, stream, low, high, bits, keep):
    """Sixteen words cut out of streams of bits that lie side by side.

    ``out[target + c] = (stream[low + c] >> bits | stream[high + c] << 32 - bits) & keep`` for c < 16, 0 <= bits < 32.
    """

    def generate(context, builder, signature, args):
        out, target, stream, low, high, bits, keep = args
        types_ = signature.args
        words = [_load(builder, _pointer(context, builder, types_[2], stream, index, _INTS), 4) for index in (high, low)]
        funnel = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_INTS, [_INTS] * 3), f"llvm.fshr.v{LANES}i32")
        cut = builder.call(funnel, [*words, _splat(builder, builder.trunc(bits, _I32), _INTS)])
        _store(builder, builder.and_(cut, _splat(builder, keep, _INTS)),
               _pointer(context, builder, types_[0], out, target, _INTS), 4)
        return context.get_dummy_value()

    return types.void(out, target, stream, low, high, types.int64, types.uint32), generate


@intrinsic
def mark_positions(typing, octet, target, codes, source, plane, position):
    """Set bit ``position`` of ``octet[target + c]`` where ``codes[source + c]`` has bit ``plane``, for 16 channels c."""

    def generate(context, builder, signature, args):
        octet, target, codes, source, plane, position = args
        vector = ir.VectorType(_I8, LANES)
        pointer = _pointer(context, builder, signature.args[0], octet, target, vector)
        code = _load(builder, _pointer(context, builder, signature.args[2], codes, source, vector), 1)
        one = ir.Constant(_I8, 1)
        wanted = _splat(builder, builder.shl(one, builder.trunc(plane, _I8)), vector)
        mark = _splat(builder, builder.shl(one, builder.trunc(position, _I8)), vector)
        zeros = ir.Constant(vector, [0] * LANES)
        found = builder.icmp_unsigned("!=", builder.and_(code, wanted), zeros)
        _store(builder, builder.or_(_load(builder, pointer, 1), builder.select(found, mark, zeros)), pointer, 1)
        return context.get_dummy_value()

    return types.void(octet, target, codes, source, types.int64, types.int64), generate


@intrinsic
def gather_column_bits(typing, words, codes, index, plane, position):
    """``words`` with bit ``plane`` of ``codes[index : index + 16]`` (uint8) in bit ``position``, lane by lane."""

    def generate(context, builder, signature, args):
        words, codes, index, plane, position = args
        vector = ir.VectorType(_I8, LANES)
        code = _load(builder, _pointer(context, builder, signature.args[1], codes, index, vector), 1)
        plane, position = (_splat(builder, builder.trunc(number, _I32), _INTS) for number in (plane, position))
        bit = builder.and_(builder.lshr(builder.zext(code, _INTS), plane), ir.Constant(_INTS, [1] * LANES))
        return builder.or_(words, builder.shl(bit, position))

    return ints16(words, codes, index, types.int64, types.int64), generate


@intrinsic
def store(typing, out, index, a):
    """``out[index : index + 16] = a`` of an array of 32-bit integers."""

    def generate(context, builder, signature, args):
        out, index, a = args
        _store(builder, a, _pointer(context, builder, signature.args[0], out, index, _INTS), 4)
        return context.get_dummy_value()

    return types.void(out, index, a), generate


@intrinsic
def store_levels(typing, out, target, codes, i0, i1, i2, i3, mask, shift, factor, offset):
    """Four pixels side by side: byte 4 * c + k of ``out[target : target + 64]`` is a level of ``codes[i_k + c]``, c < 16.

    level = factor * (code >> shift & mask) - offset, and 0 where i_k < 0: no pixel lies there.
    """
    vector, wide = ir.VectorType(_I8, LANES), ir.VectorType(_I8, 4 * LANES)

    def generate(context, builder, signature, args):
        out, target, codes, *indices, mask, shift, factor, offset = args
        mask, shift, factor, offset = (_splat(builder, builder.trunc(n, _I8), vector) for n in (mask, shift, factor, offset))
        pixels = []
        for index in indices:
            inside = builder.icmp_signed(">=", index, _I64(0))
            index = builder.select(inside, index, _I64(0))
            code = _load(builder, _pointer(context, builder, signature.args[2], codes, index, vector), 1)
            level = builder.sub(builder.mul(builder.and_(builder.lshr(code, shift), mask), factor), offset)
            pixels.append(builder.select(inside, level, ir.Constant(vector, [0] * LANES)))
        halves = [builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, 2 * LANES), list(range(2 * LANES))))
                  for a, b in (pixels[:2], pixels[2:])]
        order = [k * LANES + c for c in range(LANES) for k in range(4)]
        together = builder.shuffle_vector(*halves, ir.Constant(ir.VectorType(_I32, 4 * LANES), order))
        _store(builder, together, _pointer(context, builder, signature.args[0], out, target, wide), 1)
        return context.get_dummy_value()

    return types.void(out, target, codes, *[types.int64] * 8), generate


@intrinsic
def store_transposed(typing, out, target, pitch, codes, source, step):
    """``out[target + c * pitch + i] = codes[source + i * step + c]`` for i and c < 16 (uint8)."""
    vector = ir.VectorType(_I8, LANES)

    def generate(context, builder, signature, args):
        out, target, pitch, codes, source, step = args
        types_ = signature.args

        def interleaved(a, b, first):
            order = [lane for i in range(first, first + LANES // 2) for lane in (i, LANES + i)]
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, LANES), order))

        rows = [_load(builder, _pointer(context, builder, types_[3], codes,
                                        builder.add(source, builder.mul(step, _I64(i))), vector), 1) for i in range(LANES)]
        for _ in range(4):  # each pass doubles the runs that lie side by side
            rows = [interleaved(rows[i], rows[i + LANES // 2], first) for i in range(LANES // 2) for first in (0, LANES // 2)]
        for c, row in enumerate(rows):
            position = builder.add(target, builder.mul(pitch, _I64(c)))
            _store(builder, row, _pointer(context, builder, types_[0], out, position, vector), 1)
        return context.get_dummy_value()

    return types.void(out, target, types.int64, codes, source, types.int64), generate


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
            return word if lanes == 32 else builder.zext(word, _I32)

        return types.uint32(array, index, types.int64), generate

    bits.__doc__ = f"One bit of each of ``array[index : index + {lanes}]`` (uint8), gathered into the low bits of a word."
    return bits


bits_of_32, bits_of_16 = _bit_mask(32), _bit_mask(16)


@intrinsic
def reached(typing, values, index, thresholds, threshold_index):
    """Bit c of a word, c < 16: is ``values[index + c] >= thresholds[threshold_index + c]`` (int32)."""

    def generate(context, builder, signature, args):
        values, index, thresholds, threshold_index = args
        value = _load(builder, _pointer(context, builder, signature.args[0], values, index, _INTS), 4)
        threshold = _load(builder, _pointer(context, builder, signature.args[2], thresholds, threshold_index, _INTS), 4)
        return builder.zext(builder.bitcast(builder.icmp_signed(">=", value, threshold), _I16), _I32)

    return types.uint32(values, index, thresholds, threshold_index), generate


@intrinsic
def load_floats(typing, array, index):
    """``array[index : index + 16]`` of a float32 array."""

    def generate(context, builder, signature, args):
        return _load(builder, _pointer(context, builder, signature.args[0], args[0], args[1], _FLOATS), 4)

    return floats16(array, index), generate


@intrinsic
def load_first_floats(typing, array, index, count):
    """``array[index : index + 16]`` of a float32 array, the first ``count`` of them; zeros for the rest, which is not read."""

    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], _FLOATS)
        wanted = _first(builder, args[2], LANES)
        read = cgutils.get_or_insert_function(builder.module, ir.FunctionType(
            _FLOATS, [pointer.type, _I32, wanted.type, _FLOATS]), f"llvm.masked.load.v{LANES}f32.p0")
        return builder.call(read, [pointer, _I32(4), wanted, ir.Constant(_FLOATS, [0.0] * LANES)])

    return floats16(array, index, types.int64), generate


@intrinsic
def multiply_add(typing, accum, array, index, b):
    """``accum + array[index] * b``, rounded once: one float32 of ``array``, broadcast, times a vector."""

    def generate(context, builder, signature, args):
        accum, array, index, b = args
        number = _load(builder, _pointer(context, builder, signature.args[1], array, index, ir.FloatType()), 4)
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3),
                                                 f"llvm.fma.v{LANES}f32")
        return builder.call(fma, [_splat(builder, number, _FLOATS), b, accum])

    return floats16(accum, array, index, b), generate


@intrinsic
def store_floats(typing, out, index, a, count):
    """``out[index : index + 16] = a`` of a float32 array, the first ``count`` of them."""

    def generate(context, builder, signature, args):
        out, index, a, count = args
        _store_first(builder, count, a, _pointer(context, builder, signature.args[0], out, index, _FLOATS))
        return context.get_dummy_value()

    return types.void(out, index, a, types.int64), generate


# Elements of any type

@intrinsic
def bits_of(typing, number):
    """The 64 bits of a float64, as an int64."""
    return types.int64(types.float64), lambda context, builder, signature, args: builder.bitcast(args[0], _I64)


@intrinsic
def number_of(typing, bits):
    """The float64 that an int64 is the bits of."""
    return types.float64(types.int64), lambda context, builder, signature, args: builder.bitcast(args[0], ir.DoubleType())


@intrinsic
def copy16(typing, out, index, array, source):
    """``out[index : index + 16] = array[source : source + 16]`` of two arrays of one type. Both must reach that far."""

    def generate(context, builder, signature, args):
        out, index, array, source = args
        out_type, _, array_type, _ = signature.args
        vector = ir.VectorType(context.get_data_type(array_type.dtype), LANES)
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


@intrinsic
def array_at(typing, address, size, like):
    """The numbers at an address as an array of the type of ``like``, whose memory is somebody else's."""
    if not (isinstance(like, types.Array) and like.ndim == 1):
        return None

    def generate(context, builder, signature, args):
        array, item = context.make_array(like)(context, builder), context.get_abi_sizeof(context.get_data_type(like.dtype))
        size, item = args[1], context.get_constant(types.intp, item)
        data = builder.inttoptr(args[0], array.data.type)
        populate_array(array, data, (size,), (item,), item, None)
        return array._getvalue()

    return like(types.intp, types.intp, like), generate
