"""What every reader of this package hands back, and the one exception that all of them raise."""

from dataclasses import dataclass

import numpy as np


class DataError(ValueError):
    """Input that cannot be used. One clear sentence with what was expected and what was found, made to be printed."""


@dataclass
class Digits:
    """Labelled pictures of digits, ready for a :class:`Loader`.

    Parameters
    ----------
    images : uint8 array, shape (N, size, size, C)   # C = 3: RGB, C = 1: grey; or a read-only np.memmap of the cache
    labels : uint8 array, shape (N,)                 # 0..9, a digit's label is its value
    name : str                                       # for people, e.g. "SVHN train (subset of 8,000)"
    generated : bool                                 # True for the built-in generated digits
    Raises
    ------
    DataError : shapes or dtypes other than these, or a label above 9.
    """

    images: np.ndarray
    labels: np.ndarray
    name: str
    generated: bool = False

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] not in (1, 3):
            raise DataError(
                f"{self.name}: expected uint8 images of shape (N, size, size, 3) or (N, size, size, 1), found {images.dtype} "
                f"{images.shape}"
            )
        if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{self.name}: expected uint8 labels of shape ({len(images)},), found {labels.dtype} {labels.shape}"
            )
        if len(labels) and labels.max() > 9:
            raise DataError(f"{self.name}: expected labels 0..9, found {labels.max()}")

    def __len__(self):
        return len(self.labels)
