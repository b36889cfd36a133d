"""Digits drawn by a program, for where a data set is not at hand. Labelled as generated everywhere.

In the place of SVHN, house numbers. Each picture goes the way of a real one:

    number in a font, on a wall or a plaque --camera: pose, light, blur--> R x R pixels of a "photograph",
    R = 12..64 --noise, JPEG-like loss--> --bicubic--> 32 x 32 --bilinear--> size x size

In the place of MNIST, single digits, bright on black, as if by many hands:

    digit in a font --turned, slanted, bent--> ink fitted into 20 x 20 --its mass in the middle--> 28 x 28

A picture depends on (seed, split, index) only, so a longer set begins with the shorter one. The fonts are those inside
Matplotlib and Pillow: nothing is fetched, and another version of them may draw slightly differently.
"""

import logging
import warnings
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.fft import dctn, idctn
from scipy.ndimage import map_coordinates
from tqdm import tqdm

from .cache import Source, cached
from .dataset import DataError, Digits
from .images import CROP, resize
from .ink import fit_ink

VERSION = 2  # raise it when any picture would change
logging.getLogger("matplotlib").addHandler(logging.NullHandler())  # fonts are all that is wanted of it
TRAIN_COUNT, TEST_COUNT = 8000, 1000
_SPLITS = ("train", "test")
_STREAM = 0xD161  # keeps these random streams apart from the loader's

_HEIGHT = 56  # of a digit on the canvas, where a number is drawn before the camera sees it
_CANVAS = (288, 128)  # width, height
_VIEW = 64  # side of what the camera sees, before it becomes R x R

_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSerif-Italic", "DejaVuSansMono-Bold", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
    "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10", "cmtt10", None, None, None,  # None: Pillow's own
)  # fmt: skip

# weight, then hue, saturation and value of the ground and of the digits, each as (low, high)
_PAINTS = (
    (0.26, (0.05, 0.70), (0.00, 0.08), (0.75, 1.00), (0.55, 0.75), (0.00, 0.70), (0.05, 0.35)),  # white plate
    (0.14, (0.60, 0.68), (0.45, 0.90), (0.25, 0.65), (0.10, 0.60), (0.00, 0.10), (0.80, 1.00)),  # blue plate
    (0.16, (0.00, 1.00), (0.00, 0.30), (0.05, 0.25), (0.05, 0.20), (0.00, 0.35), (0.50, 1.00)),  # black, metal or white
    (0.20, (0.04, 0.14), (0.05, 0.35), (0.45, 0.85), (0.00, 1.00), (0.00, 0.40), (0.05, 0.35)),  # stone, dark
    (0.10, (0.04, 0.65), (0.02, 0.30), (0.35, 0.65), (0.05, 0.65), (0.00, 0.15), (0.75, 1.00)),  # wall, white
    (0.12, (0.01, 0.09), (0.35, 0.75), (0.25, 0.60), (0.05, 0.16), (0.05, 0.50), (0.60, 1.00)),  # wood or brick, brass
    (0.08, (0.00, 1.00), (0.10, 0.80), (0.15, 0.95), (0.00, 1.00), (0.00, 0.80), (0.05, 1.00)),  # anything
)
_PAINT_WEIGHTS = np.cumsum([paint[0] for paint in _PAINTS])


def load_generated(split, count=None, size=40, seed=0, cache_dir=None):
    """Generated house numbers; drawn once (seconds for thousands), then from the cache.

    Parameters
    ----------
    split : "train" or "test"          # two streams that share no picture
    count : int or None                # None: 8,000 for train, 1,000 for test
    size : int                         # side of the images
    seed : int                         # >= 0
    cache_dir : str, Path or None      # None: BITNET_CACHE, else the platform's cache folder
    Returns
    -------
    digits : Dataset  # generated=True; every digit equally often, to within one
    Raises
    ------
    DataError : an unknown split, or a count or seed out of range.
    """
    if count is None:
        count = TEST_COUNT if split == "test" else TRAIN_COUNT
    digits, messages = read_generated(split, count, size, seed, cache_dir)
    for message in messages:
        warnings.warn(message, stacklevel=2)
    return digits


def read_generated(split, count, size, seed, cache_dir=None, plain=False):
    """Like load_generated, with its messages: (digits, messages). ``plain``: as MNIST's, images (N, size, size, 1)."""
    if split not in _SPLITS:
        raise DataError(f"expected the split train or test of the generated digits, found {split!r}")
    if count < 1 or seed < 0:
        raise DataError(f"expected at least 1 generated digit and a seed >= 0, found {count} and {seed}")
    images, labels, messages = cached(
        f"generated-{split}-{size}{'-plain' * plain}",
        {"generator": VERSION, "split": split, "count": count, "seed": seed},
        lambda: _source(split, count, size, seed, plain),
        (size, size, 1 if plain else 3),
        cache_dir,
        classes=10,
    )
    return Digits(images, labels, f"generated digits, {split}", generated=True), messages


def read_both(counts, size, cache_dir, start, name, plain=False):
    """Both splits in the place of a published data set ``name``: (train, test, messages, which begin with ``start``)."""
    (train, train_messages), (test, test_messages) = (
        read_generated(split, count, size, 0, cache_dir, plain) for split, count in zip(("train", "test"), counts, strict=True)
    )
    first = (
        f"{start}the built-in generated digits{', bright on black' * plain}, {len(train):,} for training and {len(test):,} for "
        f"testing. They are drawn by a program: accuracies on them say nothing about {name}"
    )
    return train, test, [first, *train_messages, *test_messages]


def _source(split, count, size, seed, plain):
    labels = np.array([_label(seed, split, index) for index in range(count)], np.uint8)
    indices = tqdm(range(count), f"drawing {split} digits", unit="", disable=None)
    if plain:
        return Source(labels, (draw_plain(seed, split, index, size)[None] for index in indices))
    return Source(labels, (resize(draw_digit(seed, split, index)[None], size) for index in indices))


def _random(*key):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((_STREAM, *key))))


@lru_cache(maxsize=1024)
def _block(seed, split, block):
    """Ten indices in a row have the ten digits, in random order."""
    return _random(seed, _SPLITS.index(split), block, 1).permutation(10)


def _label(seed, split, index):
    return int(_block(seed, split, index // 10)[index % 10])


def draw_digit(seed, split, index):
    """Picture number `index` of a split: uint8 (32, 32, 3), the digit of _label(seed, split, index) in its middle."""
    random = _random(seed, _SPLITS.index(split), index)
    scene = _scene(random, _label(seed, split, index))
    view = _camera(random, scene)
    pixels = _sensor(random, _light(random, view))
    return np.asarray(Image.fromarray(pixels).resize((CROP, CROP), Image.Resampling.BICUBIC))


def draw_plain(seed, split, index, size=28):
    """Picture number `index` of a split in the place of MNIST: uint8 (size, size, 1)."""
    random = _random(seed, _SPLITS.index(split), index, 2)
    name, stroke = _FONTS[random.integers(len(_FONTS))], int(random.choice([0, 0, 1, 2]))
    glyph = np.asarray(_glyph(name, _label(seed, split, index), stroke), np.float32)
    angle, slant, wide = random.normal(0, 0.13), random.normal(0, 0.18), random.uniform(0.8, 1.3)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin * wide], [slant * cos - sin, (slant * sin + cos) * wide]])
    side, half = 96, np.array(glyph.shape) / 2
    grid = (np.mgrid[:side, :side].reshape(2, -1) - side / 2) * 1.3
    bend = [np.asarray(Image.fromarray(few).resize((side, side), Image.Resampling.BICUBIC)).reshape(-1)
            for few in random.normal(0, 2.5, (2, 5, 5)).astype(np.float32)]  # a smooth field, in pixels of the glyph
    ink = map_coordinates(glyph, turn @ grid + bend + half[:, None], order=1)
    ink = Image.fromarray(ink.reshape(side, side).astype(np.uint8))
    box = ink.point(lambda value: 255 * (value > 32)).getbbox()
    return fit_ink(ink, box, size, size / 2 - 0.5)


# --- the number on its wall ----------------------------------------------------------------------------------------


@cache
def _font(name):
    """A font in the size at which its digits are _HEIGHT pixels high."""
    import matplotlib  # takes a second, and a folder of the user's

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    load = ImageFont.load_default if name is None else lambda size: ImageFont.truetype(path, size)
    _, top, _, bottom = load(200).getbbox("8")
    return load(200 * _HEIGHT / (bottom - top))


@cache
def _glyph(name, digit, stroke):
    """A digit's shape, mode L, cut to its ink as the boxes of SVHN are."""
    font = _font(name)
    left, top, right, bottom = font.getbbox(str(digit), stroke_width=stroke)
    shape = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(shape).text((1 - left, 1 - top), str(digit), 255, font, stroke_width=stroke)
    return shape.crop(shape.getbbox())


def _colour(random, hue, saturation, value):
    """A colour drawn from ranges of hue, saturation and value: tuple of 3 ints."""
    h, s, v = random.uniform(*hue), random.uniform(*saturation), random.uniform(*value)
    ramp = np.abs((h * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return tuple(int(c) for c in 255 * v * (1 - s * (1 - ramp.clip(0, 1))))


def _scene(random, digit):
    """The number, its middle digit at the canvas's centre: RGB image, _CANVAS."""
    width, height = _CANVAS
    ground = ink = (0, 0, 0)
    while abs(sum(ground) - sum(ink)) < 150:  # of 765: paint that nobody could read is not used for house numbers
        paint = _PAINTS[int(np.searchsorted(_PAINT_WEIGHTS, random.uniform(0, _PAINT_WEIGHTS[-1])))]
        ground, ink = _colour(random, *paint[1:4]), _colour(random, *paint[4:7])
    name, stroke = _FONTS[random.integers(len(_FONTS))], int(random.choice([0, 0, 1, 2, 3]))
    digits = [int(d) for d in random.integers(0, 10, 5)]
    length = int(random.choice([1, 2, 3, 4, 5], p=[0.12, 0.34, 0.34, 0.16, 0.04]))
    place = int(random.integers(length))  # of our digit in the number
    digits[place] = digit
    gap = random.uniform(0.05, 0.3) * _HEIGHT
    glyphs = [_glyph(name, d, stroke) for d in digits[:length]]
    starts = np.cumsum([0] + [glyph.width + gap for glyph in glyphs])
    starts += width / 2 - starts[place] - glyphs[place].width / 2  # our digit's middle to the canvas's

    plaque = random.uniform() < 0.45
    wall = _colour(random, (0.0, 0.7), (0.0, 0.5), (0.05, 0.9)) if plaque else ground
    scene = Image.new("RGB", _CANVAS, wall)
    pen = ImageDraw.Draw(scene)
    if plaque:
        above, below, before, after = random.uniform(0.06, 0.5, 4) * _HEIGHT
        middle = height / 2
        box = (starts[0] - before, middle - _HEIGHT / 2 - above, starts[-1] - gap + after, middle + _HEIGHT / 2 + below)
        edge = ink if random.uniform() < 0.5 else _colour(random, (0.0, 1.0), (0.0, 0.3), (0.0, 1.0))
        line = int(random.choice([0, 2, 3, 5]))
        if random.uniform() < 0.2:
            pen.ellipse((box[0] - 12, box[1] - 12, box[2] + 12, box[3] + 12), ground, edge, line)
        else:
            pen.rounded_rectangle(box, random.uniform(0, 12), ground, edge, line)
    else:
        _masonry(random, pen, ground)

    shade = None
    if random.uniform() < 0.35:  # digits that stand off the wall: a shadow, or a lit edge
        offset = random.integers(-4, 5, 2)
        shade = tuple(int(c * 0.45) for c in ground) if random.uniform() < 0.75 else (235, 235, 225)
    lifts = random.normal(0, 1.2, length)
    places = [
        (round(start), round(height / 2 - glyph.height / 2 + lift))
        for start, glyph, lift in zip(starts[:-1], glyphs, lifts, strict=True)
    ]
    if shade:
        for glyph, (x, y) in zip(glyphs, places, strict=True):
            scene.paste(shade, (x + int(offset[0]), y + int(offset[1])), glyph)
    for glyph, at in zip(glyphs, places, strict=True):
        scene.paste(ink, at, glyph)
    return scene


def _masonry(random, pen, ground):
    """Sometimes joints of boards or bricks, in a shade of the wall."""
    width, height = _CANVAS
    if random.uniform() < 0.3:
        factor = random.uniform(0.6, 1.25)
        shade = tuple(int(min(255, c * factor)) for c in ground)
        y = random.uniform(0, 40)
        while y < height:
            pen.line((0, y, width, y), shade, int(random.choice([1, 2, 3])))
            y += random.uniform(18, 60)


# --- the photograph ------------------------------------------------------------------------------------------------


def _camera(random, scene):
    """The square around our digit, seen at an angle: float32 (_VIEW, _VIEW, 3)."""
    centre_x, centre_y = _CANVAS[0] / 2 + random.normal(0, 2.0), _CANVAS[1] / 2 + random.normal(0, 1.5)
    scale = random.uniform(1.0, 1.35) * _HEIGHT / _VIEW  # canvas pixels a view pixel
    wide = scale / random.uniform(0.58, 1.02)  # narrow digits are common
    angle, shear = random.normal(0, 0.06), random.normal(0, 0.08)
    cos, sin, half = np.cos(angle), np.sin(angle), _VIEW / 2
    a, b = wide * cos, wide * (shear * cos - sin)
    d, e = scale * sin, scale * (shear * sin + cos)
    corners = (a, b, centre_x - (a + b) * half, d, e, centre_y - (d + e) * half)
    view = scene.transform((_VIEW, _VIEW), Image.Transform.AFFINE, corners, Image.Resampling.BICUBIC)
    return np.asarray(view.filter(ImageFilter.GaussianBlur(random.uniform(0.4, 2.2))), np.float32)


def _light(random, view):
    """Texture, gradients, shadows, a colour cast, exposure and haze: float32 in, float32 out."""
    rows = np.linspace(-1, 1, _VIEW, dtype=np.float32)[:, None]
    columns = rows.T
    slope = random.normal(0, 0.12, 2)
    light = 1 + np.float32(slope[0]) * rows + np.float32(slope[1]) * columns
    if random.uniform() < 0.12:  # the edge of a shadow
        turn, far = random.uniform(0, 2 * np.pi), random.uniform(-0.6, 0.6)
        side = np.cos(turn) * columns + np.sin(turn) * rows - far
        light = light * (1 - random.uniform(0.2, 0.55) * (side * 8 + 0.5).clip(0, 1))
    grain = random.normal(0, random.uniform(0, 6), (int(random.integers(3, 20)), int(random.integers(3, 20))))
    grain = Image.fromarray(grain.astype(np.float32)).resize((_VIEW, _VIEW), Image.Resampling.BILINEAR)
    view = view * light[:, :, None] + np.asarray(grain)[:, :, None]
    cast = 1 + random.normal(0, 0.04, 3) + random.uniform(-0.03, 0.07) * np.array([-1, 0, 1])
    exposure = random.uniform(0.7, 1.35)
    view = view * (exposure * cast).astype(np.float32)
    haze, veil = min(1.0, random.uniform(0.28, 1.15)), random.uniform(20, 220)  # low contrast is common
    return view * np.float32(haze) + np.float32((1 - haze) * veil)


def _sensor(random, view):
    """Few pixels, noise, and the loss of JPEG: uint8 (R, R, 3)."""
    side = int(np.exp(random.uniform(np.log(10), np.log(_VIEW))))
    small = Image.fromarray(view.clip(0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BOX)
    pixels = np.array(small, np.float32)
    if random.uniform() < 0.3:  # colours that the lens does not bring together
        part = np.float32(random.uniform(0.1, 0.5))  # of a pixel, to the right, in blue
        pixels[:, 1:, 2] += part * (pixels[:, :-1, 2] - pixels[:, 1:, 2])
    noise = random.normal(0, random.uniform(0.3, 3.5), (side, side, 1)) + random.normal(0, 1.2, (side, side, 3))
    pixels = pixels + noise.astype(np.float32)
    step = random.uniform(-15, 16)
    if step > 2:  # quantize the cosine transform, fine detail more coarsely, colour most
        bright = pixels.mean(-1, keepdims=True)
        colour = dctn(pixels - bright, axes=(0, 1), norm="ortho")
        detail = dctn(bright, axes=(0, 1), norm="ortho")
        order = np.add.outer(np.arange(side), np.arange(side))[:, :, None] / side
        pixels = idctn(np.round(detail / (q := step * (0.3 + order))) * q, axes=(0, 1), norm="ortho")
        pixels = pixels + idctn(np.round(colour / (3 * q)) * 3 * q, axes=(0, 1), norm="ortho")
    return pixels.round().clip(0, 255).astype(np.uint8)
