"""Fronts, levels and index maps of the multifrontal solver; its laws are in `test_linear`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from linear_rig import matrices, pattern_of, vectors
from scipy.sparse import coo_matrix
from sync_rig import DeviceAskedError, Watched
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dnls_ros.linear import Cholmod, Dense, Multifrontal, solve
from dnls_ros.linear.dense import DenseSymbolic
from dnls_ros.linear.dissection import Tree, dissect
from dnls_ros.linear.multifrontal import MultifrontalSymbolic, _working
from dnls_ros.problem.structure import Pattern
from dnls_ros.problem.sums import Layout, Several, Sources
from dnls_ros.problem.variables import Block

F64 = torch.float64
Edges = list[tuple[int, int]]


def chain(count: int) -> Edges:
    return [(k, k + 1) for k in range(count - 1)]


def cube(side: int, share: float = 0.2, seed: int = 0) -> Edges:
    """A walk through a cubic grid; of the other neighbours a share is joined."""
    rng = np.random.default_rng(seed)
    cells = [
        (x, y if x % 2 == 0 else side - 1 - y, z if (side * x + y) % 2 == 0 else side - 1 - z)
        for x in range(side)
        for y in range(side)
        for z in range(side)
    ]
    place = np.array(cells)
    apart = np.abs(place[:, None] - place[None]).sum(2)
    near = [(int(i), int(j)) for i, j in zip(*np.nonzero(apart == 1), strict=True) if j > i + 1]
    return chain(len(cells)) + [edge for edge in near if rng.random() < share]


def star(count: int) -> Edges:
    """Leaves that touch the two last variables and nothing else."""
    return [(k, count - 1 - k % 2) for k in range(count - 2)] + [(count - 2, count - 1)]


def complete(count: int) -> Edges:
    return [(j, k) for k in range(count) for j in range(k)]


GRAPHS = {
    "a chain": (60, chain(60)),
    "a ring": (60, [*chain(60), (0, 59)]),
    "a cube": (125, cube(5)),
    "a star": (80, star(80)),
    "all joined": (30, complete(30)),
    "several components": (60, [(k, k + 1) for k in range(59) if k % 7]),
    "no edges": (20, []),
    "a random graph": (
        90,
        [tuple(map(int, e)) for e in np.random.default_rng(1).integers(0, 90, (200, 2))],
    ),
    "two variables": (2, [(0, 1)]),
    "one variable": (1, []),
}


def graph_of(count: int, edges: Edges) -> coo_matrix:
    i, j = np.array(edges, np.int64).reshape(-1, 2).T
    loops = i == j
    i, j = i[~loops], j[~loops]
    ones = np.ones(2 * len(i), np.int8)
    graph = coo_matrix((ones, (np.r_[i, j], np.r_[j, i])), (count, count)).tocsr()
    graph.data[:] = 1
    return graph


def part_of(tree: Tree, count: int) -> np.ndarray:
    part = np.full(count, -1)
    for index, members in enumerate(tree.members):
        assert (part[members] == -1).all(), "a variable lies in two parts"
        part[members] = index
    return part


@pytest.fixture(params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> tuple[int, Edges]:
    return GRAPHS[request.param]


@pytest.mark.parametrize("leaf", [1, 6, 30])
def test_an_edge_joins_a_part_with_its_ancestors_only(graph: tuple[int, Edges], leaf: int) -> None:
    """So siblings can be eliminated at once, and updates reach all whom they concern."""
    count, edges = graph
    tree = dissect(graph_of(count, edges), np.full(count, 3), leaf)
    part = part_of(tree, count)
    assert (part >= 0).all()
    ancestors = [set[int]() for _ in tree.parents]
    for index in reversed(range(len(tree.parents))):
        parent = tree.parents[index]
        assert parent == -1 or parent > index
        ancestors[index] = {index} | (ancestors[parent] if parent >= 0 else set())
    for i, j in edges:
        low, high = sorted((part[i], part[j]))
        assert high in ancestors[low]


def patterned(count: int, edges: Edges, dims: int = 3) -> Pattern:
    return pattern_of(edges, (Block("pose", 0, count, dims),))


@pytest.mark.parametrize("settings", [(1, 0), (12, 0), (12, 60), (48, 96)])
def test_every_graph_is_solved_as_if_dense(
    graph: tuple[int, Edges], settings: tuple[int, int]
) -> None:
    pattern = patterned(*graph)
    values, rhs = matrices(pattern, 2), vectors(2, pattern.n, 3)
    solver = Multifrontal(0, *settings)
    factorization = solver.analyze(pattern).factorize(values)
    assert factorization.ok.all()
    expected = torch.linalg.solve(pattern.dense(values), rhs)
    torch.testing.assert_close(factorization.solve(rhs), expected, rtol=0, atol=1e-13)
    determinant = 2 * factorization.diagonal().log().sum(1)
    torch.testing.assert_close(determinant, torch.logdet(pattern.dense(values)))


@pytest.mark.parametrize("index", range(4))
def test_random_blocks_of_any_size_are_solved_as_if_dense(index: int) -> None:
    rng = np.random.default_rng(index)
    blocks, offset = [], 0
    for k in range(3):
        blocks.append(
            Block(f"block {k}", offset, int(rng.integers(1, 25)), int(rng.integers(1, 7)))
        )
        offset = blocks[-1].stop
    count = sum(b.count for b in blocks)
    edges = [tuple(map(int, e)) for e in rng.integers(0, count, (2 * count, 2))]
    pattern = pattern_of(edges, tuple(blocks))
    keep = rng.random(pattern.nnz) < 0.7  # holes in the blocks
    keep[pattern.diagonal] = True
    pattern = Pattern.of(
        (pattern.columns * pattern.n + pattern.rows)[keep], pattern.n, pattern.blocks
    )
    values, rhs = matrices(pattern, 2, seed=index), vectors(2, pattern.n)
    x = Multifrontal(0, int(rng.integers(1, 20)), 0).analyze(pattern).factorize(values).solve(rhs)
    expected = torch.linalg.solve(pattern.dense(values), rhs)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-13)


def analyzed(count: int, edges: Edges, dims: int = 6) -> MultifrontalSymbolic:
    symbolic = Multifrontal().analyze(patterned(count, edges, dims))
    assert isinstance(symbolic, MultifrontalSymbolic)
    return symbolic


def test_trees_are_low() -> None:
    """A window of 60 poses has no more than 4 levels, a cube of a thousand poses 11."""
    assert analyzed(60, chain(60)).levels <= 4
    ring = analyzed(60, [*chain(60), (0, 59), (5, 40)])
    assert ring.levels <= 4
    large = analyzed(1000, cube(10))
    assert large.levels <= 11
    assert len(large.schedule.buckets) <= 3 * large.levels


def test_dissection_fills_little_more_than_least_fill_does() -> None:
    """Against an approximate minimum degree order, whose tree is high."""
    pytest.importorskip("sksparse")
    pattern = patterned(1000, cube(10), 6)
    values = matrices_of(pattern)
    ours = Multifrontal().analyze(pattern).factorize(values).nnz
    theirs = Cholmod("amd").analyze(pattern).factorize(values).nnz
    assert ours < 2 * theirs


def matrices_of(pattern: Pattern) -> Tensor:
    """Positive definite without a dense matrix."""
    values = 0.01 * vectors(1, pattern.nnz)
    values[:, pattern.diagonal] += 5.0
    return values


def test_padding_is_bounded() -> None:
    large = analyzed(1000, cube(10))
    assert large.flops <= large.padded_flops <= 4 * large.flops


def test_a_small_matrix_is_factorized_dense() -> None:
    assert isinstance(Multifrontal().analyze(patterned(60, chain(60))), DenseSymbolic)
    assert isinstance(Multifrontal().analyze(patterned(64, chain(64))), MultifrontalSymbolic)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_solution_has_the_type_of_the_matrix(dtype: torch.dtype) -> None:
    pattern = patterned(125, cube(5))
    values, rhs = matrices(pattern, 2, dtype=dtype), vectors(2, pattern.n).to(dtype)
    factorization = Multifrontal().analyze(pattern).factorize(values)
    x = factorization.solve(rhs)
    assert (x.dtype, factorization.diagonal().dtype, factorization.dtype) == (dtype,) * 3
    expected = Dense().analyze(pattern).factorize(values).solve(rhs)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(x, expected, rtol=0, atol=tolerance)


def test_sums_are_made_by_gathering_in_a_fixed_order() -> None:
    """Entries of none, one, two, three and five terms, and a place that is used twice."""
    layout = Layout(zero=0, size=12)
    entries = np.array([1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4])
    places = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1])
    parts = [(entries[::2], places[::2]), (entries[1::2], places[1::2])]
    sources = layout.sources(parts, np.zeros(5, np.int64))
    assert sorted(several.count for several in sources.several) == [1, 1, 1]
    buffer = vectors(2, layout.size)
    buffer[:, 0] = 0.0
    expected = torch.zeros(2, 5, dtype=torch.float64)
    for entry, place in zip(entries, places, strict=True):
        expected[:, entry] += buffer[:, place]
    torch.testing.assert_close(sources.gather(buffer), expected)
    assert isinstance(sources, Sources)
    assert all(isinstance(several, Several) for several in sources.several)


def test_factorizing_solving_and_their_derivative_ask_the_device_nothing() -> None:
    pattern = patterned(125, cube(5))
    symbolic = Multifrontal().analyze(pattern)
    assert isinstance(symbolic, MultifrontalSymbolic)
    values, rhs = matrices(pattern, 2).requires_grad_(), vectors(2, pattern.n).requires_grad_()
    solve(symbolic, values, rhs)  # index maps are moved once
    with Watched() as watched:
        x = solve(symbolic, values, rhs)
        gradients = torch.autograd.grad(x.square().sum(), (values, rhs))
        symbolic.factorize(values).diagonal()
    assert watched.operations > 50
    assert all(g.isfinite().all() for g in gradients)


BAD = {
    "reads a number": lambda A: A * 2 if float(A.sum()) > 0 else A,
    "branches": lambda A: A * 2 if (A > 0).any() else A,
    "selects by a mask": lambda A: A[A > 0].sum(),
    "writes by a mask": lambda A: A.clone().index_put_((A > 0,), torch.zeros((), dtype=A.dtype)),
    "checks a factorization": lambda A: torch.linalg.cholesky(A @ A.mT + 9 * torch.eye(3)),
    "asks where": lambda A: torch.nonzero(A),
    "repeats by numbers": lambda A: A.repeat_interleave(torch.tensor([1, 2, 1]), 0),
    "compares": lambda A: A if torch.equal(A, A.mT) else A.mT,
}


@pytest.mark.parametrize("name", BAD)
def test_the_watch_sees_every_way_to_ask(name: str) -> None:
    matrix = vectors(3, 3).float()
    with pytest.raises(DeviceAskedError), Watched():
        BAD[name](matrix)


def test_the_watch_lets_masked_arithmetic_pass() -> None:
    matrix = vectors(3, 3)
    with Watched():
        factor, info = torch.linalg.cholesky_ex(matrix @ matrix.mT)
        torch.where(info == 0, factor, torch.nan)


@pytest.fixture
def products() -> Iterator[Any]:
    """Torch's settings for products on CUDA devices, put back afterwards."""
    settings: Any = torch.backends.cuda.matmul
    before = settings.fp32_precision
    yield settings
    settings.fp32_precision = before


def test_float32_is_factorized_in_float64_where_tf32_could_enter(products: Any) -> None:
    with FakeTensorMode():
        there = {d: torch.empty(1, 1, device="cuda", dtype=d) for d in (torch.float32, F64)}
    here = torch.empty(1, 1)
    for setting, expected in (("none", torch.float32), ("ieee", torch.float32), ("tf32", F64)):
        products.fp32_precision = setting
        assert _working(there[torch.float32]) == expected
        assert _working(there[F64]) == F64
        assert _working(here) == torch.float32


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """A CUDA device on which asking is an error."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    yield torch.device("cuda", 0)
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gpu_gives_what_the_cpu_gives_the_same_every_time_and_is_not_asked(
    gpu: torch.device, dtype: torch.dtype
) -> None:
    pattern = patterned(343, cube(7), 6)
    symbolic = Multifrontal().analyze(pattern)
    values, rhs = matrices(pattern, 3), vectors(3, pattern.n, 2)
    values[1, pattern.diagonal[5]] = -1.0
    there, wanted = values.to(gpu, dtype), rhs.to(gpu, dtype)
    symbolic.factorize(there).solve(wanted)  # index maps are moved, libraries set up
    torch.cuda.set_sync_debug_mode("error")
    factorization = symbolic.factorize(there)
    x, again = factorization.solve(wanted), symbolic.factorize(there).solve(wanted)
    diagonal = factorization.diagonal()
    torch.cuda.set_sync_debug_mode("default")
    assert factorization.ok.tolist() == [True, False, True]
    assert torch.equal(x.nan_to_num(7.0), again.nan_to_num(7.0))
    here = symbolic.factorize(values)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    for got, expected in ((x, here.solve(rhs)), (diagonal, here.diagonal())):
        torch.testing.assert_close(
            got.cpu().double(), expected, rtol=tolerance, atol=tolerance, equal_nan=True
        )


@pytest.mark.gpu
def test_tf32_stays_out_of_float32(gpu: torch.device, products: Any) -> None:
    pattern = patterned(343, cube(7), 6)
    symbolic = Multifrontal().analyze(pattern)
    values, rhs = matrices(pattern, 2).float(), vectors(2, pattern.n).float()
    expected = symbolic.factorize(values.double()).solve(rhs.double())
    products.fp32_precision = "tf32"
    x = symbolic.factorize(values.to(gpu)).solve(rhs.to(gpu))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.cpu().double(), expected, rtol=1e-6, atol=1e-7)
