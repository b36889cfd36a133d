"""Pictures of any kind -> square uint8 RGB arrays, in the one way that all digits of this package are resized.

SVHN's own crops are made of a digit's bounding box, extended in its shorter direction to a square and resized to
32 x 32. Training then resizes 32 -> 40. A picture for prediction goes through the same two steps, so that a network
sees it as sharp, or as blurred, as what it was trained on:

    photograph --square, bicubic--> 32 x 32 --bilinear--> size x size
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .digits import DataError

CROP = 32  # side of SVHN's crops


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
    """RGB to grey, uint8 (N, H, W, 3) to (N, H, W, 1), with the weights of ITU-R BT.601."""
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
    columns = left + (width - side + 1) // 2 + np.arange(side)
    rows = top + (height - side + 1) // 2 + np.arange(side)
    square = image[rows.clip(0, image.shape[0] - 1)[:, None], columns.clip(0, image.shape[1] - 1)]
    return np.asarray(Image.fromarray(square).resize((CROP, CROP), Image.Resampling.BICUBIC))


def _rgb(image):
    """Any Pillow mode -> RGB; 16-bit and float grey scaled to 0..255, transparency laid on white."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, np.float64)
        if image.mode == "F":
            grey = grey * 255 if grey.max() <= 1 else grey
        elif grey.max() > 255:
            grey = grey / 256  # 16 bits of depth
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def prepare_image(path, size=40):
    """An image file, as a trained network wants to see it.

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
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected an image file, found {'a folder' if path.is_dir() else 'nothing'}")
    try:
        with Image.open(path) as image:
            pixels = np.asarray(_rgb(ImageOps.exif_transpose(image)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: expected an image that Pillow can read, found none ({error})") from None
    height, width, _ = pixels.shape
    if (height, width) == (size, size):
        return pixels
    return resize(square_crop(pixels, 0, 0, width, height)[None], size)[0]
