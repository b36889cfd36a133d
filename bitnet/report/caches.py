"""What this program keeps for later in the user's caches: where it lies, how large it is, and how to be rid of it.

    images     prepared images of data sets (``datasets.cache``)
    times      how long each kernel family takes for a product (``execution.dispatch``)
    kernels    compiled kernels, of these sources and of earlier ones (``kernels.machine.compile``)

All of it is made anew where it is missing. Only files of these kinds are counted and cleared, whatever else is in a folder.
"""

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

from bitnet.datasets.cache import cache_folder as images_folder
from bitnet.execution import dispatch
from bitnet.kernels.machine.compile import cache_folder as kernels_folder
from bitnet.text import columns, size_text


class Kept(NamedTuple):
    """One kind of files in one folder."""

    kind: str
    folder: Path
    files: list

    @property
    def size(self):
        """Bytes; of files that vanish meanwhile, none."""
        total = 0
        for path in self.files:
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total


def kept():
    """The three kinds, as a list of Kept."""
    images, times, kernels = Path(images_folder()), Path(dispatch.table().path).parent, Path(kernels_folder()).parent
    # a folder of compiled kernels has the name of a hash; Numba's own cache may lie beside it
    of_sources = [one for one in _listed(kernels, "*") if re.fullmatch("[0-9a-f]{16}", one.name) and not one.is_symlink()]
    return [Kept("images", images, _listed(images, "*-*.images")),
            Kept("times", times, _listed(times, "kernel-times-*.json")),
            Kept("kernels", kernels, [path for one in of_sources for path in _listed(one, "*.nbc")])]


def _listed(folder, pattern):
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def describe(found):
    """A line for each kind."""
    return columns([["what", "files", "size", "where"],
                    *([one.kind, f"{len(one.files):,}", size_text(one.size), str(one.folder)] for one in found)], left=(0, 3))


def clear(found):
    """Remove the files; returns how many bytes that were.

    Raises
    ------
    OSError : one cannot be removed; those before it are.
    """
    freed = 0
    for one in found:
        for path in one.files:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                freed += path.lstat().st_size
                path.unlink()
            if path.parent != one.folder:
                with contextlib.suppress(OSError):  # not empty yet
                    path.parent.rmdir()
    return freed
