"""The two kernels of `Banded` on the CPU: the CUDA source itself, and the same in plain torch."""

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dnls_ros.linear.band_kernels import CHUNK, REALS, SOURCE, chunks, options
from dnls_ros.linear.band_layout import BandLayout

HERE = Path(__file__).parent
STRICT = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-pthread")


@lru_cache(maxsize=1)
def cpp_compiler() -> str:
    """A compiler that has std::barrier, or the test is skipped."""
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            program = (
                "#include <barrier>\nint main() { std::barrier<> b(1); b.arrive_and_wait(); }"
            )
            works = subprocess.run(
                [found, "-std=c++20", "-pthread", "-x", "c++", "-", "-o", "/dev/null"],
                input=program,
                text=True,
                capture_output=True,
                check=False,
            )
            if not works.returncode:
                return found
    pytest.skip("no C++ compiler with std::barrier to run the CUDA source on the CPU")


def build(folder: Path, dtype: torch.dtype, block: int, *more: str) -> Path:
    """The CUDA source, compiled for the CPU: a shared library, or what ``more`` says."""
    made = ("-std=c++20", *options(dtype, block)[1:], *STRICT, f"-I{SOURCE.parent}", f"-I{HERE}")
    name = hashlib.sha256(repr((made, more)).encode()).hexdigest()[:16]
    command = [cpp_compiler(), *made, *more, str(HERE / "banded_on_cpu.cpp"), "-o"]
    subprocess.run([*command, str(folder / name)], check=True)
    return folder / name


@lru_cache(maxsize=1)
def folder() -> tempfile.TemporaryDirectory[str]:
    """For what is built; it goes with the process."""
    return tempfile.TemporaryDirectory()


@lru_cache(maxsize=32)
def library(dtype: torch.dtype, block: int) -> ctypes.CDLL:
    """The kernels for a type and a block size."""
    path = build(Path(folder().name), dtype, block, "-O1", "-shared", "-fPIC")
    loaded = ctypes.CDLL(str(path))
    whole, number, address = ctypes.c_uint, ctypes.c_longlong, ctypes.c_void_p
    loaded.run_factorize.restype = loaded.run_solve.restype = ctypes.c_bool
    loaded.run_factorize.argtypes = [
        *(whole, whole, ctypes.c_size_t),
        *(number, number, number, address, address, address),
    ]
    loaded.run_solve.argtypes = [*[whole] * 3, *[number] * 5, address, address, address]
    return loaded


@dataclass(frozen=True)
class CompiledForCpu:
    """`banded.cu` by a C++ compiler, with a thread of the CPU for each of a block.

    Attributes:
        threads: Of a block.
        shared: Whether the front lies in shared memory.
    """

    threads: int = 2
    shared: bool = True

    def check(self, values: Tensor) -> None:
        assert values.device.type == "cpu"
        assert values.dtype in REALS

    def factorize(self, layout: BandLayout, storage: Tensor, ok: Tensor) -> None:
        front = layout.front**2
        workspace = None if self.shared else storage.new_full((len(storage), front), torch.nan)
        kept = layout.panel + (front if self.shared else 0)
        assert library(storage.dtype, layout.block).run_factorize(
            *(len(storage), self.threads, kept * storage.element_size()),
            *(layout.count, layout.band, layout.border, storage.data_ptr(), ok.data_ptr()),
            None if workspace is None else workspace.data_ptr(),
        ), "written behind shared memory"

    def solve(self, layout: BandLayout, storage: Tensor, ok: Tensor, x: Tensor) -> None:
        assert x.is_contiguous()
        columns = x.shape[2]
        assert library(storage.dtype, layout.block).run_solve(
            *(len(storage), chunks(columns), self.threads),
            *(layout.count, layout.band, layout.border, columns, CHUNK),
            *(storage.data_ptr(), ok.data_ptr(), x.data_ptr()),
        )


@dataclass(frozen=True)
class InTorch:
    """What the kernels shall do, by dense matrices that come from the storage and go there."""

    def check(self, values: Tensor) -> None:
        assert values.dtype in REALS

    def factorize(self, layout: BandLayout, storage: Tensor, ok: Tensor) -> None:
        rows, columns, at = stored(layout)
        matrix = storage.new_zeros(len(storage), layout.padded, layout.padded)
        matrix[:, rows, columns] = storage[:, at]
        factor, info = torch.linalg.cholesky_ex(matrix)
        ok.copy_((info == 0) & factor.diagonal(dim1=1, dim2=2).isfinite().all(1))
        outside = factor.clone()
        outside[:, rows, columns] = 0.0
        assert not outside[ok].any(), "L has an entry that the storage has no place for"
        storage[:, at] = factor[:, rows, columns]

    def solve(self, layout: BandLayout, storage: Tensor, ok: Tensor, x: Tensor) -> None:
        rows, columns, at = stored(layout)
        factor = storage.new_zeros(len(storage), layout.padded, layout.padded)
        factor[:, rows, columns] = storage[:, at]
        x.copy_(torch.cholesky_solve(x, factor))
        x[~ok] = torch.nan


def stored(layout: BandLayout) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and place of all entries of L that the storage has, by its description."""
    found: list[tuple[int, int, int]] = []
    b, ring, banded = layout.block, (layout.band + 1) * layout.block, layout.count * layout.block
    for j in range(layout.count):
        for row in range(layout.front):
            whole = j * b + row if row < ring else banded + row - ring
            for c in range(b):
                if whole >= j * b + c and (row >= ring or whole < banded):
                    found.append((whole, j * b + c, (j * layout.front + row) * b + c))
    corner = layout.count * layout.front * b
    for r in range(layout.border):
        found += [(banded + r, banded + c, corner + r * layout.border + c) for c in range(r + 1)]
    rows, columns, at = torch.tensor(found).T
    return rows, columns, at
