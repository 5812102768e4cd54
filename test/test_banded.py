"""`Banded`: bands and borders, storage, and the CUDA source compiled for devices and for the CPU.

The laws of all solvers hold it too, with its source compiled for the CPU: see `linear_rig`.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from banded_rig import CompiledForCpu, InTorch, build, stored
from linear_rig import matrices, pattern_of, vectors, window
from torch import Tensor

from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.linear import Banded, Dense, solve
from dnls_ros.linear.band_kernels import SOURCE, options
from dnls_ros.linear.band_layout import band_layout
from dnls_ros.problem.structure import Pattern
from dnls_ros.problem.variables import Block

REFERENCE = Banded(InTorch())


def chain(count: int, dim: int, reach: int, border: tuple[int, ...] = ()) -> Pattern:
    """States coupled to the next ``reach``, and variables (of these dimensions) coupled to all."""
    blocks = [Block("state", 0, count, dim)]
    for number, width in enumerate(border):
        blocks.append(Block(f"shared{number}", blocks[-1].stop, 1, width))
    edges = [(i, k) for i in range(count) for k in range(i + 1, min(count, i + reach + 1))]
    edges += [(i, k) for k in range(count, count + len(border)) for i in range(k)]
    return pattern_of(edges, tuple(blocks))


def moving(count: int) -> Pattern:
    """Poses and velocities in two blocks, each joined to its own and the next stamp's."""
    blocks = (Block("pose", 0, count, 6), Block("velocity", 6 * count, count, 3))
    now = [(i, count + i) for i in range(count)]
    then = [(i, k + 1) for i in range(count - 1) for k in (i, count + i)]
    then += [(count + i, k + 1) for i in range(count - 1) for k in (i, count + i)]
    return pattern_of(now + then, blocks)


def loop(count: int) -> Pattern:
    """A chain whose last pose has been where the first was."""
    edges = [*((i, i + 1) for i in range(count - 1)), (0, count - 1), (1, count - 2)]
    return pattern_of(edges, (Block("pose", 0, count, 3),))


def cloud(states: int, points: int) -> Pattern:
    """Points seen by three states in a row each, in the order of nothing."""
    first = np.random.default_rng(5).permutation(points) % (states - 2)
    edges = [(i, i + 1) for i in range(states - 1)]
    edges += [(int(first[p]) + k, states + p) for p in range(points) for k in range(3)]
    blocks = (Block("pose", 0, states, 6), Block("point", 6 * states, points, 3))
    return pattern_of(edges, blocks)


BANDS = {
    "chain": (chain(20, 6, 1), (12, 0)),
    "wide chain": (chain(20, 3, 5), (24, 0)),
    "planar, with an offset and a map": (chain(30, 3, 2, (3, 2, 2, 2)), (21, 9)),
    "poses and velocities": (moving(15), (18, 0)),
    "a loop": (loop(40), (16, 0)),
}
"""Patterns, and how many unknowns are in a front and in the border at most."""


@pytest.mark.parametrize("name", BANDS)
def test_a_band_and_its_border_are_found(name: str) -> None:
    pattern, (front, border) = BANDS[name]
    layout = band_layout(pattern, 128)
    assert layout.front <= front
    assert layout.border <= border


def test_ends_of_loops_make_up_the_border() -> None:
    edges = [
        *((i, i + 1) for i in range(199)),
        (3, 150),
        (40, 120),
        (41, 190),
        (42, 77),
        (90, 160),
    ]
    layout = band_layout(pattern_of(edges, (Block("pose", 0, 200, 6),)), 128)
    assert layout.border
    assert layout.front <= 12 + 5 * 6


def test_states_and_points_that_few_of_them_see_are_one_band() -> None:
    layout = band_layout(cloud(30, 60), 128)
    assert layout.front <= 60
    assert layout.padded < 6 * 30 + 3 * 60 + layout.block


@pytest.mark.parametrize(
    "pattern", [*(p for p, _ in BANDS.values()), window(), cloud(12, 20)], ids=lambda p: str(p.n)
)
def test_the_storage_has_one_place_for_each_entry(pattern: Pattern) -> None:
    layout = band_layout(pattern, 128)
    rows, columns, at = (index.numpy() for index in stored(layout))
    places = dict(zip(zip(rows, columns, strict=True), at, strict=True))
    assert len(np.unique(at)) == len(at)
    assert at.max() < layout.size
    one, two = layout.place[pattern.rows], layout.place[pattern.columns]
    pairs = zip(np.maximum(one, two), np.minimum(one, two), strict=True)
    assert [places[pair] for pair in pairs] == layout.entry.tolist()
    padding = np.setdiff1d(np.arange(layout.padded), layout.place)
    assert [places[p, p] for p in padding] == layout.ones.tolist()
    assert len(np.unique(layout.place)) == pattern.n
    real = np.isin(rows, layout.place) & np.isin(columns, layout.place)
    assert real.sum() == layout.nnz


@pytest.mark.parametrize(
    "pattern", [*(p for p, _ in BANDS.values()), window(), cloud(12, 20)], ids=lambda p: str(p.n)
)
def test_packing_and_unpacking_give_the_dense_solution(pattern: Pattern) -> None:
    values, rhs = matrices(pattern, 3), vectors(3, pattern.n, 2)
    values[1, pattern.diagonal[pattern.n // 2]] = -1.0
    here, there = (s.analyze(pattern).factorize(values) for s in (REFERENCE, Dense()))
    assert here.ok.tolist() == [True, False, True]
    torch.testing.assert_close(
        here.solve(rhs), there.solve(rhs), rtol=0, atol=1e-13, equal_nan=True
    )
    torch.testing.assert_close(
        here.diagonal().log().sum(1), there.diagonal().log().sum(1), equal_nan=True
    )


def test_an_empty_batch_and_no_right_hand_side_need_no_launch() -> None:
    pattern = chain(4, 3, 1)
    symbolic = Banded(CompiledForCpu()).analyze(pattern)
    nothing = symbolic.factorize(matrices(pattern, 2)[:0])
    assert nothing.ok.shape == (0,)
    assert nothing.solve(vectors(0, 12)).shape == (0, 12)
    assert symbolic.factorize(matrices(pattern, 2)).solve(vectors(2, 12, 0)).shape == (2, 12, 0)


def test_a_matrix_that_is_not_banded_is_refused_with_its_bandwidth_and_border() -> None:
    full = chain(50, 3, 49)
    with pytest.raises(
        DnlsError, match=r"150 unknowns is not banded .* border of \d+.*at most 128.*Multifrontal"
    ):
        Banded().analyze(full)
    assert Banded(largest_front=170).analyze(full).layout.front <= 170
    grid = pattern_of(
        [(20 * i + k, 20 * i + k + s) for i in range(20) for k in range(19) for s in (1,)]
        + [(20 * i + k, 20 * i + k + 20) for i in range(19) for k in range(20)],
        (Block("pose", 0, 400, 6),),
    )
    with pytest.raises(DnlsError, match=r"bandwidth of 1\d\d unknowns and a border of 0"):
        Banded(largest_front=100).analyze(grid)


def test_a_pattern_with_an_index_outside_is_refused() -> None:
    good = chain(4, 3, 1)
    rows = good.rows.copy()
    rows[3] = 40
    bad = Pattern(good.n, good.indptr, rows, good.columns, good.diagonal, good.blocks)
    with pytest.raises(DnlsError, match=r"order 12 .* got rows 0 … 40"):
        Banded().analyze(bad)
    with pytest.raises(DnlsError, match="no unknowns"):
        Banded().analyze(Pattern.of(np.zeros(0, np.int64), 0, ()))


def test_matrices_on_the_cpu_are_refused_by_name() -> None:
    pattern = chain(4, 3, 1)
    with pytest.raises(UnavailableError, match=r"CUDA device, got a matrix on cpu.*Dense\(\)"):
        Banded().analyze(pattern).factorize(matrices(pattern, 1))


def random_problem(dim: int, reach: int, border: int) -> tuple[Pattern, Tensor, Tensor]:
    """Five matrices, the second indefinite, the third and fourth with a NaN and an infinity."""
    pattern = chain(9, dim, reach, (border,) if border else ())
    values = matrices(pattern, 5, seed=dim + reach)
    values[1, pattern.diagonal[-1]] = -2.0
    values[2, pattern.nnz // 2] = torch.nan
    values[3, pattern.diagonal[dim]] = torch.inf
    return pattern, values, vectors(5, pattern.n, 3)


@pytest.mark.parametrize("border", [0, 12])
@pytest.mark.parametrize("reach", [1, 2, 5])
@pytest.mark.parametrize("dim", [3, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cuda_source_on_the_cpu_gives_the_dense_solution(
    dtype: torch.dtype, dim: int, reach: int, border: int
) -> None:
    pattern, values, rhs = random_problem(dim, reach, border)
    expected = Dense().analyze(pattern).factorize(values)
    got = Banded(CompiledForCpu()).analyze(pattern).factorize(values.to(dtype))
    assert got.ok.tolist() == expected.ok.tolist() == [True, False, False, False, True]
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    for right in (rhs, rhs[..., 0]):
        torch.testing.assert_close(
            got.solve(right.to(dtype)).double(),
            expected.solve(right),
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
        )
    reference = REFERENCE.analyze(pattern).factorize(values)
    torch.testing.assert_close(
        got.diagonal().double(), reference.diagonal(), rtol=tolerance, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("border", [(), (2,)])
def test_a_last_pivot_of_zero_is_not_positive(border: tuple[int, ...]) -> None:
    pattern = chain(4, 3, 1, border)
    values = torch.zeros(2, pattern.nnz, dtype=torch.float64)
    values[:, pattern.diagonal] = 1.0
    values[1, pattern.diagonal[-1]] = 0.0
    factorization = Banded(CompiledForCpu()).analyze(pattern).factorize(values)
    assert factorization.ok.tolist() == [True, False]


@pytest.mark.parametrize(
    ("dim", "reach", "border"), [(3, 2, 12), (6, 1, 0), (6, 5, 12), (3, 1, 1)]
)
def test_the_bits_depend_neither_on_the_threads_nor_on_where_the_front_lies(
    dim: int, reach: int, border: int
) -> None:
    pattern, values, _ = random_problem(dim, reach, border)
    rhs = vectors(5, pattern.n, 35)  # two chunks

    def run(kernels: CompiledForCpu) -> tuple[Tensor, Tensor]:
        factorization = Banded(kernels).analyze(pattern).factorize(values)
        x = factorization.solve(rhs)
        return torch.cat([x.flatten(1), factorization.diagonal()], 1), factorization.ok

    first, ok = run(CompiledForCpu(1))
    assert first[ok].isfinite().all()
    for kernels in (
        *(CompiledForCpu(threads) for threads in (2, 3, 7, 32, 64)),
        CompiledForCpu(5, shared=False),
    ):
        again, still = run(kernels)
        assert torch.equal(ok, still)
        assert torch.equal(first.nan_to_num(7.0), again.nan_to_num(7.0))


@pytest.mark.parametrize("name", BANDS)
def test_the_cuda_source_solves_what_the_layouts_give(name: str) -> None:
    pattern, _ = BANDS[name]
    values, rhs = matrices(pattern, 2), vectors(2, pattern.n)
    expected = torch.linalg.solve(pattern.dense(values), rhs)
    x = Banded(CompiledForCpu(3)).analyze(pattern).factorize(values).solve(rhs)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-13)


def test_solutions_are_differentiable() -> None:
    pattern = chain(3, 2, 1, (1,))
    values = matrices(pattern, 1).requires_grad_()
    rhs = vectors(1, pattern.n).requires_grad_()
    symbolic = Banded(CompiledForCpu()).analyze(pattern)
    assert torch.autograd.gradcheck(lambda v, r: solve(symbolic, v, r), (values, rhs))


@pytest.mark.parametrize("watch", ["thread", "address,undefined"])
def test_the_threads_of_a_block_do_not_race_and_stay_inside_their_memory(
    tmp_path: Path, watch: str
) -> None:
    flags = (f"-fsanitize={watch}", "-fno-sanitize-recover=all", "-DRACES", "-g", "-O1")
    try:
        program = build(tmp_path, torch.float64, 3, *flags)
    except subprocess.CalledProcessError:
        build(tmp_path, torch.float64, 3, "-DRACES")  # it is the sanitizer that is absent
        pytest.skip(f"the C++ compiler has no sanitizer {watch}")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("dtype", "block"), [(torch.float32, 3), (torch.float64, 6), (torch.float64, 9)]
)
def test_nvcc_compiles_the_source_for_devices_and_keeps_pivots_in_registers(
    tmp_path: Path, dtype: torch.dtype, block: int
) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed: the source is not compiled for any device")
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    wanted = ["sm_70", "sm_75", "sm_80", "sm_90"]  # CUDA 13 knows the first no more
    known = [name for name in wanted if name in listed.stdout.split()]
    assert known[-1:] == ["sm_90"]
    machines = [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in known]
    command = [nvcc, "-fatbin", *machines, *options(dtype, block), "-Werror=all-warnings"]
    done = subprocess.run(
        [*command, "-Xptxas=-v", "-o", str(tmp_path / "out"), str(SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill stores", done.stderr)]
    assert len(spilled) == 2 * len(known)
    assert max(spilled) <= 4 * 8, done.stderr  # four numbers of a pivot of 45


NVRTC = """
import sys
from pathlib import Path
try:
    import cupy
    from cupy_backends.cuda.libs import nvrtc
    nvrtc.getVersion()
except Exception as error:
    print(error)
    sys.exit(77)
program = nvrtc.createProgram(Path(sys.argv[1]).read_text(), "banded.cu", (), ())
try:
    nvrtc.compileProgram(program, ("-arch=compute_80", "--device-as-default-execution-space",
                                   *sys.argv[2:]))
except Exception:
    sys.exit(nvrtc.getProgramLog(program))
text = nvrtc.getPTX(program).decode()
assert ".entry factorize" in text and ".entry solve" in text
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nvrtc_compiles_the_source_with_cupys_options(dtype: torch.dtype) -> None:
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed: its compiler has not seen the source")
    command = [sys.executable, "-c", NVRTC, str(SOURCE), *options(dtype, 6)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip(f"CuPy finds no NVRTC: {done.stdout.strip()[-200:]}")
    assert done.returncode == 0, done.stderr


def device() -> torch.device:
    if not torch.cuda.is_available() or importlib.util.find_spec("cupy") is None:
        pytest.skip("needs a CUDA device and CuPy")
    return torch.device("cuda", 0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reach", [1, 5, 18])  # the last front does not fit into 48 KB
def test_a_gpu_gives_what_the_cpu_gives_the_same_every_time(
    dtype: torch.dtype, reach: int
) -> None:
    gpu = device()
    pattern = chain(40, 6, reach, (6, 3, 3))
    values, rhs = matrices(pattern, 70), vectors(70, pattern.n, 35)
    values[3, pattern.diagonal[7]] = -1.0
    values[5, 11] = torch.nan
    symbolic = Banded(largest_front=192).analyze(pattern)
    stream = torch.cuda.Stream(gpu)
    stream.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(stream):
        there, wanted = values.to(gpu, dtype), rhs.to(gpu, dtype)
        factorization = symbolic.factorize(there)
        x, again = factorization.solve(wanted), symbolic.factorize(there).solve(wanted)
    stream.synchronize()
    expected = Dense().analyze(pattern).factorize(values)
    assert factorization.ok.tolist() == expected.ok.tolist()
    assert torch.equal(x.nan_to_num(7.0), again.nan_to_num(7.0))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(
        x.cpu().double(), expected.solve(rhs), rtol=tolerance, atol=tolerance, equal_nan=True
    )


@pytest.mark.gpu
def test_a_gpu_is_not_asked_for_anything() -> None:
    gpu = device()
    pattern = chain(20, 3, 2, (3,))
    values, rhs = matrices(pattern, 4).to(gpu), vectors(4, pattern.n).to(gpu)
    symbolic = Banded().analyze(pattern)
    expected = symbolic.factorize(values).solve(rhs)  # compiled, indices moved
    torch.cuda.set_sync_debug_mode("error")
    try:
        x = symbolic.factorize(values).solve(rhs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(x, expected)
