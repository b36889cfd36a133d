"""Files -> uint8 arrays -> batches: SVHN, MNIST, folders of images, and of images with label maps; generated ones for where
none are at hand.

    load("mnist", "data/mnist")  ->  (train, test)      load_digits and load_mnist: with messages, for training scripts
    load("folder", "pictures", size=64), load("arrays", ((images, labels), (images, labels)))     one's own
    Loader(train, 128, augment=Augmentation()).epoch(0) ->  Batch, Batch, ...
    prepare_for(path, train.kind, train.shape)          a picture, made like those of a training set

Knows nothing of tensors or layers, and of kernels only how one is compiled and kept.
"""

from .arrays import load_arrays
from .catalog import load, load_both, load_digits, load_test
from .cifar import load_cifar10
from .crops import CropAugmentation, centre_crop
from .dataset import DataError, Dataset, Digits
from .folder import load_folder
from .generated import load_generated
from .idx import load_emnist, load_fashion
from .images import luminance, prepare_image
from .ink import prepare_digit, prepare_for
from .loader import Augmentation, Batch, Flip, Loader
from .mnist import load_mnist
from .pictures import Pictures
from .scenes import load_scenes
from .segmentation import load_segmentation
from .svhn import digit_crops, load_svhn

__all__ = [
    "Augmentation",
    "Batch",
    "CropAugmentation",
    "DataError",
    "Dataset",
    "Digits",
    "Flip",
    "Loader",
    "Pictures",
    "centre_crop",
    "digit_crops",
    "load",
    "load_arrays",
    "load_both",
    "load_cifar10",
    "load_digits",
    "load_emnist",
    "load_fashion",
    "load_folder",
    "load_generated",
    "load_mnist",
    "load_scenes",
    "load_segmentation",
    "load_svhn",
    "load_test",
    "luminance",
    "prepare_digit",
    "prepare_for",
    "prepare_image",
]
