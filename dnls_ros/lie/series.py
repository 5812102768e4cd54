"""Scalar functions of the squared angle x = θ² on which exp, log and their Jacobians are built.

All of them are analytic near x = 0, but their closed forms divide 0 by 0 there. Each is therefore
a Taylor polynomial below θ = ¼ (the logarithms: 0.1) and the closed form above. The thresholds are
chosen for *derivatives*: the m-th derivative of a closed form loses about ε/θᵐ, so these keep
second derivatives (exact Hessians run through here) at 1e-14, and six terms make the polynomials
exact to rounding. Both branches are evaluated at clamped arguments, so that the branch that is not
taken contributes finite values and zero, not NaN, to any derivative.

Functions that are needed together are the columns of one tensor: few operations matter more than
few flops. Only elementwise operations are used: matrix products may run in reduced precision on
accelerators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import comb, factorial

import torch
from torch import Tensor
from torch._C import _DisableFuncTorch  # pyright: ignore[reportPrivateUsage]  # no public name
from torch._C._functorch import is_functorch_wrapped_tensor

TERMS = 6
NEAR = 0.0625  # [rad²]: below θ = ¼ the polynomials in θ² are used
NEAR_TANGENT = 0.001  # of tan² of an angle of view
NEAR_SINE = 0.0025  # below θ ≈ 0.1 those in sin²(θ/2), which converge more slowly

Series = list[Fraction]


class Constant:
    """A small constant tensor that is kept once for each dtype and device it is used with."""

    def __init__(self, values: Sequence[object]) -> None:
        self._values = values
        self._reference = torch.tensor(values, dtype=torch.float64)
        self._kept = {
            (dtype, self._reference.device): self._reference.to(dtype)
            for dtype in (torch.float64, torch.float32)
        }

    def like(self, x: Tensor) -> Tensor:
        """The constant in the dtype and on the device of ``x``."""
        if torch.compiler.is_compiling():  # a graph gets the numbers, not a tensor from outside
            return torch.tensor(self._values, dtype=x.dtype, device=x.device)
        kept = self._kept.get((x.dtype, x.device))
        return self._make(x) if kept is None else kept

    def _make(self, x: Tensor) -> Tensor:
        # In inference mode it could not be saved for a later backward pass; inside a function
        # transform it would belong to the transform and not outlive it, and be copied every time.
        with torch.inference_mode(False), _DisableFuncTorch():
            made = self._reference.to(x.device, x.dtype)
        self._kept[x.dtype, x.device] = made
        return made


def squared_norm(w: Tensor) -> Tensor:
    """‖w‖² over the last axis, which is kept: (…, n) → (…, 1)."""
    return (w * w).sum(-1, keepdim=True)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """A × b over the last axis; leading axes broadcast, also when one has more of them."""
    if a.ndim != b.ndim:
        a, b = torch.broadcast_tensors(a, b)
    return torch.linalg.cross(a, b)


def contract(table: Constant, x: Tensor) -> Tensor:
    """Σ_j T[i, j] x[j]: a constant linear map without a matrix product, (…, n) → (…, m)."""
    return (x.unsqueeze(-2) * table.like(x)).sum(-1)


def stumpff_series(k: int, terms: int = TERMS) -> Series:
    """The coefficients of c_k(x) = Σ (−x)ⁿ / (2n + k)!.

    c₀ = cos θ, c₁ = sin θ/θ, c₂ = (1 − cos θ)/θ², c₃ = (θ − sin θ)/θ³.
    """
    return [Fraction((-1) ** n, factorial(2 * n + k)) for n in range(terms)]


def derivative(series: Series) -> Series:
    """The coefficients of the derivative."""
    return [n * c for n, c in enumerate(series)][1:]


def at_half_angle(series: Series) -> Series:
    """The coefficients of f(x/4), the function of half the angle."""
    return [c / 4**n for n, c in enumerate(series)]


def _quotient(numerator: Series, denominator: Series) -> Series:
    result: Series = []
    for n, c in enumerate(numerator):
        known = sum((result[m] * denominator[n - m] for m in range(n)), Fraction(0))
        result.append((c - known) / denominator[0])
    return result


def cotangent_series(terms: int = TERMS) -> Series:
    """(1 − (θ/2) cot(θ/2)) / θ², which is (2c₂ − c₁) / (2 x c₂)."""
    sine, versine = stumpff_series(1, terms + 1), stumpff_series(2, terms + 1)
    numerator = [2 * v - s for v, s in zip(versine, sine, strict=True)]
    return _quotient(numerator[1:], [2 * v for v in versine[:-1]])


def arcsine_series() -> Series:
    """asin(n)/n as a series in n²."""
    return [Fraction(comb(2 * k, k), 4**k * (2 * k + 1)) for k in range(TERMS)]


def arctangent_series(terms: int = TERMS) -> Series:
    """The series of atan(√x)/√x."""
    return [Fraction((-1) ** n, 2 * n + 1) for n in range(terms)]


def cotangent_of_sine_series() -> Series:
    """The same in n² = sin²(θ/2): (1 − asin(n) √(1 − n²)/n) / (4 asin²(n))."""
    over_root = [
        Fraction(4**k * factorial(k) ** 2, factorial(2 * k + 1)) for k in range(TERMS + 1)
    ]
    cosine_part = [c - (over_root[k - 1] if k else 0) for k, c in enumerate(over_root)]
    square = [Fraction(2 * 4**k, k * k * comb(2 * k, k)) for k in range(1, TERMS + 1)]
    return _quotient([-c for c in cosine_part[1:]], square)


def _rows(*columns: Series) -> tuple[Constant, ...]:
    """One constant row of K coefficients per power, lowest first."""
    return tuple(Constant([float(c) for c in row]) for row in zip(*columns, strict=True))


_HALF_SINE = [c / 2 for c in at_half_angle(stumpff_series(1))]
_HALF_COSINE = at_half_angle(stumpff_series(0))
_ROTATION = _rows(_HALF_SINE, _HALF_COSINE)
_SCREW = _rows(_HALF_SINE, _HALF_COSINE, stumpff_series(2), stumpff_series(3))
_PLANAR = _rows(stumpff_series(1), stumpff_series(2))
_JACOBIAN = _rows(stumpff_series(2), stumpff_series(3))
_SLOPES = _rows(
    stumpff_series(2),
    stumpff_series(3),
    derivative(stumpff_series(2, TERMS + 1)),
    derivative(stumpff_series(3, TERMS + 1)),
)
_INVERSE = _rows(cotangent_series())
_INVERSE_SLOPES = _rows(cotangent_series(), derivative(cotangent_series(TERMS + 1)))
_LOG = _rows([2 * c for c in arcsine_series()])
_SCREW_LOG = _rows([2 * c for c in arcsine_series()], cotangent_of_sine_series())
_ARCTANGENT = _rows(arctangent_series(), derivative(arctangent_series(TERMS + 1)))


def _horner(x: Tensor, rows: tuple[Constant, ...]) -> Tensor:
    total = rows[-1].like(x)
    for row in rows[-2::-1]:
        total = torch.addcmul(row.like(x), total, x)
    return total


def _readable(x: Tensor) -> bool:
    """Whether a branch on the numbers may be taken: no transform, no graph, no device to ask."""
    if torch.compiler.is_compiling():  # first: the compiler cannot trace the other questions
        return False
    return x.device.type == "cpu" and not (x.requires_grad or is_functorch_wrapped_tensor(x))


def _blend(
    x: Tensor, limit: float, rows: tuple[Constant, ...], closed: Callable[[Tensor], Tensor]
) -> Tensor:
    """Polynomial below ``limit``, closed form above: (…, 1) → (…, K)."""
    if _readable(x):  # most batches lie on one side: the other need not be computed
        if bool((x < limit).all()):
            return _horner(x, rows)
        if bool((x >= limit).all()):
            return closed(x)
    return torch.where(x < limit, _horner(x.clamp(max=limit), rows), closed(x.clamp(min=limit)))


def rotation(x: Tensor) -> Tensor:
    """[sin(θ/2)/θ, cos(θ/2)], (…, 2): what the exponential of SO(3) needs."""

    def closed(x: Tensor) -> Tensor:
        angle = x.sqrt()
        half = 0.5 * angle
        return torch.cat([half.sin() / angle, half.cos()], -1)

    return _blend(x, NEAR, _ROTATION, closed)


def screw(x: Tensor) -> Tensor:
    """[sin(θ/2)/θ, cos(θ/2), (1 − cos θ)/θ², (θ − sin θ)/θ³], (…, 4): for exp of SE(3)."""

    def closed(x: Tensor) -> Tensor:
        angle = x.sqrt()
        half = 0.5 * angle
        s, c = half.sin() / angle, half.cos()
        twice = 2 * s
        return torch.cat([s, c, twice * s, (1 - twice * c) / x], -1)

    return _blend(x, NEAR, _SCREW, closed)


def planar(x: Tensor) -> Tensor:
    """[sin θ/θ, (1 − cos θ)/θ²], (…, 2): for the exponential of SE(2)."""

    def closed(x: Tensor) -> Tensor:
        angle = x.sqrt()
        s = (0.5 * angle).sin() / angle
        return torch.cat([angle.sin() / angle, 2 * s * s], -1)

    return _blend(x, NEAR, _PLANAR, closed)


def _jacobian_closed(x: Tensor) -> tuple[Tensor, Tensor]:
    angle = x.sqrt()
    half = 0.5 * angle
    s = half.sin() / angle
    twice = 2 * s
    return twice * s, (1 - twice * half.cos()) / x


def jacobian(x: Tensor) -> Tensor:
    """[b, c] = [(1 − cos θ)/θ², (θ − sin θ)/θ³], (…, 2)."""
    return _blend(x, NEAR, _JACOBIAN, lambda x: torch.cat(_jacobian_closed(x), -1))


def jacobian_slopes(x: Tensor) -> Tensor:
    """[b, c, db/dx, dc/dx] of `jacobian`, (…, 4)."""

    def closed(x: Tensor) -> Tensor:
        b, c = _jacobian_closed(x)
        c4, c5 = (0.5 - b) / x, (1 / 6 - c) / x
        return torch.cat([b, c, c4 - 0.5 * c, 1.5 * c5 - 0.5 * c4], -1)

    return _blend(x, NEAR, _SLOPES, closed)


def _cotangent_closed(x: Tensor) -> tuple[Tensor, Tensor]:
    half = 0.5 * x.sqrt()
    cotangent = half * half.cos() / half.sin()
    return cotangent, (1 - cotangent) / x


def inverse(x: Tensor) -> Tensor:
    """D = (1 − (θ/2) cot(θ/2))/θ², (…, 1); finite for θ < 2π."""
    return _blend(x, NEAR, _INVERSE, lambda x: _cotangent_closed(x)[1])


def inverse_slopes(x: Tensor) -> Tensor:
    """[d, dd/dx] of `inverse`, (…, 2)."""

    def closed(x: Tensor) -> Tensor:
        cotangent, d = _cotangent_closed(x)
        return torch.cat([d, (0.125 - d * (1 + 0.5 * cotangent)) / x], -1)

    return _blend(x, NEAR, _INVERSE_SLOPES, closed)


def rotation_log(sine2: Tensor, cosine: Tensor) -> Tensor:
    """θ/sin(θ/2), (…, 1), from sin²(θ/2) and cos(θ/2) ≥ 0."""

    def closed(sine2: Tensor) -> Tensor:
        sine = sine2.sqrt()
        return 2 * torch.atan2(sine, cosine) / sine

    return _blend(sine2, NEAR_SINE, _LOG, closed)


def screw_log(sine2: Tensor, cosine: Tensor) -> Tensor:
    """[θ/sin(θ/2), (1 − (θ/2) cot(θ/2))/θ²], (…, 2), from sin²(θ/2) and cos(θ/2) ≥ 0."""

    def closed(sine2: Tensor) -> Tensor:
        sine = sine2.sqrt()
        angle = 2 * torch.atan2(sine, cosine)
        ratio = angle / sine
        return torch.cat([ratio, (1 - 0.5 * ratio * cosine) / (angle * angle)], -1)

    return _blend(sine2, NEAR_SINE, _SCREW_LOG, closed)


def arctangent(x: Tensor) -> Tensor:
    """[f, df/dx] of f(x) = atan(√x)/√x, (…, 2): angles of view from squared tangents."""

    def closed(x: Tensor) -> Tensor:
        root = x.sqrt()
        f = root.atan() / root
        return torch.cat([f, 0.5 * (1 / (1 + x) - f) / x], -1)

    return _blend(x, NEAR_TANGENT, _ARCTANGENT, closed)
