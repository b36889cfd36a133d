"""From byte codes to bit planes in 32-bit words.

Bit plane l of an array of codes holds bit l of every code. The popcount kernels sum over one axis, 32 codes at a
time, so the bits along that axis lie side by side in words. Which axis that is depends on the product:

    forward       input  along channels   (N, group, plane, padded H, padded W, word)      pack_channels
                  weight along channels   (group, panel, plane, tap * word, 16 columns)    pack_weight
    input_grad    gradient and weight along the output channels, in the same two layouts
    weight_grad   input and gradient along output positions (N, phase, plane, word, C)     pack_positions

A pixel's channels are contiguous in memory, so its words need no transpose. Bits past the last channel or position are
zero in both operands and cancel under XOR.
"""

import numpy as np

from bitnet.kernels.machine import arrays, threads
from bitnet.kernels.machine.compile import kernel
from bitnet.kernels.machine.vectors import (
    LANES,
    at,
    bits_of_16,
    bits_of_32,
    gather_column_bits,
    mark_positions,
    put,
    store,
    zero,
)
from bitnet.kernels.products.geometry import plane_bits, planes_of
from bitnet.kernels.products.spatial import COLUMNS, panels_for

WORD = 32  # bits, which uint32 and ``bits_of_32`` say as well
OCTET = 8  # positions whose bits are gathered in a byte a channel
SHORT = 1 << 18  # bits that are packed quicker than another thread wakes up


def words_for(depth):
    """Words that hold ``depth`` bits."""
    return -(-depth // WORD)


@kernel
def gather_bits(codes, index, count, plane):
    """Bit ``plane`` of ``codes[index : index + count]``, count <= WORD, as one word."""
    if count == WORD:
        return bits_of_32(codes, index, plane)
    word, done = np.uint32(0), 0
    if count >= LANES:
        word, done = bits_of_16(codes, index, plane), LANES
    for i in range(done, count):
        word |= np.uint32((at(codes, index + i) >> plane) & 1) << np.uint32(i)
    return word


@kernel
def _pack_channels(start, stop, codes, out, shape, groups, planes, padding):
    (height, width, channels), (top, left, padded_height, padded_width) = shape, padding
    group_channels = channels // groups
    words = -(-group_channels // WORD)
    line, plane_size = padded_width * words, padded_height * padded_width * words
    for row in range(start, stop):  # of padded images
        sample, y = row // padded_height, row % padded_height - top
        for group in range(groups):
            target = (sample * groups + group) * planes * plane_size + (y + top) * line
            inside = 0 <= y < height
            for plane in range(planes):  # zeros around the image
                begin = target + plane * plane_size
                for i in range(begin, begin + (left * words if inside else line)):
                    put(out, i, np.uint32(0))
                for i in range(begin + (left + width) * words if inside else begin + line, begin + line):
                    put(out, i, np.uint32(0))
            if inside:
                source = (sample * height + y) * width * channels + group * group_channels
                target += left * words
                for _ in range(width):
                    for word in range(words):
                        count = min(WORD, group_channels - WORD * word)
                        for plane in range(planes):
                            bits = gather_bits(codes, source + WORD * word, count, plane)
                            put(out, target + plane * plane_size + word, bits)
                    source += channels
                    target += words


def pack_channels(codes, groups, padding):
    """Bit planes of images along their channels, with zero words around each image.

    Parameters
    ----------
    codes : operand with values of shape (N, H, W, C)
    groups : C is cut into so many equal groups, packed apart
    padding : ((top, bottom), (left, right)) pixels

    Returns
    -------
    words : uint32 array, shape (N, groups, planes, H + top + bottom, W + left + right, words of C / groups)
    """
    samples, height, width, channels = codes.values.shape
    (top, bottom), (left, right) = padding
    planes = len(planes_of(codes).shifts)
    shape = (samples, groups, planes, height + top + bottom, width + left + right, words_for(channels // groups))
    out = arrays.empty(shape, np.uint32)
    threads.run(_pack_channels, samples * shape[3], plane_bits(codes).reshape(-1), out.reshape(-1), (height, width, channels),
                groups, planes, (top, left, *shape[3:5]))
    return out


@kernel
def _join_pixels(start, stop, words, out, pixels, channels, per_pixel, per_image):
    for image in range(start, stop):
        source, target = image * pixels * per_pixel, image * per_image
        for word in range(per_image):
            put(out, target + word, np.uint32(0))
        for pixel in range(pixels):
            for word in range(per_pixel):
                bits, at_bit = np.uint64(at(words, source + pixel * per_pixel + word)), pixel * channels + WORD * word
                place, pair = target + at_bit // WORD, bits << np.uint64(at_bit % WORD)
                put(out, place, at(out, place) | np.uint32(pair))
                if pair >> np.uint64(WORD):
                    put(out, place + 1, at(out, place + 1) | np.uint32(pair >> np.uint64(WORD)))


def join_pixels(words, channels):
    """Packed pixels (N, 1, planes, H, W, words of C) as one pixel of H * W * C channels: (N, 1, planes, 1, 1, words)."""
    samples, _, planes, height, width, per_pixel = words.shape
    if channels % WORD == 0:
        return words.reshape(samples, 1, planes, 1, 1, -1)
    out = arrays.empty((samples, 1, planes, 1, 1, words_for(height * width * channels)), np.uint32)
    threads.run(_join_pixels, samples * planes, words.reshape(-1), out.reshape(-1), height * width, channels, per_pixel,
                out.shape[-1])
    return out


@kernel
def _pack_weight_along_inputs(start, stop, codes, taps, depth, group_columns, columns, planes, panels, out):
    words = -(-depth // WORD)
    for tile in range(start, stop):
        first = tile // panels * group_columns + COLUMNS * (tile % panels)
        count = min(COLUMNS, group_columns - COLUMNS * (tile % panels))
        for t in range(taps.size):
            source = taps[t] * depth * columns + first
            for plane in range(planes):
                target = ((tile * planes + plane) * taps.size + t) * words * COLUMNS
                for word in range(words):
                    begin, end = WORD * word, min(depth, WORD * word + WORD)
                    if count == COLUMNS:
                        bits = zero()
                        for i in range(begin, end):
                            bits = gather_column_bits(bits, codes, source + i * columns, plane, i - begin)
                        store(out, target + COLUMNS * word, bits)
                        continue
                    for c in range(count):
                        one = np.uint32(0)
                        for i in range(begin, end):
                            one |= np.uint32((at(codes, source + i * columns + c) >> plane) & 1) << np.uint32(i - begin)
                        put(out, target + COLUMNS * word + c, one)


@kernel
def _pack_weight_along_outputs(start, stop, codes, taps, depth, group_columns, columns, planes, panels, out):
    words = -(-depth // WORD)
    for tile in range(start, stop):
        group = tile // panels
        for t in range(taps.size):
            for c in range(min(COLUMNS, group_columns - COLUMNS * (tile % panels))):
                source = (taps[t] * group_columns + COLUMNS * (tile % panels) + c) * columns + group * depth
                for plane in range(planes):
                    target = ((tile * planes + plane) * taps.size + t) * words * COLUMNS + c
                    for word in range(words):
                        count = min(WORD, depth - WORD * word)
                        put(out, target + COLUMNS * word, gather_bits(codes, source + WORD * word, count, plane))


def pack_weight(codes, conv, along, taps=None):
    """Bit planes of a weight, its columns sixteen side by side as the register tile reads them.

    Parameters
    ----------
    codes : operand with values of shape (kh, kw, in / groups, out)
    conv : Conv
    along : "inputs" packs along the input channels (columns: output channels), "outputs" the other way round
    taps : int64 array of positions in the flattened (kh, kw), in the order wanted; all of them by default

    Returns
    -------
    words : uint32 array, shape (groups, panels, planes, len(taps) * words of the depth, 16)
    sums : int64 array, shape (len(taps), groups * panels * 16); sum of 2**shift * bit over planes and the packed axis
    """
    if taps is None:
        taps = np.arange(conv.tap_count)
    if along == "inputs":
        pack, depth, group_columns = _pack_weight_along_inputs, conv.group_in, conv.group_out
    else:
        pack, depth, group_columns = _pack_weight_along_outputs, conv.group_out, conv.group_in
    panels, shifts = panels_for(group_columns), planes_of(codes).shifts
    shape = (conv.groups, panels, len(shifts), len(taps) * words_for(depth), COLUMNS)
    out = (arrays.zeros if group_columns % COLUMNS else arrays.empty)(shape, np.uint32)
    threads.run(pack, conv.groups * panels, plane_bits(codes).reshape(-1), taps, depth, group_columns, conv.out_channels,
                len(shifts), panels, out.reshape(-1), short=codes.values.size * len(shifts) < SHORT)
    # (group, panel, plane, tap * word, column) -> (group, panel, plane, tap, column) -> (tap, group, panel, column)
    counts = np.bitwise_count(out).reshape(*shape[:3], len(taps), -1, COLUMNS).sum(axis=4, dtype=np.int64)
    sums = sum(counts[:, :, plane] << shift for plane, shift in enumerate(shifts)).transpose(2, 0, 1, 3)
    return out, np.ascontiguousarray(sums).reshape(len(taps), -1)


@kernel
def _pack_positions(start, stop, codes, out, shape, out_shape, padding, stride, row_width, planes, group_channels,
                    group_stride):
    (height, width, channels), (out_words, out_channels) = shape, out_shape
    (top, left), (stride_y, stride_x) = padding, stride
    octet = np.empty(planes * out_channels, np.uint8)  # one bit of each of OCTET positions, a byte a channel
    phases = stride_y * stride_x
    for sample in range(start, stop):
        for phase in range(phases):
            image = (sample * phases + phase) * planes
            for i in range(image * out_words * out_channels, (image + planes) * out_words * out_channels):
                put(out, i, np.uint32(0))
            for q8 in range(out_words * (WORD // OCTET)):
                octet[:] = 0
                found = False
                for j in range(OCTET):
                    y = (q8 * OCTET + j) // row_width * stride_y + phase // stride_x - top
                    x = (q8 * OCTET + j) % row_width * stride_x + phase % stride_x - left
                    if 0 <= y < height and 0 <= x < width:
                        found = True
                        pixel = ((sample * height + y) * width + x) * channels
                        for plane in range(planes):
                            for group in range(channels // group_channels):
                                source = pixel + group * group_channels
                                target = plane * out_channels + group * group_stride
                                done = 0
                                while done + LANES <= group_channels:
                                    mark_positions(octet, target + done, codes, source + done, plane, j)
                                    done += LANES
                                for c in range(done, group_channels):
                                    bit = np.uint8(at(codes, source + c) >> plane) & np.uint8(1)
                                    put(octet, target + c, at(octet, target + c) | np.uint8(bit << j))
                if found:
                    shift = np.uint32(q8 % (WORD // OCTET) * OCTET)
                    for plane in range(planes):
                        target = ((image + plane) * out_words + q8 // (WORD // OCTET)) * out_channels
                        for c in range(out_channels):
                            bits = np.uint32(at(octet, plane * out_channels + c))
                            put(out, target + c, at(out, target + c) | (bits << shift))


def pack_positions(codes, groups, padding, stride, row_width, words, group_stride):
    """Bit planes of images along their positions, one bit stream a channel.

    Position (y, x) of the padded image, y = sy * Y + py and x = sx * X + px, is bit ``Y * row_width + X`` of phase
    (py, px): with a stride, the positions that one tap meets are neighbours again.

    Parameters
    ----------
    codes : operand with values of shape (N, H, W, C)
    padding, stride : (top, left), (vertical, horizontal)
    row_width : bits from one row to the next; words : length of a stream
    group_stride : channels from one group to the next in the result, at least C / groups

    Returns
    -------
    words : uint32 array, shape (N, sy * sx, planes, words, groups * group_stride)
    """
    samples, height, width, channels = codes.values.shape
    planes = len(planes_of(codes).shifts)
    out = arrays.empty((samples, stride[0] * stride[1], planes, words, groups * group_stride), np.uint32)
    threads.run(_pack_positions, samples, plane_bits(codes).reshape(-1), out.reshape(-1), (height, width, channels),
                out.shape[3:], tuple(padding), tuple(stride), row_width, planes, channels // groups, group_stride)
    return out
