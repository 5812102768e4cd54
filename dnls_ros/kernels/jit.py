"""How kernels are compiled, and where what was compiled is kept.

numba compiles a kernel when it is first called, which takes seconds, and loads it from its cache
afterwards. numba notices that the file of a kernel has changed, but not that a kernel it calls
from another file has, nor that the package was replaced by one of the same age. So the cache lies
in a folder that is named by the text of all kernels together, and by numba's version. Without a
folder that can be written kernels are compiled in every process, and that is all that changes.
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
from numba.core import config

Function = TypeVar("Function", bound=Callable[..., Any])

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
    text = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        text.update(path.read_bytes())
    return text.hexdigest()[:12]


_SETTINGS: Any = config  # its names are made at run time


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
    folder = cache_folder()
    compiled = njit(
        nogil=True,
        fastmath=set(FASTMATH),
        error_model="numpy",
        cache=False,
        boundscheck=False,
        _nrt=counted,
        forceinline=copied,
    )(function)
    if folder is not None:
        before = _SETTINGS.CACHE_DIR
        _SETTINGS.CACHE_DIR = str(folder)  # read while a kernel is declared, by nobody later
        try:
            compiled.enable_caching()
        finally:
            _SETTINGS.CACHE_DIR = before
    return cast(Function, compiled)
