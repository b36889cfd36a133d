"""Bit widths (W, A, G) of weights, activations and gradients."""


def parse_bits(bits):
    """(W, A, G) from "1,2,4" or three numbers, each 1 to 8 or 32 (float).

    Raises
    ------
    ValueError : anything else.
    """
    parts = bits.split(",") if isinstance(bits, str) else bits
    try:
        widths = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        widths = ()
    if len(widths) != 3 or not all(width == 32 or 1 <= width <= 8 for width in widths):
        raise ValueError(f"bits must be three numbers W,A,G, each 1 to 8 or 32 (float), got {bits!r}")
    return widths
