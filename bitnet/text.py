"""Numbers and tables as people read them."""


def columns(rows, left):
    """Rows of texts as lines with aligned columns, those numbered in ``left`` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def size_text(count):
    """A number of bytes."""
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{int(count)} B"


def packed_size(array, bits):
    """Bytes of an array whose numbers take ``bits`` bits each."""
    return array.nbytes if bits >= 32 else -(-array.size * bits // 8)
