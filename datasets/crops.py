"""Pictures of any size -> a square cut out of them: the augmentation of ImageNet, and the middle of a picture for a test.

The recipe is that of tensorpack's DoReFa-Net example (examples/DoReFa-Net/imagenet_utils.py). Other than there, resizing is
Pillow's bicubic, which smooths what it makes smaller, and a crop may also touch the right and the lower edge.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

BICUBIC = Image.Resampling.BICUBIC
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
# directions in which the colours of ImageNet vary (columns), and how much; of RGB in [0, 1]
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
TRIES = 10  # to find a crop of a random shape that fits into a picture


def centre_crop(image, size, edge=None):
    """The middle of a picture, Pillow's RGB image, whose shorter edge was made ``edge`` pixels long: uint8 (size, size, 3).

    edge : None: 256 pixels for a size of 224, and for others in that proportion
    """
    edge = round(size * 256 / 224) if edge is None else edge
    scale = edge / min(image.size)
    width, height = (max(edge, round(scale * length)) for length in image.size)
    image = image.resize((width, height), BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


@dataclass(frozen=True)
class CropAugmentation:
    """A random part of a picture, its colours changed, perhaps mirrored; drawn anew for each position of an epoch.

    1. A crop of ``area`` (share of the picture, uniform) and of ``aspect`` (uniform; width by height or, as often, the other
       way round), anywhere; after ten that do not fit, the middle of the picture. Resized to the size of the images.
    2. In random order:

        brightness   x * U(1 - brightness, 1 + brightness)
        contrast     m + (x - m) * U(1 - contrast, 1 + contrast), m the mean of the grey image
        saturation   x * (1 + v) - grey * v, v = U(-saturation, saturation)
        lighting     x + 255 * eigenvectors @ (eigenvalues * N(0, lighting)) of ImageNet's colours

    3. Cut off to 0..255 and to whole numbers, then mirrored in ``flip`` of the cases.
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    lighting: float = 0.1
    flip: float = 0.5

    def draw(self, random, count):
        """A seed for each of ``count`` positions: int64 (1, count)."""
        return random.integers(0, 1 << 63, (1, count))

    def images(self, images, indices, draws):
        """Some of the images, uint8 (B, size, size, 3), of an array or of ``Pictures``."""
        if getattr(images, "on_demand", False):
            return images.decoded(indices, self, draws[0])
        return np.stack([self.of(Image.fromarray(images[index]), images.shape[1], seed)
                         for index, seed in zip(indices, draws[0], strict=True)])

    def targets(self, targets, draws):
        """Their targets: as they are."""
        return targets

    def of(self, image, size, seed):
        """One picture, Pillow's RGB image: uint8 (size, size, 3). What is done to it follows from the seed alone."""
        random = np.random.Generator(np.random.Philox(int(seed)))
        pixels = self._coloured(np.asarray(self._crop(image, size, random), np.float32), random)
        pixels = pixels.clip(0, 255).astype(np.uint8)
        return pixels[:, ::-1] if random.random() < self.flip else pixels

    def _crop(self, image, size, random):
        for _ in range(TRIES):
            area, ratio = random.uniform(*self.area) * image.width * image.height, random.uniform(*self.aspect)
            width, height = int(math.sqrt(area * ratio) + 0.5), int(math.sqrt(area / ratio) + 0.5)
            if random.random() < 0.5:
                width, height = height, width
            if 0 < width <= image.width and 0 < height <= image.height:
                left = random.integers(0, image.width - width, endpoint=True)
                top = random.integers(0, image.height - height, endpoint=True)
                return image.crop((left, top, left + width, top + height)).resize((size, size), BICUBIC)
        return centre_crop(image, size, size)

    def _coloured(self, x, random):
        for which in random.permutation(4):
            if which == 0:
                x = x * np.float32(random.uniform(1 - self.brightness, 1 + self.brightness))
            elif which == 1:
                gain = np.float32(random.uniform(1 - self.contrast, 1 + self.contrast))
                mean = np.float32(_grey(x).mean(dtype=np.float64))
                x = (x - mean) * gain + mean
            elif which == 2:
                v = np.float32(random.uniform(-self.saturation, self.saturation))
                x = x * (1 + v) - _grey(x)[..., None] * v
            else:
                shares = EIGENVALUES * random.normal(0, self.lighting, 3)
                x = x + (255 * (EIGENVECTORS * shares).sum(axis=1)).astype(np.float32)
        return x


def _grey(x):
    """Not ``x @ GREY``, whose last bits depend on the processor."""
    return x[..., 0] * GREY[0] + x[..., 1] * GREY[1] + x[..., 2] * GREY[2]
