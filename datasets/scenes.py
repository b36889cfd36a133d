"""Streets drawn by a program, each pixel with its class, for where no photographs with labels are at hand.

    sky, houses with windows, trees, a road with pavements, cars, people    -- light, grain, blur -->    pixels
    the same shapes, flat                                                   -- nothing -->               labels

Outlines of small things are void for a pixel, as in sets that people labelled. A scene depends on (seed, split, index) and the
size only, so a longer set begins with the shorter one.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .dataset import DataError, Dataset

CLASSES = ("sky", "building", "road", "pavement", "tree", "car", "person")
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON = range(len(CLASSES))
VOID = len(CLASSES)
TRAIN_COUNT, TEST_COUNT = 400, 100
_SPLITS = ("train", "test")
_STREAM = 0x5CE2E  # keeps these random streams apart from others


def load_scenes(split, count=None, size=(96, 128), seed=0):
    """Generated streets with label maps.

    Parameters
    ----------
    split : "train" or "test"   # two streams that share no picture
    count : int or None         # None: 400 for train, 100 for test
    size : (int, int)           # (H, W), at least 16 each
    seed : int                  # >= 0
    Returns
    -------
    scenes : Dataset   # generated=True; void is the number after the last class
    Raises
    ------
    DataError : an unknown split, or a count, size or seed out of range.
    """
    count = (TEST_COUNT if split == "test" else TRAIN_COUNT) if count is None else count
    if split not in _SPLITS or count < 1 or seed < 0 or min(size) < 16:
        raise DataError("expected the split train or test, at least 1 generated scene of at least 16 x 16 pixels and a seed >= "
                        f"0, found {split!r}, {count}, {size[1]} x {size[0]} and {seed}")
    scenes = [draw_scene(seed, split, index, size) for index in range(count)]
    images, labels = (np.stack(part) for part in zip(*scenes, strict=True))
    return Dataset(images, labels, CLASSES, f"generated scenes, {split}", generated=True, void=VOID)


def draw_scene(seed, split, index, size):
    """Scene number ``index`` of a split: image, uint8 (H, W, 3), and labels, uint8 (H, W)."""
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((_STREAM, seed, _SPLITS.index(split), index))))
    scene = _Scene(random, *size)
    scene.draw()
    return scene.pixels(), np.asarray(scene.labels)


class _Scene:
    """A picture and its labels, on which shapes are drawn together; places are shares of the height and the width."""

    def __init__(self, random, height, width):
        self.random, self.height, self.width = random, height, width
        self.picture, self.labels = Image.new("RGB", (width, height)), Image.new("L", (width, height))
        self.canvases = [ImageDraw.Draw(self.picture), ImageDraw.Draw(self.labels)]

    def shape(self, kind, label, color, *points, edge=False):
        """A "polygon", "ellipse" or "rectangle" of a class; with ``edge`` its outline is void."""
        places = [(float(x) * self.width, float(y) * self.height) for x, y in points]
        shades = tuple(int(c) for c in np.clip(np.asarray(color) + self.random.normal(0, 6, 3), 0, 255))
        for canvas, fill in zip(self.canvases, (shades, label), strict=True):
            outline = VOID if edge and fill == label else None
            getattr(canvas, kind)(places, fill=fill, outline=outline)

    def box(self, label, color, left, top, right, bottom, kind="rectangle", edge=False):
        self.shape(kind, label, color, (left, top), (right, bottom), edge=edge)

    def draw(self):
        u, horizon = self.random.uniform, self.random.uniform(0.35, 0.55)
        self.box(SKY, (u(120, 235), u(150, 235), u(180, 250)), 0, 0, 1, horizon + 0.02)
        left = 0.0
        while left < 1:  # houses in a row, some of them missing
            right = left + u(0.1, 0.3)
            if u() < 0.8:
                self.house(left, u(0.05, horizon), right, horizon + 0.05)
            left = right
        self.box(PAVEMENT, np.full(3, u(130, 190)) + (10, 0, 0), 0, horizon, 1, 1)
        middle, near, far = u(0.35, 0.65), u(0.3, 0.55), u(0.02, 0.1)
        self.shape("polygon", ROAD, np.full(3, u(60, 110)), (middle - far, horizon), (middle + far, horizon),
                   (middle + near, 1), (middle - near, 1))
        for _ in range(self.random.integers(0, 4)):
            self.tree(u(0, 1), horizon)
        things = [(u(0.1, 1), self.car) for _ in range(self.random.integers(0, 4))]
        things += [(u(0.1, 1), self.person) for _ in range(self.random.integers(0, 5))]
        for near_by, thing in sorted(things, key=lambda pair: pair[0]):  # what is nearer covers what is farther away
            thing(near_by, horizon, middle)

    def house(self, left, top, right, bottom):
        wall = self.random.uniform(70, 210, 3) * (1, 0.95, 0.85)
        self.box(BUILDING, wall, left, top, right, bottom)
        for y in np.arange(top + 0.03, bottom - 0.06, 0.09):
            for x in np.arange(left + 0.02, right - 0.03, 0.05):
                self.box(BUILDING, wall * 0.45, x, y, x + 0.025, y + 0.05)

    def tree(self, x, horizon):
        size, green = self.random.uniform(0.08, 0.22), self.random.uniform((20, 60, 10), (80, 130, 60))
        self.box(TREE, (80, 60, 40), x - 0.01, horizon - size, x + 0.01, horizon + 0.06)
        for _ in range(6):
            dx, dy = self.random.normal(0, size / 4, 2)
            left, top = x + dx - size / 2, horizon + dy - 1.5 * size
            self.box(TREE, green, left, top, left + size, top + size, "ellipse")

    def car(self, near, horizon, middle):
        side, color = self.random.choice((-1, 1)), self.random.uniform(20, 240, 3)
        bottom, half = horizon + near * (0.95 - horizon), 0.02 + 0.1 * near
        x = middle + side * (0.03 + 0.2 * near)
        self.box(CAR, color * 0.4, x - 0.7 * half, bottom - 2.2 * half, x + 0.7 * half, bottom - half, edge=True)
        self.box(CAR, color, x - half, bottom - 1.4 * half, x + half, bottom - 0.3 * half, edge=True)
        for wheel in (-0.6, 0.6):
            self.box(CAR, (20, 20, 20), x + (wheel - 0.2) * half, bottom - 0.5 * half, x + (wheel + 0.2) * half, bottom)

    def person(self, near, horizon, middle):
        side, bottom, tall = self.random.choice((-1, 1)), horizon + near * (0.98 - horizon), 0.05 + 0.22 * near
        x, wide = middle + side * (0.12 + 0.4 * near) + self.random.normal(0, 0.05), 0.25 * tall
        self.box(PERSON, self.random.uniform(20, 220, 3), x - wide / 2, bottom - 0.85 * tall, x + wide / 2, bottom, edge=True)
        self.box(PERSON, self.random.uniform((90, 60, 40), (230, 190, 170)), x - wide / 3, bottom - tall, x + wide / 3,
                 bottom - 0.8 * tall, "ellipse")

    def pixels(self):
        """The picture as a camera sees it."""
        u = self.random.uniform
        view = np.asarray(self.picture.filter(ImageFilter.GaussianBlur(u(0.2, 0.8))), np.float32)
        slope = np.linspace(u(0.75, 1.2), u(0.75, 1.2), self.width, dtype=np.float32)[None, :, None]
        view = view * slope * (1 + self.random.normal(0, 0.05, 3)) + self.random.normal(0, u(2, 9), view.shape)
        return view.round().clip(0, 255).astype(np.uint8)
