"""What every reader of this package asks of a path before it opens it, and of a file before it believes it."""

import os
from pathlib import Path

from .dataset import DataError

_LEFT_BY_SYSTEMS = {".DS_Store", "Thumbs.db", "desktop.ini"}
# an honest file of images holds at most a few times its own size; one that claims more than this would fill the memory
_RATIO, _SPARE = 100, 1 << 26


def resolved(path):
    """The path with its ~ replaced by the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: expected a path, found one whose home folder is unknown ({error})") from None


def regular(path, what="a file"):
    """The path of a regular file, ~ replaced; DataError for anything else: reading a pipe or a device may never end."""
    path = resolved(path)
    if not os.path.isfile(path):
        raise DataError(f"{path}: expected {what}, found {kind(path)}")
    return path


def kind(path):
    """What lies at a path that is no regular file, in words."""
    if os.path.isdir(path):
        return "a folder"
    return "something that is no regular file" if os.path.exists(path) else "nothing"


def left_by_systems(name):
    """True of files that operating systems leave in folders: they are nobody's data."""
    return name in _LEFT_BY_SYSTEMS or name.startswith("._")


def describe_folder(folder):
    """What a folder holds, in a few words, for error messages."""
    if not os.path.isdir(folder):
        return "a file" if os.path.exists(folder) else "no such folder"
    try:
        names = sorted(name for name in os.listdir(folder) if not left_by_systems(name))
    except OSError as error:
        return f"a folder that cannot be read ({error.strerror})"
    shown = [name if os.path.isfile(Path(folder, name)) else f"{name} ({kind(Path(folder, name))})" for name in names[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "an empty folder"


def find(folder, *names):
    """The first regular file of these names in a folder; some tools unpack NAME into a folder NAME: also there."""
    places = [Path(folder, name) for name in names] + [Path(folder, outer, name) for outer in names for name in names]
    return next((path for path in places if os.path.isfile(path)), None)


def believe(path, claimed):
    """DataError if a file claims that far more bytes are in it than its size allows, packed or not."""
    size = path.stat().st_size
    if claimed > _RATIO * size + _SPARE:
        raise DataError(f"{path}: expected what a file of {size:,} bytes can hold, found that it claims {claimed:,} bytes")
