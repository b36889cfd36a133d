"""Files that are whole or not there."""

import contextlib
import os
from pathlib import Path


def write_atomically(path, content):
    """Write a file whole or not at all, and safe against a power cut once this returns.

    Parameters
    ----------
    path : str or Path
    content : bytes-like

    Raises
    ------
    OSError : with ``filename`` set to ``path``; what was there before is kept and nothing is left behind.
    """
    path = Path(path)
    # one fixed name: what a kill leaves behind is overwritten by the next attempt
    temporary = path.with_name(path.name + ".tmp")
    try:
        try:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()  # also where it is a link to somewhere else
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        if hasattr(os, "O_DIRECTORY"):  # the rename itself is in the folder
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
