"""A digit on paper -> what MNIST would have made of it, and the one call that prepares a picture for any network.

    picture --bright ink on black, without shade and specks--> fitted into 20 x 20 --its mass in the middle--> 28 x 28
"""

import numpy as np
from PIL import Image
from scipy import ndimage

from .crops import centre_crop
from .dataset import DataError
from .images import fitted, luminance, open_rgb, prepare_image

_SIDE = 1024  # pixels; larger pictures are made smaller first
_NOISE = 4.4  # median deviations from the paper's grey (3 standard deviations of noise): no ink
_INK = 0.1  # of full ink: what counts where its ends are looked for
_SPECK = 0.04  # of all ink: what stands apart and is less is dirt


def fit_ink(ink, box, size, middle):
    """Bright ink fitted into 20/28 of a black square, its aspect kept, its mass in the middle as nearly as whole pixels allow.

    Parameters
    ----------
    ink : Image.Image, mode L
    box : (left, top, right, bottom)   # where the ink is
    size : int                         # of the square
    middle : float                     # index of the pixel at which the mass goes; MNIST: size / 2
    Returns
    -------
    image : uint8 array, shape (size, size, 1)
    """
    room = size * 20 / 28 / max(box[2] - box[0], box[3] - box[1])
    shape = max(1, round(room * (box[2] - box[0]))), max(1, round(room * (box[3] - box[1])))
    digit = np.asarray(ink.resize(shape, Image.Resampling.BOX, box))
    image = np.zeros((size, size, 1), np.uint8)
    if not digit.any():
        return image
    y, x = (int(np.clip(np.ceil(middle - 0.5 - mass), 0, size - length))
            for mass, length in zip(ndimage.center_of_mass(digit), digit.shape, strict=True))  # fmt: skip
    image[y : y + digit.shape[0], x : x + digit.shape[1], 0] = digit
    return image


def prepare_digit(image, size=28, name="the picture"):
    """A picture of one digit in MNIST's manner, whatever its size, margins and colours, the digit dark or bright.

    What most of the border and of the corners show is paper. A plane is fitted to the paper and taken away: light that
    falls from one side. On 10,000 digits of MNIST cut to their ink, seven upright strokes are taken for paper.

    Parameters
    ----------
    image : uint8 array, shape (H, W), (H, W, 1) or (H, W, 3)
    size : int                         # MNIST's is 28
    name : str                         # of the picture, for the error
    Returns
    -------
    digit : uint8 array, shape (size, size, 1)   # bright on black
    Raises
    ------
    DataError : the picture has one colour only, or nothing but specks.
    """
    grey = Image.fromarray((luminance(image) if image.shape[2:] == (3,) else image).reshape(image.shape[:2]))
    grey = np.asarray(grey.reduce(-(-max(grey.size) // _SIDE)), np.float32)
    if grey.min() == grey.max():
        raise DataError(f"{name}: expected a digit, found a picture of one colour")
    middle = (grey.min() + grey.max()) / 2
    bright = grey > middle
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    if border.mean() + bright[[0, 0, -1, -1], [0, -1, 0, -1]].mean() > 1:
        grey, bright = 255 - grey, 255 - grey > 255 - middle
    if _spread(grey[~bright]):  # drawn by a program, paper has none
        rows, columns = (np.linspace(-1, 1, length, dtype=np.float32) for length in grey.shape)
        plane = np.stack(np.broadcast_arrays(1, rows[:, None], columns[None]), axis=-1).astype(np.float32)
        light = grey
        for _ in range(3):  # what is paper is known better each time
            step = 1 + (~bright).sum() // 5000
            light = grey - plane @ np.linalg.lstsq(plane[~bright][::step], grey[~bright][::step], rcond=None)[0]
            bright = light > light.max() / 2
        grey = light
    paper = np.median(grey[~bright]) + _NOISE * _spread(grey[~bright])
    ink = ((grey - paper) / (np.percentile(grey[bright], 99) - paper)).clip(0, 1)
    parts, count = ndimage.label(ink > 0.3, np.ones((3, 3)))
    weights = ndimage.sum_labels(ink, parts, range(1, count + 1))
    specks = 1 + np.flatnonzero(weights < _SPECK * weights.sum())
    if len(specks) == count:
        raise DataError(f"{name}: expected a digit, found nothing but specks")
    if len(specks):
        ink[ndimage.binary_dilation(np.isin(parts, specks), iterations=2)] = 0
    rows, columns = (np.flatnonzero((ink > _INK).any(axis)) for axis in (1, 0))
    box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    digit = fit_ink(Image.fromarray((ink * 255).round().astype(np.uint8)), box, size, size / 2)
    if not digit.any():
        raise DataError(f"{name}: expected a digit, found next to no ink")
    return (digit * (255 / digit.max())).round().astype(np.uint8)  # a thin pen's strokes too become bright


def _spread(values):
    return np.median(np.abs(values - np.median(values)))


def prepare_for(path, kind, shape):
    """An image file, made like the images that a network was trained on.

    Parameters
    ----------
    path : str or Path
    kind : "photo", "ink", "fit" or "crop"   # Dataset.kind: as SVHN's digits, as MNIST's, as those of a folder of images, or as
                                             # ImageNet's for a test
    shape : (int, int, int)                  # Dataset.shape: (H, W, C); H = W but for "fit"
    Returns
    -------
    image : uint8 array, shape (H, W, C)
    Raises
    ------
    DataError : the file is missing, not an image, or broken; for "ink" also: no digit is seen.
    ValueError : another kind.
    """
    height, width, channels = shape
    if kind == "ink":
        image = prepare_digit(np.asarray(open_rgb(path, pixels=_SIDE**2)), height, path)
    elif kind == "photo":
        image = prepare_image(path, height)
    elif kind == "fit":
        image = fitted(path, height, width)
    elif kind == "crop":
        image = centre_crop(open_rgb(path), height)
    else:
        raise ValueError(f"expected the kind photo, ink, fit or crop, found {kind!r}")
    return image if image.shape[2] == channels else luminance(image) if channels == 1 else image.repeat(3, axis=2)
