"""How kernels are compiled, and where what was compiled is kept.

numba compiles a kernel when it is first called, which takes seconds, and loads it from its cache
afterwards. numba notices that the file of a kernel has changed, but not that a kernel it calls
from another file has, nor that the package was replaced by one of the same age; and it keeps what
it compiled by path. So the cache lies in a folder that is named by the text of all kernels
together and by numba's version, whatever copy of the package they are in. Without a folder that
can be written kernels are compiled in every process, and that is all that changes.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import njit
from numba.core import caching

Function = TypeVar("Function", bound=Callable[..., Any])

_NAMES = vars(caching)  # the class lost its underscore in numba 0.62
_LOCATOR: Any = _NAMES.get("UserProvidedCacheLocator") or _NAMES["_UserProvidedCacheLocator"]

FASTMATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})
"""Freedom to reorder and fuse, but none to assume that NaN and infinity do not occur."""


@lru_cache(maxsize=1)
def cache_folder() -> Path | None:
    """Where compiled kernels are kept; None if no such folder can be written.

    In ``$NUMBA_CACHE_DIR``, else in the user's cache.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    base = Path(os.environ.get("NUMBA_CACHE_DIR") or home)
    folder = base / "dnls_ros" / f"kernels-{_fingerprint()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


def _fingerprint() -> str:
    """Of numba's version, all kernels, and the modules whose constants are compiled into them."""
    here = Path(__file__).parent
    constants = [
        here.parent / name for name in ("lie/series.py", "costs/camera.py", "costs/landmark.py")
    ]
    text = hashlib.sha256(numba.__version__.encode())
    for path in [*sorted(here.rglob("*.py")), *constants]:
        text.update(path.read_bytes())
    return text.hexdigest()[:12]


class _Place(_LOCATOR):
    """In `cache_folder`, whatever path a kernel's file has and however old it is."""

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        return "named by the folder"

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        return None if cache_folder() is None else cls(py_func, py_file)


class _Files(caching.CompileResultCacheImpl):
    _locator_classes = (_Place,)


class _Cache(caching.FunctionCache):
    _impl_class = _Files


def kernel(function: Function) -> Function:
    """Compiles a function for the CPU without Python inside, the GIL released, and keeps it.

    Indices are not checked: whoever hands arrays in has checked them.
    """
    return _compiled(function, counted=True)


def leaf(function: Function) -> Function:
    """As `kernel`, for what is called for every factor: it does not count references to arrays.

    Counting would take longer than the arithmetic. Such a function makes no array.
    """
    return _compiled(function, counted=False)


def inlined(function: Function) -> Function:
    """As `leaf`, copied into whoever calls it."""
    return _compiled(function, counted=False, copied=True)


def _compiled(function: Function, counted: bool, copied: bool = False) -> Function:
    compiled: Any = njit(
        nogil=True,
        fastmath=set(FASTMATH),
        error_model="numpy",
        boundscheck=False,
        _nrt=counted,
        forceinline=copied,
    )(function)
    if cache_folder() is not None:
        compiled._cache = _Cache(function)  # numba's own looks at paths and times of files
    return cast(Function, compiled)
