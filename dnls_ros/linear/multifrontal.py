"""Batched supernodal multifrontal Cholesky in torch: the solver of batches on a GPU.

Once per pattern, on the host: nested dissection (`dissection`), fronts in buckets (`fronts`), and
where each of their numbers comes from (`schedule`). Once per factorization: per bucket a few
gathers, one batched Cholesky, one triangular solve and one product, with L Lᵀ of the pivots,
X = L⁻¹C of what couples them to the boundary, and the update U − XᵀX that the parent gathers. Once
per solve: the same up the tree for L⁻¹b and down for L⁻ᵀ.

All is one batch from beginning to end, the same every time, and the host never waits for a number:
whether a matrix is positive definite stays a tensor. It runs on any device, in float32 and
float64. TF32 stays out: where torch may use it in products of float32 on a CUDA device, float32
matrices are factorized in float64. Below ``dense_below`` unknowns the whole is one dense front.
NVIDIA's cuDSS would be another `LinearSolver` with a uniform batch; it is not here, because nobody
has verified it on a device yet.

Duff, Reid, ACM TOMS 9 (1983); Liu: The multifrontal method for sparse matrix solution, SIAM
Review 34 (1992).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dnls_ros.linear.dense import Dense
from dnls_ros.linear.fronts import Fronts, flops
from dnls_ros.linear.schedule import Bucket, Schedule
from dnls_ros.linear.solver import Symbolic, as_columns, check_rhs, check_values
from dnls_ros.problem.structure import Pattern
from dnls_ros.problem.sums import taken


@dataclass(frozen=True)
class Multifrontal:
    """Fronts of a nested dissection, all of a level at once.

    Attributes:
        dense_below: Matrices of fewer unknowns are factorized dense.
        leaf: Unknowns up to which a part of the graph is one front.
        relax: Unknowns of a front up to which it takes its children in: fewer levels for more
            operations.
    """

    dense_below: int = 192
    leaf: int = 48
    relax: int = 96

    @property
    def name(self) -> str:
        """For reports."""
        return "multifrontal"

    def analyze(self, pattern: Pattern) -> Symbolic:
        """Orders the variables and finds where all numbers come from."""
        if pattern.n < self.dense_below:
            return Dense().analyze(pattern)
        fronts = Fronts.of(pattern, self.leaf, self.relax)
        return MultifrontalSymbolic(pattern, fronts, Schedule.of(pattern, fronts))


@dataclass(frozen=True, eq=False)
class MultifrontalSymbolic:
    """The fronts of a pattern, and what is done with them."""

    pattern: Pattern
    fronts: Fronts
    schedule: Schedule
    _placed: dict[torch.device, Schedule] = field(default_factory=dict, repr=False)

    @property
    def levels(self) -> int:
        """Steps that follow one another; all fronts of a level are worked on at once."""
        return int(self.fronts.levels().max()) + 1

    @property
    def flops(self) -> int:
        """Operations of one factorization that are needed."""
        return int(flops(self.fronts.pivots, self.fronts.borders).sum())

    @property
    def padded_flops(self) -> int:
        """Operations of one factorization with fronts padded to the largest of their bucket."""
        p, q = self.fronts.pivots, self.fronts.borders
        return sum(int(len(b) * flops(p[b].max(), q[b].max())) for b in self.fronts.buckets())

    def on(self, device: torch.device) -> Schedule:
        """The schedule on a device; it is kept."""
        known = self._placed.get(device)
        if known is None:
            with torch.inference_mode(False):  # it outlives the mode
                known = self.schedule.to(device)
            self._placed[device] = known
        return known

    def factorize(self, values: Tensor) -> MultifrontalFactorization:
        """L Lᵀ of values (B, nnz)."""
        check_values(values, self.pattern)
        schedule, batch, nnz = self.on(values.device), len(values), self.pattern.nnz
        buffer = values.new_empty(batch, schedule.matrix_size, dtype=_working(values))
        buffer[:, :nnz] = values.detach()
        buffer[:, nnz].fill_(0.0)
        buffer[:, nnz + 1].fill_(1.0)
        done = [_eliminated(bucket, buffer) for bucket in schedule.buckets]
        factors, halves, infos = zip(*done, strict=True)
        diagonal = torch.cat([_diagonal(factor) for factor in factors], 1)
        # Whatever is not finite in a row of a front ends up in that row's diagonal entry.
        ok = (torch.cat(infos, 1) == 0).all(1) & diagonal.isfinite().all(1)
        return MultifrontalFactorization(
            self.pattern, self.fronts, schedule, factors, halves, diagonal, ok, values.dtype
        )


def _working(values: Tensor) -> torch.dtype:
    """What to factorize in."""
    reduced = values.is_cuda and values.dtype == torch.float32 and _shortened()
    return torch.float64 if reduced else values.dtype


def _shortened() -> bool:
    """Whether torch may use TF32 in products of float32 on a CUDA device."""
    matmul = torch.backends.cuda.matmul
    precision = getattr(matmul, "fp32_precision", None)
    if precision is None:  # before torch 2.9
        return bool(matmul.allow_tf32)
    return precision not in ("none", "ieee")


def _diagonal(factor: Tensor) -> Tensor:
    """(B, F · P) of factors (B, F, P, P)."""
    return factor.diagonal(dim1=2, dim2=3).flatten(1)


def _eliminated(bucket: Bucket, buffer: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """A bucket's factors, and zeros (B, F) where they exist; updates go into the buffer."""
    batch, (count, p, q) = len(buffer), bucket.shape
    pivots = bucket.pivots.gather(buffer).view(batch, count, p, p)
    factor, info = torch.linalg.cholesky_ex(pivots)
    if not q:
        return factor, None, info
    coupling = bucket.coupling.gather(buffer).view(batch, count, p, q)
    half = torch.linalg.solve_triangular(factor, coupling, upper=False)
    update = half.mT @ half
    if bucket.corner is None:
        update = update.neg_()
    else:
        update = bucket.corner.gather(buffer).view(batch, count, q, q).sub_(update)
    buffer[:, bucket.update : bucket.update + count * q * q] = update.flatten(1)
    return factor, half, info


@dataclass(frozen=True, eq=False)
class MultifrontalFactorization:
    """Per bucket the factors L (B, F, P, P) and X = L⁻¹C (B, F, P, Q); L's whole diagonal."""

    pattern: Pattern
    fronts: Fronts
    schedule: Schedule
    factors: tuple[Tensor, ...]
    halves: tuple[Tensor | None, ...]
    padded_diagonal: Tensor
    ok: Tensor
    dtype: torch.dtype

    @property
    def nnz(self) -> int:
        """Entries of L, without padding."""
        p, q = self.fronts.pivots, self.fronts.borders
        return int((p * (p + 1) // 2 + p * q).sum())

    def solve(self, rhs: Tensor) -> Tensor:
        """A⁻¹ rhs for rhs (B, n) or (B, n, k)."""
        check_rhs(rhs, self._like, self.pattern.n)
        columns, schedule = as_columns(rhs), self.schedule
        batch, n, k = columns.shape
        buffer = self.factors[0].new_empty(batch, schedule.vector_size, k)
        buffer[:, :n] = columns
        buffer[:, n].fill_(0.0)
        forward = [self._up(index, buffer) for index in range(len(self.factors))]
        x = buffer.new_empty(batch, schedule.padded + 1, k)
        x[:, schedule.padded].fill_(0.0)
        for index in reversed(range(len(forward))):
            self._down(index, forward[index], x)
        x = taken(x, schedule.place).to(self.dtype)
        return x.masked_fill(~self.ok[:, None, None], torch.nan).view(rhs.shape)

    @property
    def _like(self) -> Tensor:
        """A tensor of the batch, type and device of right-hand sides."""
        return self.factors[0].new_empty(len(self.ok), 0, dtype=self.dtype)

    def _up(self, index: int, buffer: Tensor) -> Tensor:
        """L⁻¹b of a bucket's pivots (B, F, P, k); what is left for its boundary is stored."""
        bucket, half = self.schedule.buckets[index], self.halves[index]
        (count, p, q), batch, k = bucket.shape, len(buffer), buffer.shape[2]
        b = bucket.rhs_pivots.gather(buffer).view(batch, count, p, k)
        y = torch.linalg.solve_triangular(self.factors[index], b, upper=False)
        if half is not None:
            rest = bucket.rhs_boundary.gather(buffer).view(batch, count, q, k).sub_(half.mT @ y)
            buffer[:, bucket.rest : bucket.rest + count * q] = rest.flatten(1, 2)
        return y

    def _down(self, index: int, y: Tensor, x: Tensor) -> None:
        """The bucket's unknowns, from L⁻¹b and the unknowns of its boundary."""
        bucket, half = self.schedule.buckets[index], self.halves[index]
        (count, p, q), batch, k = bucket.shape, len(x), x.shape[2]
        if half is not None:
            y = y - half @ taken(x, bucket.boundary).view(batch, count, q, k)
        found = torch.linalg.solve_triangular(self.factors[index].mT, y, upper=True)
        x[:, bucket.start : bucket.start + count * p] = found.flatten(1, 2)

    def diagonal(self) -> Tensor:
        """(B, n) diagonal of L, in the order of the matrix."""
        diagonal = taken(self.padded_diagonal, self.schedule.place).to(self.dtype)
        return diagonal.masked_fill(~self.ok[:, None], torch.nan)
