"""How every kernel here is compiled: once, without the GIL, and kept on disk.

Numba keeps compiled functions too, but its cache stops a program where no folder can be written, falls back to one beside the
sources, does not survive a file cut short, and notices an edit of a function's own file only, not of what it calls elsewhere.
So kernels have a store of their own, a file for each function and its types:

    root / hash of all kernel sources / module.function-line.key.nbc    sha256 of the rest, then Numba's pickle of the code

    cannot be read, or is damaged    dropped, and compiled again
    cannot be written                compiled for this run alone, and one line says so
    others may write to the folder   not read either: to load a pickle is to run it
"""

import hashlib
import inspect
import os
import pickle
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import lru_cache, wraps
from pathlib import Path

import numba
from numba.core import event
from numba.core.caching import CompileResultCacheImpl
from numba.core.serialize import dumps
from platformdirs import user_cache_dir

DIGEST = hashlib.sha256().digest_size


class NoCompilerError(RuntimeError):
    """Kernels cannot be compiled here. One sentence with the reason."""


def check_compiler():
    """NoCompilerError where Numba is told not to compile."""
    if numba.config.DISABLE_JIT:
        raise NoCompilerError("bitnet's kernels are compiled by Numba and do not run as Python: unset NUMBA_DISABLE_JIT, which "
                              f"is {os.environ.get('NUMBA_DISABLE_JIT', '1')} here")


def _source_hash():
    digest = hashlib.sha256()
    kernels = Path(__file__).parents[1]
    for path in sorted(kernels.rglob("*.py")):
        digest.update(path.relative_to(kernels).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder():
    """The folder of compiled kernels: below NUMBA_CACHE_DIR where that is set, else below the user's cache folder."""
    root = os.environ.get("NUMBA_CACHE_DIR")
    if not root:
        try:
            root = os.path.join(user_cache_dir("bitnet"), "kernels")
        except RuntimeError:  # a user without a home; older versions of platformdirs return a path from "~" on
            root = "~"
    return os.path.join(root if root.startswith("~") else os.path.abspath(root), _SOURCE_HASH)


_SOURCE_HASH = _source_hash()
_warnings = []


def _fault(folder):
    """Why compiled kernels cannot be kept in ``folder``, which is made if it can be; None where they can."""
    if folder.startswith("~"):
        return "this user has no home folder"
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)  # our own, whatever the folder above allows
        found = os.stat(folder)
        if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o022):
            return f"others may write to {folder}"
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    return None


def _warn(reason):
    if not _warnings:
        print(f"kernels are compiled for this run alone and not kept ({reason}); NUMBA_CACHE_DIR names another folder for them",
              file=sys.stderr, flush=True)
    _warnings.append(reason)


@lru_cache(maxsize=16)
def _usable(folder):
    """Can compiled kernels be kept in ``folder``? Where they cannot, a line says why, once in a process."""
    reason = _fault(folder)
    if reason:
        _warn(reason)
    return reason is None


def store_works():
    """Can compiled kernels be kept?"""
    return _usable(cache_folder())


@lru_cache(maxsize=256)
def _file_hash(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class _Serializer(CompileResultCacheImpl):
    """What Numba makes of a compiled function to keep it, without its choice of a folder."""

    def __init__(self, function):
        self._lineno, self._locator = function.__code__.co_firstlineno, self
        self._py_file = inspect.getfile(function)  # for Numba's warning about a function that cannot be kept


class Store:
    """Keeps the compiled forms of one function, or of what is made of it: what Numba's dispatcher calls a cache."""

    def __init__(self, function, form=""):
        code, self._serializer = function.__code__, _Serializer(function)
        self._identity = numba.__version__, sys.version_info[:3], _file_hash(code.co_filename), code.co_code
        self._cells = [cell.cell_contents for cell in function.__closure__ or ()]
        module = os.path.splitext(os.path.basename(code.co_filename))[0]
        self._name = f"{module}.{function.__name__.strip('<>')}{form}-{code.co_firstlineno}"
        self._enabled, self._folder = True, cache_folder()

    @property
    def cache_path(self):
        return self._folder

    def enable(self):
        self._enabled = True

    def disable(self):
        self._enabled = False

    def flush(self):
        """Forget all compiled forms on disk."""
        for path in Path(self._folder).glob(f"{self._name}.*.nbc"):
            with suppress(OSError):
                path.unlink()

    def _path(self, signature, codegen):
        cells = dumps(self._cells) if self._cells else b""
        key = repr((self._identity, str(signature), codegen.magic_tuple())).encode() + cells
        return os.path.join(self._folder, f"{self._name}.{hashlib.sha256(key).hexdigest()[:24]}.nbc")

    def freeze(self, compiled):
        """A compiled form as something to pickle."""
        return self._serializer.reduce(compiled)

    def thaw(self, context, kept):
        """What ``freeze`` gave, compiled again."""
        return self._serializer.rebuild(context, kept)

    def holds(self, signature, target_context):
        """Is there a file for these types?"""
        return os.path.isfile(self._path(signature, target_context.codegen()))

    def load_overload(self, signature, target_context):
        """The compiled form for these types, or None. Whatever is wrong with a file, it is compiled again."""
        if not (self._enabled and _usable(self._folder)):
            return None
        target_context.refresh()
        path = self._path(signature, target_context.codegen())
        if not os.path.isfile(path):  # none there, or a pipe, which would be waited for
            return None
        try:
            content = Path(path).read_bytes()
        except OSError:
            return None
        try:
            if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
                raise ValueError("the file is damaged")
            return self.thaw(target_context, pickle.loads(content[DIGEST:]))
        except Exception:
            with suppress(OSError):
                os.unlink(path)
            return None

    def save_overload(self, signature, compiled):
        """Keep a compiled form, if there is room for it."""
        if not (self._enabled and _usable(self._folder) and self._serializer.check_cachable(compiled)):
            return
        content = dumps(self.freeze(compiled))
        path = self._path(signature, compiled.codegen)
        temporary = f"{path}.{os.getpid()}.tmp"  # processes that compile the same do not write into each other's file
        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)  # it may have been cleared meanwhile
            with open(temporary, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            _warn(f"{self._folder}: {error.strerror or error}")


def kernel(function):
    """Decorate a function as a compiled kernel: ``nogil``, kept on disk, division by zero as in C.

    The function may be of any file. An edit of that file or of any in kernels/ makes it compile again, an edit of what it calls
    elsewhere does not. Where Numba is told not to compile, a call raises NoCompilerError.
    """
    if numba.config.DISABLE_JIT:
        return wraps(function)(lambda *_: check_compiler())
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    if os.path.isfile(function.__code__.co_filename):  # of what was typed or is in an archive nobody knows when it changes
        dispatcher._cache = Store(function)  # where ``cache=True`` would put Numba's own
    return dispatcher


def inlined(function):
    """Decorate a part of a kernel that is pasted into its callers.

    A call of a compiled function counts references to each array it passes; in an inner loop that costs more than the
    work.
    """
    return numba.njit(inline="always", error_model="numpy")(function)


class _Announcer(event.Listener):
    """Prints a line when the first kernel is compiled, counts those of this process and how long it spent on them."""

    def __init__(self, stream):
        self.stream, self.kernels, self.seconds, self._depth, self._start = stream, 0, 0.0, 0, 0.0

    def on_start(self, event):
        if self._depth == 0:
            self._start = time.perf_counter()
            if self.kernels == 0:
                often = "once" if _usable(cache_folder()) else "each time"
                print(f"compiling kernels for this machine, {often} ...", file=self.stream, flush=True)
        self._depth += 1

    def on_end(self, event):
        self._depth -= 1
        self.kernels += 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._start


@contextmanager
def announce(stream=None):
    """Say on ``stream`` (default: standard error) when kernels are compiled inside the block, and how long it took."""
    listener = _Announcer(stream or sys.stderr)
    with event.install_listener("numba:compile", listener):
        yield listener
    if listener.kernels:
        kept = f"kept in {cache_folder()}" if _usable(cache_folder()) else "not kept"
        print(f"compiled kernels in {listener.seconds:.1f} s, {kept}", file=listener.stream, flush=True)
