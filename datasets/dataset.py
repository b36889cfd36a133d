"""What every reader of this package hands back, and the one exception that all of them raise."""

import copy
from dataclasses import dataclass

import numpy as np

TEN_DIGITS = tuple("0123456789")


def printable(text, length=2000):
    """Text with everything escaped that a terminal would not print, its middle left out where it is longer than ``length``.

    Names and texts from files may hold anything.
    """
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in _shortened(str(text), length))
    return _shortened(text, length)


def _shortened(text, length):
    return text if len(text) <= length else f"{text[: length // 2]} ... {text[-(length // 2) + 5 :]}"


class DataError(ValueError):
    """Input that cannot be used. One clear sentence with what was expected and what was found, made to be printed."""

    def __init__(self, message):
        super().__init__(printable(message))


@dataclass
class Dataset:
    """Pictures with what is known about them, ready for a ``Loader``.

    ``dataset[:100]`` is a Dataset of views; ``labels`` is another name of ``targets``.

    Parameters
    ----------
    images : uint8 array, shape (N, H, W, C)         # C = 3: RGB, C = 1: grey; or a read-only np.memmap of the cache, or
                                                     # Pictures, which decode their files when they are asked for
    targets : integer array, shape (N,) or (N, H, W) # a class 0..len(classes)-1 of each picture, or of each pixel; kept as
                                                     # uint8, or uint16 or int32 where the classes do not fit
    classes : tuple of str                           # their names
    name : str                                       # for people, e.g. "SVHN train (subset of 8,000)"
    generated : bool                                 # True for the built-in generated digits
    void : int or None                               # what targets hold besides classes, where nothing is to be learned
    kind : "photo", "ink", "fit" or "crop"                   # how a picture for prediction is made like these, see prepare_for
    Raises
    ------
    DataError : shapes or dtypes other than these, no image at all, or a target that is no class.
    """

    images: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...]
    name: str
    generated: bool = False
    void: int | None = None
    kind: str = "fit"

    def __post_init__(self):
        targets = np.asarray(self.targets)
        images = self.images if self.on_demand else np.asanyarray(self.images)
        if isinstance(self.classes, str) or not len(self.classes):
            raise DataError(f"{self.name}: expected a tuple of the classes' names, found {self.classes!r}")
        self.classes = tuple(map(str, self.classes))
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
            raise DataError(
                f"{self.name}: expected uint8 images of shape (N, H, W, 3) or (N, H, W, 1), found {images.dtype} {images.shape}"
            )
        if targets.dtype.kind not in "iu" or targets.shape not in (images.shape[:1], images.shape[:3]):
            raise DataError(
                f"{self.name}: expected integer labels of shape {images.shape[:1]} or {images.shape[:3]}, "
                f"found {targets.dtype} {targets.shape}"
            )
        allowed, last = "" if self.void is None else f" or {self.void} (void)", len(self.classes) - 1
        if targets.min() < 0 or targets.max() > last:
            wrong = targets[((targets < 0) | (targets > last)) & (self.void is None or targets != self.void)]
            if len(wrong):
                raise DataError(f"{self.name}: expected labels 0..{last}{allowed}, found {wrong[0]}")
        held = [0, last] if self.void is None else [0, last, self.void]
        dtype = next(d for d in (np.uint8, np.uint16, np.int32) if all(np.iinfo(d).min <= v <= np.iinfo(d).max for v in held))
        self.images, self.targets = images, targets.astype(dtype, copy=False)

    @property
    def on_demand(self):
        """Are the images read from their files whenever somebody asks for them?"""
        return getattr(self.images, "on_demand", False)

    @property
    def labels(self):
        return self.targets

    @property
    def shape(self):
        """(H, W, C) of each image."""
        return self.images.shape[1:]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, part):
        if not isinstance(part, slice):
            raise TypeError(f"expected a slice, as in dataset[:100], found {part!r}")
        found = copy.copy(self)  # not made anew: what it holds was checked
        found.images, found.targets = self.images[part], self.targets[part]
        if not len(found):
            raise DataError(f"{self.name}: expected a slice with at least one of {len(self):,} images, found {part}")
        return found


def Digits(images, labels, name, generated=False):
    """A ``Dataset`` of the ten digits, grey ones as in MNIST, others as in SVHN."""
    return Dataset(images, labels, TEN_DIGITS, name, generated, kind="ink" if np.shape(images)[-1:] == (1,) else "photo")
