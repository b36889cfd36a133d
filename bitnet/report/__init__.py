"""What a run tells its user: tables, progress, pictures, where the time goes, and what happens inside a network."""

from bitnet.report.pictures import (
    FAINT,
    INK,
    TEST,
    TRAIN,
    draw_confusion,
    draw_curves,
    draw_mistakes,
    draw_segmentation,
    new_figure,
    write_figure,
)
from bitnet.report.progress import Board, Files, Progress, duration, measures_text, write_metrics
from bitnet.report.tables import PATHS, ROLES, confusion_table, format_layers, layer_table, weight_bits
from bitnet.text import columns, packed_size, size_text

__all__ = ["FAINT", "INK", "PATHS", "ROLES", "TEST", "TRAIN", "Board", "Files", "Progress", "columns", "confusion_table",
           "draw_confusion", "draw_curves", "draw_mistakes", "draw_segmentation", "duration", "format_layers", "layer_table",
           "measures_text", "new_figure", "packed_size", "size_text", "weight_bits", "write_figure", "write_metrics"]
