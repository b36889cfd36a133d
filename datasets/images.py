"""Pictures of any kind -> uint8 arrays, each made like those that a network was trained on.

SVHN's own crops are made of a digit's bounding box, extended in its shorter direction to a square and resized to
32 x 32. Training then resizes 32 -> 40. A picture for prediction goes through the same two steps, so that a network
sees it as sharp, or as blurred, as what it was trained on:

    photograph --square, bicubic--> 32 x 32 --bilinear--> size x size
"""

import ctypes
import io
import logging
import math
import os
import threading
import warnings
from contextlib import contextmanager, suppress

import numpy as np
from PIL import ExifTags, Image, ImageOps

from .dataset import DataError
from .files import regular

CROP = 32  # side of SVHN's crops
_PIXELS = 1 << 28  # of a picture that is read and made smaller: 1.1 GB as RGB, four bytes a pixel
_LARGE = 1 << 26  # pixels; larger pictures are made smaller while they are read
_BY_ROWS = ("BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF")  # decoders of others need several times their picture's memory
_BAND = 1 << 20  # pixels that are brought into another mode at a time
_SQUARE = 1 << 24  # pixels of the largest square that is made of a picture of any shape
# EXIF's orientation -> what turns the picture upright
_TURNS = dict(enumerate((Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
                         Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
                         Image.Transpose.ROTATE_90), 2))  # fmt: skip
# of grey with more than 8 bits: the largest value of a range, and what takes the range to 0..255
_RANGES = {"I;16": [(65535, 1 / 256)], "I": [(255, 1), (65535, 1 / 256), (2**31, 1 / 2**23)],
           "F": [(1, 255), (255, 1), (65535, 1 / 257)]}  # fmt: skip
_LOCK = threading.RLock()  # what _quiet sets holds for the whole process
if hasattr(os, "register_at_fork"):  # a child has no thread that would give the lock back, nor what was before
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)
# what is wrong with a picture is said in a DataError
logging.getLogger("PIL").addHandler(logging.NullHandler())
for _handler in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):  # libtiff would write lines of its own to standard error
    with suppress(AttributeError, OSError, TypeError):  # where Pillow shows it
        getattr(ctypes.CDLL(Image.core.__file__), _handler)(None)


def resize(images, size):
    """Pillow's bilinear resize of a stack of square pictures; the same array where they have that size already.

    Parameters
    ----------
    images : uint8 array, shape (N, side, side, 3)
    Returns
    -------
    resized : uint8 array, shape (N, size, size, 3)
    """
    if images.shape[1] == size:
        return images
    resized = np.empty((len(images), size, size, 3), np.uint8)
    for target, image in zip(resized, images, strict=True):
        target[:] = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    return resized


def luminance(images):
    """RGB to grey, uint8 (..., H, W, 3) to (..., H, W, 1), with the weights of ITU-R BT.601."""
    return ((images @ np.array([[299], [587], [114]]) + 500) // 1000).astype(np.uint8)


def square_crop(image, left, top, width, height):
    """Cut a box out of a picture as SVHN does: extended in its shorter direction to a square, resized to 32 x 32.

    Half a pixel rounds up. With Pillow's bicubic filter this gives the official crops to within 0.2 grey levels on
    average (measured on 11 digits of six official photographs). Where the square leaves the picture its edge is
    repeated.

    Parameters
    ----------
    image : uint8 array, shape (H, W, 3)
    left, top, width, height : int   # the box, in pixels from 0; it may lie partly outside
    Returns
    -------
    crop : uint8 array, shape (32, 32, 3)
    """
    side = max(width, height)
    columns = (left + (width - side + 1) // 2 + np.arange(side)).clip(0, image.shape[1] - 1)
    rows = (top + (height - side + 1) // 2 + np.arange(side)).clip(0, image.shape[0] - 1)
    if height > width:
        if side * side > max(_SQUARE, 4 * image.shape[0] * image.shape[1]):  # down, then across: a rounding apart
            return square_crop(image.transpose(1, 0, 2), top, left, height, width).transpose(1, 0, 2)
        return _bicubic(image[rows[:, None], columns], CROP)
    # Pillow goes across, then down: rows that stand in the square again and again need not go across more than once
    return _bicubic(_bicubic(image[rows[0] : rows[-1] + 1, columns], rows[-1] + 1 - rows[0])[rows - rows[0]], CROP)


def _bicubic(image, height):
    return np.asarray(Image.fromarray(image).resize((CROP, height), Image.Resampling.BICUBIC))


@contextmanager
def _quiet():
    """Pillow without its warnings, and with our limit in the place of its own (89 million pixels)."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _PIXELS
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


class _Reader(io.BufferedReader):
    """A file whose reads take no memory for more bytes than there are: a damaged picture may ask for 4 GB."""

    def read(self, size=-1):
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def open_rgb(path, upright=True, pixels=None):
    """An image file as Pillow's RGB image: in any mode, of an animation the first frame.

    Parameters
    ----------
    path : str or Path
    upright : bool        # EXIF's orientation is obeyed
    pixels : int or None  # pictures with more are made smaller by a whole factor; None: those with more than 2**26 are refused
    Returns
    -------
    image : Image.Image, mode RGB
    Raises
    ------
    DataError : the file is missing, no regular file, not an image, broken, or too large.
    """
    path = regular(path, "an image file")
    try:
        with _quiet(), _Reader(open(path, "rb", buffering=0)) as file, Image.open(file) as image:
            most = _PIXELS if pixels and image.format in _BY_ROWS else _LARGE
            if image.width * image.height > most:
                raise DataError(f"{path}: expected at most {most:,} pixels, found {image.width:,} x {image.height:,}")
            if image.format == "EPS":  # Pillow would have Ghostscript run it
                raise DataError(f"{path}: expected a picture of pixels, found PostScript, which is a program")
            if (factor := _factor(image, pixels)) > 1:  # of a JPEG, fewer pixels are decoded
                image.draft(None, (image.width // factor, image.height // factor))
            image.load()
            turn = _turn(image) if upright else None
            image = _rgb(image, path, _factor(image, pixels))
            return image.copy() if turn is None else image.transpose(turn)
    except DataError:
        raise
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise DataError(
            f"{path}: expected an image that Pillow can read, found none ({type(error).__name__}: {error})"
        ) from None


def open_labels(path):
    """A picture whose pixels are numbers, grey or of a palette, as Pillow's image of mode L with these numbers.

    Raises
    ------
    DataError : the file is missing, no regular file, not an image, broken, too large, or in colours.
    """
    path = regular(path, "an image file")
    try:
        with _quiet(), Image.open(path) as image:
            if image.width * image.height > _LARGE:
                raise DataError(f"{path}: expected at most {_LARGE:,} pixels, found {image.width:,} x {image.height:,}")
            if image.mode not in ("L", "P"):
                raise DataError(f"{path}: expected labels as numbers, grey or of a palette, found colours of mode {image.mode}")
            return Image.fromarray(np.asarray(image))
    except DataError:
        raise
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise DataError(
            f"{path}: expected a picture of labels that Pillow can read, found none ({type(error).__name__}: {error})"
        ) from None


def _turn(image):
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # EXIF can be damaged in a sound picture
        return None


def _factor(image, pixels):
    """By which whole factor a picture must become smaller."""
    return math.isqrt(image.width * image.height // pixels) + 1 if pixels else 1


def _bands(image, factor):
    """(top, band): a picture cut across, each band but the last a multiple of ``factor`` high. Small ones are one band."""
    step = factor * max(1, _BAND // (image.width * factor))
    for top in range(0, image.height, step):
        yield top, image.crop((0, top, image.width, min(top + step, image.height)))


def _rgb(image, path, factor):
    """Any Pillow mode -> RGB, made smaller by a whole factor, in bands: of a large picture there is no second one in memory.

    16-bit, 32-bit and float grey is scaled to 0..255, transparency laid on white.
    """
    scale = None
    if ranges := _RANGES.get(image.mode[:4]):
        extremes = [(grey.min(), grey.max()) for _, band in _bands(image, 1) for grey in [np.asarray(band, np.float64)]]
        low, high = np.min(extremes), np.max(extremes)
        scale = next((scale for top, scale in ranges if low >= 0 and high <= top), None)  # none of NaN either
        if scale is None:
            raise DataError(f"{path}: expected grey values from 0 to {ranges[-1][0]:,}, found {low:g} to {high:g}")
    elif factor == 1 and image.mode == "RGB" and not image.has_transparency_data:
        return image
    result = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top, band in _bands(image, factor):
        if scale is not None:
            band = Image.fromarray((np.asarray(band, np.float64) * scale).astype(np.uint8))
        elif image.has_transparency_data:
            band = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band)
        result.paste(band.convert("RGB").reduce(factor), (0, top // factor))
    return result


def prepare_image(path, size=40):
    """An image file, as a network trained on SVHN wants to see it.

    EXIF orientation is obeyed. A picture that is not square gets its edge pixels repeated in the shorter direction,
    since SVHN's digits are never stretched; then 32 x 32, then size x size (see the top of this file). A picture of
    exactly size x size is taken as prepared already. The digit should fill most of the picture, as in SVHN.

    Parameters
    ----------
    path : str or Path   # anything that Pillow opens, in any mode and size; of an animation, the first frame
    Returns
    -------
    image : uint8 array, shape (size, size, 3)
    Raises
    ------
    DataError : the file is missing, not an image, or broken.
    """
    pixels = np.asarray(open_rgb(path, pixels=_LARGE))
    height, width, _ = pixels.shape
    if (height, width) == (size, size):
        return pixels
    return resize(square_crop(pixels, 0, 0, width, height)[None], size)[0]


def fitted(path, height, width):
    """An image file scaled to cover height x width, what juts out cut off at both ends: uint8 (height, width, 3)."""
    image = open_rgb(path, pixels=max(_LARGE, 4 * height * width))
    return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))
