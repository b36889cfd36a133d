"""From what the user named to a training set and a test set: load() for programs, load_digits() for scripts."""

import warnings
from pathlib import Path

from .arrays import load_arrays
from .cifar import has_cifar, load_cifar10
from .dataset import DataError
from .download import fetch_svhn
from .files import describe_folder, resolved
from .folder import load_folder
from .generated import TEST_COUNT, TRAIN_COUNT, read_both, read_generated
from .idx import load_emnist, load_fashion
from .mnist import SIZE, load_mnist, read_mnist
from .mnist import has_split as has_idx
from .segmentation import LABELS, load_segmentation
from .svhn import has_split, read_splits

DEFAULT_FOLDER = Path("data", "svhn")  # below the folder in which the script is started
_TAKES = {"mnist": ["download", "source"], "fashion": ["source"], "emnist": ["source"], "svhn": ["download", "extra", "size",
          "source"], "cifar10": ["download", "source"], "folder": ["size", "source"],
          "segmentation": ["size", "source"], "arrays": ["classes", "source"], "synthetic": ["size"]}  # fmt: skip
_NEEDED = {"folder": "a folder with train/CLASS/ and test/CLASS/", "arrays": "((images, labels), (images, labels)) or an .npz",
           "segmentation": "a folder with train/, trainannot/, test/ and testannot/",
           "fashion": "a folder with the files of Fashion-MNIST", "emnist": "a folder with the files of a split of EMNIST"}


def load(name, source=None, *, download=False, extra=False, size=None, classes=None, cache_dir=None):
    """A training set and a test set by name.

    What is worth telling (a subset, pictures left out, generated digits in the place of what was not found) is given as
    warnings.

    Parameters
    ----------
    name : "mnist", "fashion", "emnist", "svhn", "cifar10", "folder", "segmentation", "arrays" or "synthetic"
        # folder: one folder of images a class (see folder.py); segmentation: images and label maps (see segmentation.py);
        # arrays: one's own (see arrays.py)
    source : str or Path of a folder, or None   # None: data/mnist, data/svhn or data/cifar10 where they are found; in the place
                                                # of the digits generated ones; arrays: ((images, labels), (images, labels))
    download : bool              # MNIST, SVHN, CIFAR-10: first fetch what the folder lacks; nothing else touches a network
    extra : bool                 # SVHN: train on train + extra (604,388 images), memory-mapped
    size : int, (int, int) or None   # SVHN, folder, synthetic: of an image; None: 40, and what the pictures of a folder have
    classes : names of the classes, or None   # arrays
    cache_dir : str, Path or None    # None: BITNET_CACHE, else the platform's cache folder
    Returns
    -------
    train : Dataset
    test : Dataset
    Raises
    ------
    DataError : an unknown name, an option that a set does not have, data that is missing or not what it should be, or a
        failed download.
    """
    options = {"download": download, "extra": extra, "size": size is not None, "classes": classes is not None,
               "source": source is not None}
    if name not in _TAKES:
        raise DataError(f"expected the name {', '.join(_TAKES)}, found {name!r}")
    takes = _TAKES[name]
    for option in options:
        if options[option] and option not in takes and (option, size) != ("size", SIZE):
            raise DataError(f"expected {name} with {' or '.join(takes)} only, found {option}")
    if source is None and name in _NEEDED:
        raise DataError(f"expected {_NEEDED[name]}, found none named")
    if name == "folder":
        train, test, messages = load_folder(source, size, cache_dir)
    elif name == "segmentation":
        train, test, messages = load_segmentation(source, (size, size) if isinstance(size, int) else size, cache_dir=cache_dir)
    elif name == "arrays":
        train, test, messages = load_arrays(source, classes)
    elif name in ("fashion", "emnist"):
        train, test, messages = (load_fashion if name == "fashion" else load_emnist)(source, cache_dir)
    elif name == "cifar10":
        train, test, messages = load_cifar10(source, download, cache_dir)
    elif name == "mnist":
        train, test, messages = load_mnist(source, download, cache_dir)
    else:
        source = "synthetic" if name == "synthetic" else source
        train, test, messages = load_digits(source, extra, download, 40 if size is None else size, cache_dir)
    for message in messages if source is None and train.generated else messages[1:]:  # the first says what was asked for
        warnings.warn(message, stacklevel=2)
    return train, test


def load_test(data, shape, cache_dir=None, prepared=None):
    """The test set in a folder of any kind that there is a reader for, without being told which.

    Parameters
    ----------
    data : str, Path         # a folder with SVHN, with idx files, with train/CLASS/ and test/CLASS/, or with label maps
                             # (trainannot/, testannot/); or "synthetic"
    shape : (int, int, int)  # (H, W, C) that a network takes: the size of images that come in any
    cache_dir : str, Path or None
    prepared : str or None   # Dataset.kind of what the network was trained on; "crop": the middle of a picture
    Returns
    -------
    test : Dataset
    messages : list of str   # for the first lines of a script's output
    Raises
    ------
    DataError : there is nothing of the kind, or it cannot be read.
    """
    if data == "synthetic":
        test, messages = read_generated("test", TEST_COUNT, shape[0], 0, cache_dir, plain=shape[2] == 1)
        return test, [f"data: {len(test):,} generated digits. They are drawn by a program: accuracies on them say nothing "
                      "about photographs or handwriting", *messages]
    folder = resolved(data)
    kind = _kind(folder)
    if kind == "svhn":
        test, messages = read_splits(folder, ["test"], shape[0], cache_dir)
    elif kind == "mnist":
        test, messages = read_mnist(folder, "test", cache_dir)
    elif kind == "folder" and prepared == "crop" and shape[0] == shape[1]:
        _, test, (_, *messages) = load_folder(folder, shape[0], cache_dir, on_demand=True)
    else:  # no reader of one of the two sets
        _, test, (_, *messages) = load_both(folder, shape, cache_dir)
    return test, [f"data: {test.name}, {len(test):,} images; from {folder}", *messages]


def load_both(data, shape, cache_dir=None):
    """``load_test`` with the training set before it: (train, test, messages)."""
    kind = "synthetic" if data == "synthetic" else _kind(resolved(data))
    if kind == "mnist" or (kind == "synthetic" and shape[2] == 1):
        return load_mnist(data, cache_dir=cache_dir)
    if kind == "cifar":
        return load_cifar10(resolved(data), cache_dir=cache_dir)
    if kind == "emnist":
        return load_emnist(resolved(data), cache_dir)
    if kind == "segmentation":
        return load_segmentation(resolved(data), shape[:2], cache_dir=cache_dir)
    if kind == "folder":
        return load_folder(data, shape[:2], cache_dir)
    return load_digits(data, size=shape[0], cache_dir=cache_dir)


def _kind(folder):
    """Which reader a folder is for, by its test set; DataError where there is none."""
    if has_split(folder, "test"):
        return "svhn"
    if has_idx(folder, "test"):
        return "mnist"
    if has_cifar(folder):
        return "cifar"
    if any(folder.glob("emnist-*-mapping.txt")):
        return "emnist"
    if (folder / f"train{LABELS}").is_dir():
        return "segmentation"
    if (folder / "train").is_dir():
        return "folder"
    raise DataError(f"{folder}: expected test_32x32.mat or test/digitStruct.mat (SVHN), t10k-images-idx3-ubyte (MNIST), "
                    f"CIFAR-10's or EMNIST's files, or train/CLASS/ and test/CLASS/ with images, found "
                    f"{describe_folder(folder)}")


def load_digits(data=None, extra=False, download=False, size=40, cache_dir=None, base_url=None):
    """A training set and a test set.

    Parameters
    ----------
    data : None, "synthetic", or a folder   # None: SVHN in data/svhn where it is found, else the generated digits
    extra : bool                            # train on train + extra (604,388 images), memory-mapped
    download : bool                         # first fetch what the folder lacks; nothing else touches a network
    size : int                              # side of the images
    cache_dir : str, Path or None           # None: BITNET_CACHE, else the platform's cache folder
    base_url : str or None                  # None: BITNET_SVHN_URL, else SVHN's own address
    Returns
    -------
    train : Dataset
    test : Dataset
    messages : list of str   # for the first lines of a script's output
    Raises
    ------
    DataError : the data named is missing or not what it should be, or the download failed.
    """
    if not isinstance(extra, bool) or not isinstance(download, bool):
        raise DataError(f"load_digits reads both sets, and its second and third argument, extra and download, are True or "
                        f"False, found {extra!r} and {download!r}")
    splits = ["train", "test"] + ["extra"] * extra
    if data == "synthetic":
        if extra or download:
            option = "extra" if extra else "download"
            raise DataError(f"expected a folder of SVHN with {option}, found data 'synthetic'")
        return read_both((TRAIN_COUNT, TEST_COUNT), size, cache_dir, "data: ", "SVHN")
    folder, messages = resolved(data or DEFAULT_FOLDER), []
    if download:
        messages += [fetch_svhn(folder, split, base_url) for split in splits if not has_split(folder, split)]
    missing = [split for split in splits if not has_split(folder, split)]
    if data is None and len(missing) == len(splits) and not extra:
        start = f"data: no SVHN in {folder}, --download fetches it; using "
        return read_both((TRAIN_COUNT, TEST_COUNT), size, cache_dir, start, "SVHN")
    if missing:
        expected = " and ".join(f"{split}_32x32.mat" for split in missing)
        other = " and ".join(f"{split}/digitStruct.mat" for split in missing)
        raise DataError(
            f"{folder}: expected {expected} (SVHN format 2) or {other} with photographs (format 1), "
            f"found {describe_folder(folder)}; --download fetches what is missing"
        )
    train, train_messages = read_splits(folder, ["train"] + ["extra"] * extra, size, cache_dir)
    test, test_messages = read_splits(folder, ["test"], size, cache_dir)
    first = f"data: {train.name}, {len(train):,} images; {test.name}, {len(test):,} images; from {folder}"
    return train, test, [first, *messages, *train_messages, *test_messages]
