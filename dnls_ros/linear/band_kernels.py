"""Runs `banded.cu`: what a launch must do, and the one that does it by CuPy.

CuPy compiles the source by NVRTC for the device at hand, block size and type, and keeps what came
out in its own folder. Torch's tensors are handed over by address, on torch's current stream:
nothing is copied, and the host does not wait. Needs CuPy 14, by ``pip install dnls_ros[cuda12]``
or ``[cuda13]``. Where there is no device, tests compile the source for one and run it by a CPU's
threads.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.linear.band_layout import BandLayout

SOURCE = Path(__file__).with_name("banded.cu")
REALS = {torch.float32: "float", torch.float64: "double"}
WARP, MOST_THREADS = 32, 256
CHUNK = 32
"""Right-hand sides that a thread block takes."""


class BandKernels(Protocol):
    """The two kernels, on tensors; implementations are hashable values."""

    def check(self, values: Tensor) -> None:
        """Raises a `DnlsError` if they cannot work on this type and device."""
        ...

    def factorize(self, layout: BandLayout, storage: Tensor, ok: Tensor) -> None:
        """L of matrices (B, size) in place; ok (B,) bool: all pivots positive and finite."""
        ...

    def solve(self, layout: BandLayout, storage: Tensor, ok: Tensor, x: Tensor) -> None:
        """Solves for x (B, padded, k) in place by L; NaN where not ok."""
        ...


def options(dtype: torch.dtype, block: int) -> tuple[str, ...]:
    """What the source is compiled with, besides the device."""
    return ("-std=c++17", f"-DREAL={REALS[dtype]}", f"-DBLOCK={block}")


def threads_for(work: int) -> int:
    """Threads of a block that has so many independent numbers to compute: whole warps."""
    return WARP * max(1, min(MOST_THREADS // WARP, -(-work // (4 * WARP))))


def chunks(columns: int) -> int:
    """Thread blocks that share the right-hand sides of a matrix."""
    return -(-columns // CHUNK)


@dataclass(frozen=True)
class CupyKernels:
    """Compiled and launched by CuPy on a CUDA device; not yet run on one."""

    def check(self, values: Tensor) -> None:
        """Raises unless values are float32 or float64 on a CUDA device, and CuPy is there.

        Raises:
            UnavailableError: They lie elsewhere, or CuPy is not installed.
            DnlsError: They are of another type.
        """
        if values.device.type != "cuda":
            raise UnavailableError(
                f"Banded works on a CUDA device, got a matrix on {values.device}; move the "
                "problem there, or use BlockCholesky(), Cholmod() or Dense()"
            )
        if values.dtype not in REALS:
            raise DnlsError(f"Banded solves in float64 or float32, got {values.dtype}")
        if importlib.util.find_spec("cupy") is None:
            raise UnavailableError(
                "Banded needs CuPy, which is not installed: `pip install dnls_ros[cuda12]` or "
                "`dnls_ros[cuda13]`, by the CUDA version of the driver; or use Multifrontal()"
            )

    def factorize(self, layout: BandLayout, storage: Tensor, ok: Tensor) -> None:
        """One thread block per matrix, the front in shared memory where it fits."""
        program = _program(_index(storage.device), storage.dtype, layout.block)
        front = layout.front**2
        shared = (layout.panel + front) * storage.element_size()
        workspace = None
        if shared > program.shared_bytes:
            shared = layout.panel * storage.element_size()
            workspace = storage.new_empty(len(storage), front)
        rest = layout.front - layout.block
        program.launch(
            program.factorize,
            (len(storage),),
            threads_for(rest * (rest + 1) // 2),
            (
                *(layout.count, layout.band, layout.border),
                *(storage.data_ptr(), ok.data_ptr()),
                0 if workspace is None else workspace.data_ptr(),
            ),
            shared,
        )

    def solve(self, layout: BandLayout, storage: Tensor, ok: Tensor, x: Tensor) -> None:
        """One thread block per matrix and `CHUNK` right-hand sides."""
        program = _program(_index(storage.device), storage.dtype, layout.block)
        columns = x.shape[2]
        program.launch(
            program.solve,
            (len(storage), chunks(columns)),
            threads_for((layout.front - layout.block) * min(columns, CHUNK)),
            (
                *(layout.count, layout.band, layout.border, columns, CHUNK),
                *(storage.data_ptr(), ok.data_ptr(), x.data_ptr()),
            ),
            0,
        )


CUPY = CupyKernels()


@dataclass(frozen=True)
class _Program:
    """The source, compiled for a device, a type and a block size.

    Attributes:
        device: Its number.
        factorize, solve: CuPy's kernels.
        shared_bytes: What a thread block may have.
    """

    device: int
    factorize: Any
    solve: Any
    shared_bytes: int

    def launch(
        self, kernel: Any, grid: tuple[int, ...], threads: int, given: tuple[int, ...], shared: int
    ) -> None:
        """On torch's current stream; CuPy passes int as 64 bits, which addresses are, too."""
        cupy = _cupy()
        stream = cupy.cuda.Stream.from_external(_Stream(self.device))
        with cupy.cuda.Device(self.device), stream:
            kernel(grid, (threads,), given, shared_mem=shared)


class _Stream:
    """Torch's current stream, by the protocol for streams; torch 2.6 has none itself."""

    def __init__(self, device: int) -> None:
        self._handle = torch.cuda.current_stream(device).cuda_stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._handle


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _cupy() -> Any:
    try:
        import cupy  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError) as error:
        raise UnavailableError(
            f"CuPy cannot be imported: {error}; if it is about a folder, set CUPY_CACHE_DIR to "
            "one that can be written"
        ) from error
    return cupy


@lru_cache(maxsize=64)
def _program(device: int, dtype: torch.dtype, block: int) -> _Program:
    cupy = _cupy()
    with cupy.cuda.Device(device) as place:
        module = cupy.RawModule(code=SOURCE.read_text(), options=options(dtype, block))
        factorize, solve = module.get_function("factorize"), module.get_function("solve")
        most = int(place.attributes["MaxSharedMemoryPerBlockOptin"])
        factorize.max_dynamic_shared_size_bytes = most
    return _Program(device, factorize, solve, most)
