"""Files -> uint8 arrays -> batches: SVHN, MNIST, and generated digits for where it is not at hand.

    load_digits(...)  ->  (train, test, messages)       the one call that a training script needs; load_mnist(...) of MNIST
    Loader(train, 128, augment=Augmentation()).epoch(0) ->  Batch, Batch, ...

Knows nothing of kernels, tensors or layers.
"""

from .digits import DataError, Digits
from .generated import load_generated
from .images import luminance, prepare_image
from .load import load_digits
from .loader import Augmentation, Batch, Loader
from .mnist import load_mnist
from .svhn import digit_crops, load_svhn

__all__ = [
    "Augmentation",
    "Batch",
    "DataError",
    "Digits",
    "Loader",
    "digit_crops",
    "load_digits",
    "load_generated",
    "load_mnist",
    "load_svhn",
    "luminance",
    "prepare_image",
]
