"""Fetch published files: pooch keeps the book (checksum, nothing half-done under the final name), we transfer.

A transfer goes to NAME.part beside the target and resumes there with an HTTP Range request, in this run or a later one.
Nothing that exists is ever replaced. A server is trusted with nothing: it may send as many bytes as the file is known to
have, in whatever form it packs them, and must not fall below a least speed.
"""

import contextlib
import logging
import os
import re
import stat
import time
from pathlib import Path

import pooch
import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from .dataset import DataError
from .files import kind, resolved
from .svhn import OFFICIAL, format2_file

BASE_URL = "http://ufldl.stanford.edu/housenumbers/"
_WAITS = (1, 2, 4, 8)  # seconds before each new try
_TIMEOUT = 30  # seconds without a byte
_STALLED = 60  # seconds for each block
_BLOCK = 1 << 14  # bytes read at most at a time


class _Incomplete(Exception):
    """A transfer that broke off."""


_BROKEN_OFF = (_Incomplete, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def base_url(url=None):
    """The argument, else the environment's BITNET_SVHN_URL (a mirror), else SVHN's own address; ends with a slash."""
    return (url or os.environ.get("BITNET_SVHN_URL") or BASE_URL).rstrip("/") + "/"


def fetch_svhn(folder, split, url=None):
    """Fetch one split's .mat file into a folder, checked against its official md5.

    Parameters
    ----------
    folder : str or Path               # made where it does not exist
    split : "train", "test" or "extra"
    url : str or None                  # the folder's address on the server, see base_url
    Returns
    -------
    message : str                      # what was fetched
    Raises
    ------
    DataError : the server does not have it or cannot be reached, its content is wrong (then it is removed), or the
        folder cannot be written.
    """
    path, (md5, _, size) = format2_file(resolved(folder), split), OFFICIAL[split]
    return fetch(base_url(url) + path.name, path, md5, size, "BITNET_SVHN_URL")


def fetch(address, path, md5, size, variable):
    """Fetch an address into the file ``path`` unless it exists, checked against its md5.

    Parameters
    ----------
    address : str
    path : Path
    md5 : str
    size : int          # bytes
    variable : str      # of the environment, in which a mirror can be named; for messages
    Returns
    -------
    message : str       # what was fetched
    Raises
    ------
    DataError : as in fetch_svhn.
    """
    if path.exists():
        return f"{path.name}: exists, not fetched"
    part = path.with_name(f"{path.name}.part")
    # what is left of an earlier run may be of another file: if it leads to a wrong md5, once more from the start
    for resumed in [True, False] if part.exists() else [False]:
        try:
            with _quiet():
                pooch.retrieve(
                    address, f"md5:{md5}", fname=path.name, path=path.parent,
                    downloader=lambda source, target, _: _transfer(source, Path(target), part, size),
                )  # fmt: skip
            return f"{path.name}: fetched from {address}, {path.stat().st_size:,} bytes, md5 as expected"
        except DataError:
            raise
        except ValueError as error:  # pooch: the checksum differs; the file is gone already
            if not resumed:
                found = re.search(r"got (\w+)", str(error))
                raise DataError(
                    f"{address}: expected content with md5 {md5}, found {found[1] if found else 'another'}; what was "
                    f"fetched is removed; try again later, or name a mirror in {variable}"
                ) from None
        except OSError as error:
            raise DataError(f"{path.parent}: expected a folder to write {path.name} into, found {error}") from None


@contextlib.contextmanager
def _quiet():
    """Without pooch's log lines: our message says the same."""
    log = pooch.get_logger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _transfer(address, target, part, size):
    """Bring an address into `part`, resuming as often as needed, and move it to `target` when it is whole."""
    for wait in (*_WAITS, None):
        try:
            _resume(address, part, size)
            os.replace(part, target)
            return
        except _BROKEN_OFF as error:
            if wait is None:
                kept = part.stat().st_size if part.exists() else 0
                raise DataError(
                    f"{address}: expected a server that answers, found after {len(_WAITS) + 1} tries: {error}; "
                    f"{kept:,} bytes are kept in {part.name} and the next try goes on from there"
                ) from None
            time.sleep(wait)
        except requests.RequestException as error:  # no address, endless redirects, ...
            raise DataError(f"{address}: expected an address to fetch from, found {error}") from None


def _resume(address, part, size):
    """One request: the rest of the file, or all of it where the server knows no ranges."""
    if os.path.lexists(part) and not stat.S_ISREG(part.lstat().st_mode):  # a link might lead anywhere, a pipe wait for ever
        found = "a link" if part.is_symlink() else kind(part)
        raise DataError(f"{part}: expected a file of an earlier try or nothing, found {found}")
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # ranges count the bytes of the file, not of a compressed form
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(address, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416:  # nothing after `have`: complete, or not a part of this file
            if response.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
                return
            part.unlink()
            raise _Incomplete("the server refused to resume")
        if response.status_code >= 500:
            raise _Incomplete(f"HTTP {response.status_code} {response.reason}")
        if response.status_code not in (200, 206):
            raise DataError(f"{address}: expected a file, found HTTP {response.status_code} {response.reason}")
        if response.status_code == 200:
            have = 0  # from the start
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise _Incomplete("the server sent another range than asked for")
        bar = tqdm(total=size, initial=have, desc=part.stem, unit="B", unit_scale=True, disable=None)
        with open(part, "ab" if have else "wb", opener=_opener) as file, bar:
            for piece in _pieces(response.raw):
                file.write(piece)
                bar.update(len(piece))
                have += len(piece)
                if have > size:
                    break
    if have < size:
        raise _Incomplete(f"the connection ended after {have:,} of {size:,} bytes")
    if have > size:
        part.unlink()
        raise DataError(f"{address}: expected {size:,} bytes, found more; what was fetched is removed")


def _opener(path, flags):
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _pieces(raw):
    """What a server sends, as it comes and is never unpacked; broken off where a block takes too long."""
    start, got = time.monotonic(), 0
    try:
        while piece := getattr(raw, "read1", raw.read)(_BLOCK, decode_content=False):  # urllib3 before 2.2 has no read1
            yield piece
            got += len(piece)
            if got >= _BLOCK:
                start, got = time.monotonic(), 0
            elif time.monotonic() - start > _STALLED:
                raise _Incomplete(f"{got:,} bytes in {_STALLED} seconds")
    except HTTPError as error:  # of urllib3: the connection broke
        raise _Incomplete(error) from None
