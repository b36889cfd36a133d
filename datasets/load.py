"""One call for a training script: from what the user named to a training set, a test set and what to tell."""

from pathlib import Path

from .digits import DataError
from .download import fetch_svhn
from .generated import TEST_COUNT, TRAIN_COUNT, read_both
from .svhn import describe_folder, has_split, read_splits

DEFAULT_FOLDER = Path("data", "svhn")  # below the folder in which the script is started


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
    train : Digits
    test : Digits
    messages : list of str   # for the first lines of a script's output
    Raises
    ------
    DataError : the data named is missing or not what it should be, or the download failed.
    """
    splits = ["train", "test"] + ["extra"] * extra
    if data == "synthetic":
        if extra or download:
            option = "extra" if extra else "download"
            raise DataError(f"expected a folder of SVHN with {option}, found data 'synthetic'")
        return read_both((TRAIN_COUNT, TEST_COUNT), size, cache_dir, "data: ", "SVHN")
    folder, messages = Path(data or DEFAULT_FOLDER).expanduser(), []
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
