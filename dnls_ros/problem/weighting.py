"""How much a residual counts: noise models whiten it, robust losses bound it.

The objective of a factor is ½ρ(‖L r‖²) with LᵀL = Σ⁻¹. A loss is a function of the *squared* norm
s with ρ(0) = 0, ρ'(0) = 1 (but for `Hinge`) and finite first and second derivatives everywhere, so
that exact Hessians can be taken through it. Radii are in units of σ. All tensors are pytree
leaves: noise and radii can be learned. Floats are kept as float64 and follow the residual's dtype
and device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.problem.axes import rebuilt
from dnls_ros.problem.checks import check_finite, check_positive

Leaf = TypeVar("Leaf", bound=type)
_F64 = torch.float64


def leaves(cls: Leaf) -> Leaf:
    """Class decorator: makes a pytree of a frozen dataclass whose fields are all tensors."""
    names = tuple(f.name for f in fields(cls))
    marked: Any = cls
    marked.leaf_names = names
    pytree.register_pytree_node(
        cls,
        lambda x: ([getattr(x, n) for n in names], None),
        lambda values, _: rebuilt(cls, dict(zip(names, values, strict=True))),
        serialized_type_name=f"dnls_ros.{cls.__name__}",
    )
    return cls


def _positive(owner: object, name: str, value: Tensor | float, own_axes: int = 0) -> Tensor:
    """The value with axes (B|1, M|1, …), checked."""
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    check_positive(f"{type(owner).__name__}: {name}", tensor)
    return tensor[None, None] if tensor.ndim == own_axes else tensor


def _as_tensor(value: Tensor | float) -> Tensor:
    assert isinstance(value, Tensor)  # __post_init__ made it one; callers may give a number
    return value


class Noise(ABC):
    """A Gaussian noise model: turns residuals [unit] into whitened ones [σ].

    What shall count nothing has no infinite σ: it is masked, ``cost(…, mask=…)``.
    """

    @property
    def length(self) -> int | None:
        """r of the residuals that it whitens; None: any."""
        return None

    @abstractmethod
    def whiten(self, residual: Tensor) -> Tensor:
        """L r for residuals (B, M, r)."""

    @abstractmethod
    def whiten_jacobian(self, jacobian: Tensor) -> Tensor:
        """L J for Jacobians (B, M, r, t)."""

    @abstractmethod
    def scaled(self, factor: float) -> Noise:
        """The same noise with ``factor`` times the standard deviations."""


@leaves
@dataclass(frozen=True, eq=False)
class Isotropic(Noise):
    """The same standard deviation in all directions.

    Attributes:
        sigma: A number, or (B|1, M|1).
    """

    sigma: Tensor | float

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", _positive(self, "sigma", self.sigma))

    def whiten(self, residual: Tensor) -> Tensor:
        return residual / _as_tensor(self.sigma).to(residual)[..., None]

    def whiten_jacobian(self, jacobian: Tensor) -> Tensor:
        return jacobian / _as_tensor(self.sigma).to(jacobian)[..., None, None]

    def scaled(self, factor: float) -> Isotropic:
        return Isotropic(_as_tensor(self.sigma) * factor)


@leaves
@dataclass(frozen=True, eq=False)
class Diagonal(Noise):
    """One standard deviation per residual dimension.

    Attributes:
        sigmas: (r,) or (B|1, M|1, r).
    """

    sigmas: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", _positive(self, "sigmas", self.sigmas, own_axes=1))

    @property
    def length(self) -> int | None:
        return self.sigmas.shape[-1]

    def whiten(self, residual: Tensor) -> Tensor:
        return residual / self.sigmas.to(residual)

    def whiten_jacobian(self, jacobian: Tensor) -> Tensor:
        return jacobian / self.sigmas.to(jacobian)[..., None]

    def scaled(self, factor: float) -> Diagonal:
        return Diagonal(self.sigmas * factor)


@leaves
@dataclass(frozen=True, eq=False)
class SquareRootInformation(Noise):
    """A full information matrix Σ⁻¹ = LᵀL, given by L.

    Attributes:
        factor: L, (r, r) or (B|1, M|1, r, r). With fewer rows than columns it measures some
            directions only.
    """

    factor: Tensor

    def __post_init__(self) -> None:
        check_finite("SquareRootInformation: factor", self.factor)
        if self.factor.ndim == 2:
            object.__setattr__(self, "factor", self.factor[None, None])

    @property
    def length(self) -> int | None:
        return self.factor.shape[-1]

    @classmethod
    def from_covariance(cls, covariance: Tensor) -> SquareRootInformation:
        """Of Σ (…, r, r): L = C⁻¹ with Σ = C Cᵀ.

        Raises:
            DnlsError: A covariance is not positive definite.
        """
        lower, info = torch.linalg.cholesky_ex(covariance)
        if bool((info != 0).any()):
            raise DnlsError(
                "a covariance is not positive definite; it must be symmetric with positive "
                "eigenvalues"
            )
        eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        return cls(torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False))

    @classmethod
    def from_information(cls, information: Tensor) -> SquareRootInformation:
        """Of Σ⁻¹ (…, r, r) = C Cᵀ: L = Cᵀ.

        Raises:
            DnlsError: It is not positive definite.
        """
        lower, info = torch.linalg.cholesky_ex(information)
        if bool((info != 0).any()):
            raise DnlsError("an information matrix is not positive definite")
        return cls(lower.mT)

    def whiten(self, residual: Tensor) -> Tensor:
        return (self.factor.to(residual) @ residual[..., None])[..., 0]

    def whiten_jacobian(self, jacobian: Tensor) -> Tensor:
        return self.factor.to(jacobian) @ jacobian

    def scaled(self, factor: float) -> SquareRootInformation:
        return SquareRootInformation(self.factor / factor)


class Loss(ABC):
    """A robust loss ρ(s) of the squared whitened norm s."""

    @abstractmethod
    def rho(self, s: Tensor) -> Tensor:
        """ρ(s) ≥ 0."""

    @abstractmethod
    def weight(self, s: Tensor) -> Tensor:
        """ρ'(s), the factor's weight in the normal equations, in [0, 1]."""


class RadiusLoss(Loss):
    """A loss with one radius, beyond which residuals count less."""

    radius: Tensor | float

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", _positive(self, "radius", self.radius))

    def squared_radius(self, s: Tensor) -> Tensor:
        """radius² in the dtype and on the device of ``s``."""
        return _as_tensor(self.radius).to(s).square()


@leaves
@dataclass(frozen=True, eq=False)
class Huber(RadiusLoss):
    """Quadratic inside the radius, linear outside (Huber 1964): ρ = 2R√s − R²."""

    radius: Tensor | float

    def rho(self, s: Tensor) -> Tensor:
        r2 = self.squared_radius(s)
        outside = torch.where(s > r2, s, r2)  # the square root never sees 0: finite derivatives
        return torch.where(s > r2, 2 * (r2 * outside).sqrt() - r2, s)

    def weight(self, s: Tensor) -> Tensor:
        r2 = self.squared_radius(s)
        return (r2 / torch.where(s > r2, s, r2)).sqrt()


@leaves
@dataclass(frozen=True, eq=False)
class Cauchy(RadiusLoss):
    """ρ = R² log(1 + s/R²)."""

    radius: Tensor | float

    def rho(self, s: Tensor) -> Tensor:
        r2 = self.squared_radius(s)
        return r2 * torch.log1p(s / r2)

    def weight(self, s: Tensor) -> Tensor:
        return 1 / (1 + s / self.squared_radius(s))


@leaves
@dataclass(frozen=True, eq=False)
class GemanMcClure(RadiusLoss):
    """ρ = s / (1 + s/R²), bounded by R²."""

    radius: Tensor | float

    def rho(self, s: Tensor) -> Tensor:
        return s / (1 + s / self.squared_radius(s))

    def weight(self, s: Tensor) -> Tensor:
        return (1 + s / self.squared_radius(s)).square().reciprocal()


@leaves
@dataclass(frozen=True, eq=False)
class Tukey(RadiusLoss):
    """Tukey's biweight: ρ = R²/3 · (1 − (1 − s/R²)³) inside, R²/3 outside."""

    radius: Tensor | float

    def rho(self, s: Tensor) -> Tensor:
        r2 = self.squared_radius(s)
        return r2 / 3 * (1 - (1 - s / r2).clamp(min=0) ** 3)

    def weight(self, s: Tensor) -> Tensor:
        return (1 - s / self.squared_radius(s)).clamp(min=0).square()


@leaves
@dataclass(frozen=True, eq=False)
class Welsch(RadiusLoss):
    """ρ = R² (1 − exp(−s/R²))."""

    radius: Tensor | float

    def rho(self, s: Tensor) -> Tensor:
        r2 = self.squared_radius(s)
        return -r2 * torch.expm1(-s / r2)

    def weight(self, s: Tensor) -> Tensor:
        return torch.exp(-s / self.squared_radius(s))


@leaves
@dataclass(frozen=True, eq=False)
class DCS(RadiusLoss):
    """Dynamic covariance scaling: ρ = s inside, (3R²s − R⁴)/(R² + s) outside, below 3R².

    The weight is the square of the scale min(1, 2R²/(R² + s)) that Agarwal et al., *Robust map
    optimization using dynamic covariance scaling*, ICRA 2013, put on the covariance, with
    Φ = R²; ρ is its integral.
    """

    radius: Tensor | float

    def rho(self, s: Tensor) -> Tensor:
        r2 = self.squared_radius(s)
        outside = torch.where(s > r2, s, r2)
        return torch.where(s > r2, r2 * (3 - 4 * r2 / (r2 + outside)), s)

    def weight(self, s: Tensor) -> Tensor:
        r2 = self.squared_radius(s)
        return (2 * r2 / (r2 + torch.where(s > r2, s, r2))).square()


@leaves
@dataclass(frozen=True, eq=False)
class Barron(RadiusLoss):
    """The general loss: ρ = 2R² b/α · ((1 + s/(bR²))^(α/2) − 1) with b = 2 − α.

    J. Barron, *A general and adaptive robust loss function*, CVPR 2019, eq. 8, times 2R² so that
    it begins like s. Its shape α spans the others: 2 least squares, 1 a smooth Huber, 0 Cauchy and
    −2 Geman–McClure with radius √2 R and 2R, −∞ Welsch with √2 R. Both parameters can be learned;
    the slope in α is not bounded as α → 2.

    Attributes:
        radius: R, in σ.
        alpha: α ≤ 2: a number, or (B|1, M|1).
    """

    radius: Tensor | float
    alpha: Tensor | float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        alpha = torch.as_tensor(self.alpha, dtype=None if isinstance(self.alpha, Tensor) else _F64)
        if not bool(((alpha.detach() <= 2) & alpha.detach().isfinite()).all()):
            raise DnlsError(
                f"Barron: alpha must be finite and at most 2, got {alpha.detach()}; beyond 2 "
                "outliers would count more than in least squares"
            )
        object.__setattr__(self, "alpha", alpha[None, None] if alpha.ndim == 0 else alpha)

    def rho(self, s: Tensor) -> Tensor:
        half, span = self._shape(s)
        logarithm = torch.log1p(s / span)
        return span * logarithm * _expm1_ratio(half * logarithm)

    def weight(self, s: Tensor) -> Tensor:
        half, span = self._shape(s)
        return torch.exp((half - 1) * torch.log1p(s / span))

    def _shape(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """α/2 and bR²."""
        alpha = _as_tensor(self.alpha).to(s)
        b = (2 - alpha).clamp(min=torch.finfo(s.dtype).eps)
        return 0.5 * alpha, b * self.squared_radius(s)


def _expm1_ratio(z: Tensor) -> Tensor:
    """(eᶻ − 1)/z, with its derivatives through 0."""
    near = z.abs() < 1e-4
    away = torch.where(near, torch.ones_like(z), z)
    return torch.where(near, 1 + z / 2 * (1 + z / 3 * (1 + z / 4)), torch.expm1(away) / away)


@leaves
@dataclass(frozen=True, eq=False)
class Hinge(RadiusLoss):
    """A tolerance: ρ = (√s − R)² outside the radius, nothing inside.

    Not against outliers but the opposite: what is within R is good enough and weighs nothing, so
    ρ'(0) = 0. For limits of single coordinates see `dnls_ros.costs.limits`.
    """

    radius: Tensor | float

    def rho(self, s: Tensor) -> Tensor:
        r2 = self.squared_radius(s)
        outside = torch.where(s > r2, s, r2)
        return torch.where(s > r2, (outside.sqrt() - r2.sqrt()).square(), torch.zeros_like(s))

    def weight(self, s: Tensor) -> Tensor:
        r2 = self.squared_radius(s)
        return 1 - (r2 / torch.where(s > r2, s, r2)).sqrt()
