"""Solutions of chapter 7."""


def sum_type(kernel_size, channels, w_bits, a_bits):
    """The largest sum has every weight and every activation at its largest level."""
    largest = kernel_size**2 * channels * (2**w_bits - 1) * (2**a_bits - 1)
    return "int16" if largest < 2**15 else "int32"


def kept_bytes(shape, pool):
    """Two bytes a sum, two bytes a result."""
    samples, height, width, channels = shape
    return 2 * samples * channels * (height * width + (height // pool) * (width // pool))
