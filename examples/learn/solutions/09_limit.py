"""Solutions of chapter 9."""


def packed_bytes(height, width, channels, bits):
    words = -(-channels // 32)
    return height * width * bits * words * 4


def intensity_of(macs, moved, bandwidth, limit):
    """The slope and the roof cross where bandwidth * intensity = limit."""
    return "memory" if bandwidth * macs / moved < limit else "arithmetic"
