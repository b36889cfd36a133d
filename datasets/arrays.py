"""A user's own NumPy arrays as data sets.

    train, test = load("arrays", ((images, labels), (test_images, test_labels)))
    train, test = load("arrays", "mine.npz")        with x_train, y_train, x_test and y_test, as Keras keeps its sets
"""

import zipfile

import numpy as np

from .dataset import DataError, Dataset
from .files import believe, regular

PARTS = ("x_train", "y_train", "x_test", "y_test")


def load_arrays(source, classes=None):
    """A training set and a test set from arrays.

    Parameters
    ----------
    source : ((images, labels), (images, labels)), or the path of an .npz with x_train, y_train, x_test and y_test
        # images: uint8 (N, H, W), grey, or (N, H, W, C) with C = 1 or 3; labels: whole numbers or texts, (N,) or (N, 1)
    classes : names of the classes, or None   # None: the labels themselves, sorted; whole numbers: 0 to the largest
    Returns
    -------
    train : Dataset
    test : Dataset
    messages : list of str
    Raises
    ------
    DataError : arrays of another kind, or a test label that is not among those for training.
    """
    try:
        (x_train, y_train), (x_test, y_test) = _read(source) if isinstance(source, (str, bytes)) or hasattr(
            source, "__fspath__") else source
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError("expected arrays as ((images, labels), (test images, test labels)) or an .npz, found "
                        f"{type(source).__name__}") from None
    labels = [np.asarray(one) for one in (y_train, y_test)]
    labels = [one[:, 0] if one.ndim == 2 and one.shape[1] == 1 else one for one in labels]
    if all(one.dtype.kind in "US" and one.ndim == 1 for one in labels):
        names = tuple(map(str, np.unique(labels[0]) if classes is None else classes))
        places = {name: i for i, name in enumerate(names)}
        strange = sorted({str(one) for side in labels for one in side} - set(names))
        if strange:
            raise DataError(f"expected labels among {', '.join(names[:10])}, found {strange[0]!r}")
        labels = [np.array([places[str(one)] for one in side]) for side in labels]
    else:
        count = 1 + max((int(one.max()) for one in labels if one.size and one.dtype.kind in "iu"), default=0)
        names = tuple(map(str, range(max(count, 2)) if classes is None else classes))
    sets = [_dataset(*pair, names, name) for *pair, name in ((x_train, labels[0], "train"), (x_test, labels[1], "test"))]
    if sets[0].shape != sets[1].shape:
        raise DataError(f"expected test images of {sets[0].shape}, as for training, found {sets[1].shape}")
    return *sets, [f"data: {len(sets[0]):,} images for training, {len(sets[1]):,} for testing"]


def _dataset(images, labels, classes, name):
    images = np.asarray(images)
    return Dataset(images[..., None] if images.ndim == 3 else images, labels, classes, f"arrays {name}")


def _read(path):
    """The four arrays of an .npz; no object in it is unpickled."""
    path = regular(path, "an .npz of arrays")
    try:
        with zipfile.ZipFile(path) as file:
            believe(path, sum(one.file_size for one in file.infolist()))
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in PARTS if name not in file]
            if missing:
                raise DataError(f"{path}: expected {', '.join(PARTS)}, found no {missing[0]}")
            arrays = [file[name] for name in PARTS]
    except DataError:
        raise
    except Exception as error:  # damage meets with almost any exception
        raise DataError(f"{path}: expected an .npz of arrays, found one that cannot be read ({error})") from None
    return arrays[:2], arrays[2:]
