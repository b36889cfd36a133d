"""Solutions of chapter 10."""


def needed(q, whole):
    """1 / whole = 1 - q + q / s, solved for s."""
    left = 1 / whole - (1 - q)
    return q / left if left > 1e-12 else float("inf")


def share_of_limit(macs, bits, milliseconds, limit):
    """Each pair of planes counts."""
    done = macs * bits[0] * bits[1]
    return done / (milliseconds / 1000) / 1e9 / limit


def training_limit(bits, ratio):
    """The time of the three products is their pairs of planes / ratio, that in float is 3."""
    w, a, g = bits
    return 3 * ratio / (w * a + w * g + a * g)
