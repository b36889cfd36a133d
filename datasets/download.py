"""Fetch published files: pooch keeps the book (checksum, nothing half-done under the final name), we transfer.

A transfer goes to NAME.part beside the target and resumes there with an HTTP Range request, in this run or a later one.
Nothing that exists is ever replaced.
"""

import contextlib
import logging
import os
import re
import time
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

from .digits import DataError
from .svhn import OFFICIAL, format2_file

BASE_URL = "http://ufldl.stanford.edu/housenumbers/"
_WAITS = (1, 2, 4, 8)  # seconds before each new try
_TIMEOUT = 30  # seconds without a byte
_BLOCK = 1 << 14  # bytes; what is lost at most when a connection breaks


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
    path = format2_file(folder, split)
    return fetch(base_url(url) + path.name, path, OFFICIAL[split][0], "BITNET_SVHN_URL")


def fetch(address, path, md5, variable):
    """Fetch an address into the file ``path`` unless it exists, checked against its md5.

    Parameters
    ----------
    address : str
    path : Path
    md5 : str
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
                    downloader=lambda source, target, _: _transfer(source, Path(target), part),
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


def _transfer(address, target, part):
    """Bring an address into `part`, resuming as often as needed, and move it to `target` when it is whole."""
    for wait in (*_WAITS, None):
        try:
            _resume(address, part)
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


def _resume(address, part):
    """One request: the rest of the file, or all of it where the server knows no ranges."""
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
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = tqdm(total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, disable=None)
        with open(part, "ab" if have else "wb") as file, bar:
            for block in response.iter_content(_BLOCK):
                file.write(block)
                bar.update(len(block))
                have += len(block)
    if total is not None and have < total:
        raise _Incomplete(f"the connection ended after {have:,} of {total:,} bytes")
