"""A pinhole camera with distortion, and the costs of pixels of known or estimated points.

Pixels come from a camera point p = (x, y, z) by a = (x, y)/z, the distortion a ↦ d(a), and
focal · d(a) + center. A point nearer than `MIN_DEPTH` or behind the camera is projected as if it
were at that depth: values and derivatives stay finite, the derivative with respect to its depth is
zero, and `PinholeCamera.visible` is false for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.costs.frames import (
    in_space,
    of_carrier,
    of_viewer,
    own_columns,
    per_point,
    seen_from,
    to_child,
    to_parent,
)
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, SE3
from dnls_ros.lie.series import arctangent, squared_norm
from dnls_ros.problem import cost

MIN_DEPTH = 0.01  # [m]

_COEFFICIENTS = {"": 0, "plumb_bob": 5, "equidistant": 4}
_SYNONYMS = {"none": "", "radtan": "plumb_bob", "fisheye": "equidistant"}


class Intrinsics(Protocol):
    """What a calibration says; see `PinholeCamera`."""

    @property
    def focal(self) -> tuple[float, float]: ...
    @property
    def center(self) -> tuple[float, float]: ...
    @property
    def distortion_model(self) -> str: ...
    @property
    def coefficients(self) -> tuple[float, ...]: ...


@dataclass(frozen=True, eq=False)
class PinholeCamera:
    """Intrinsics as tensors; a pytree, so that they can be batched, moved and learned.

    Attributes:
        focal: (…, 2) [px].
        center: (…, 2) [px].
        coefficients: (…, n) of the distortion: k1 k2 p1 p2 k3 or k1 k2 k3 k4.
        model: ``""`` (none), ``"plumb_bob"`` (or radtan) or ``"equidistant"`` (or fisheye).
    """

    focal: Tensor
    center: Tensor
    coefficients: Tensor
    model: str = ""

    def __post_init__(self) -> None:
        model = _SYNONYMS.get(self.model, self.model)
        object.__setattr__(self, "model", model)
        if model not in _COEFFICIENTS:
            raise DnlsError(
                f"camera: distortion model '{model}' is unknown, expected one of "
                f"{sorted(_COEFFICIENTS)}; rectify the pixels first"
            )
        got = self.focal.shape[-1], self.center.shape[-1], self.coefficients.shape[-1]
        if got != (2, 2, _COEFFICIENTS[model]):
            raise DnlsError(
                f"camera: focal, center and coefficients have last axes {got}, expected "
                f"{(2, 2, _COEFFICIENTS[model])} for distortion model '{model}'"
            )

    @classmethod
    def of(cls, intrinsics: Intrinsics) -> PinholeCamera:
        """A camera without batch axes, in float64."""
        focal, center, coefficients = (
            torch.tensor(v, dtype=torch.float64)
            for v in (intrinsics.focal, intrinsics.center, intrinsics.coefficients)
        )
        return cls(focal, center, coefficients, intrinsics.distortion_model)

    def per_point(self) -> PinholeCamera:
        """The camera with an axis of length 1 for several points per image."""
        return pytree.tree_map(lambda t: t.unsqueeze(-2), self)

    def project(self, p_camera: Tensor) -> Tensor:
        """The pixels (…, 2) of points (…, 3) in the camera's axes (z forward, x right)."""
        a = p_camera[..., :2] / p_camera[..., 2:].clamp(min=MIN_DEPTH)
        return self.focal * self._distort(a) + self.center

    def jacobian(self, p_camera: Tensor) -> Tensor:
        """The derivative (…, 2, 3) of `project` with respect to the point."""
        depth = p_camera[..., 2:].clamp(min=MIN_DEPTH)
        a = p_camera[..., :2] / depth
        bend = self.focal.unsqueeze(-1) * self._distort_jacobian(a) / depth.unsqueeze(-1)
        seen = torch.where(p_camera[..., 2:] >= MIN_DEPTH, a, torch.zeros_like(a))
        return torch.cat([bend, -(bend * seen.unsqueeze(-2)).sum(-1, keepdim=True)], -1)

    def visible(self, p_camera: Tensor) -> Tensor:
        """Whether points (…, 3) are in front of the camera, where the distortion is invertible."""
        z = p_camera[..., 2]
        a = p_camera[..., :2] / p_camera[..., 2:].clamp(min=MIN_DEPTH)
        d = self._distort_jacobian(a)
        unfolded = d[..., 0, 0] * d[..., 1, 1] > d[..., 0, 1] * d[..., 1, 0]
        return (z > MIN_DEPTH) & unfolded & (d[..., 0, 0] + d[..., 1, 1] > 0)

    def _distort(self, a: Tensor) -> Tensor:
        if self.model == "plumb_bob":
            return _radtan(a, self.coefficients)
        return _equidistant(a, self.coefficients) if self.model else a

    def _distort_jacobian(self, a: Tensor) -> Tensor:
        if self.model == "plumb_bob":
            return _radtan_jacobian(a, self.coefficients)
        if self.model:
            return _equidistant_jacobian(a, self.coefficients)
        return torch.eye(2, dtype=a.dtype, device=a.device).expand(*a.shape, 2)


def _flatten(camera: PinholeCamera) -> tuple[list[Any], str]:
    return [camera.focal, camera.center, camera.coefficients], camera.model


def _unflatten(leaves: Any, model: str) -> PinholeCamera:
    camera = object.__new__(PinholeCamera)  # leaves may be placeholders: no checks
    for name, leaf in zip(("focal", "center", "coefficients"), leaves, strict=True):
        object.__setattr__(camera, name, leaf)
    object.__setattr__(camera, "model", model)
    return camera


pytree.register_pytree_node(
    PinholeCamera, _flatten, _unflatten, serialized_type_name="dnls_ros.PinholeCamera"
)


def _radtan(a: Tensor, k: Tensor) -> Tensor:
    """Radial and tangential distortion: (1 + k1 u + k2 u² + k3 u³) a + 2 (t·a) a + u t.

    u = ‖a‖² and t = (p2, p1) (Brown, *Decentering distortion of lenses*, 1966).
    """
    u = squared_norm(a)
    t = k[..., 2:4].flip(-1)
    scale = 1 + u * (k[..., 0:1] + u * (k[..., 1:2] + u * k[..., 4:5]))
    return (scale + 2 * (t * a).sum(-1, keepdim=True)) * a + u * t


def _radtan_jacobian(a: Tensor, k: Tensor) -> Tensor:
    u = squared_norm(a)
    t = k[..., 2:4].flip(-1)
    scale = 1 + u * (k[..., 0:1] + u * (k[..., 1:2] + u * k[..., 4:5]))
    slope = k[..., 0:1] + u * (2 * k[..., 1:2] + u * (3 * k[..., 4:5]))
    outer = a.unsqueeze(-1) * (slope * a + 2 * t).unsqueeze(-2)  # half of its symmetric part
    return _on_diagonal(scale + 2 * (t * a).sum(-1, keepdim=True), outer + outer.mT)


def _equidistant(a: Tensor, k: Tensor) -> Tensor:
    """Fisheye distortion: the radius becomes θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸), θ = atan ‖a‖.

    Kannala and Brandt, *A generic camera model and calibration method*, 2006, §2.
    """
    u = squared_norm(a)
    ratio = arctangent(u)[..., :1]
    return ratio * _even_polynomial(u * ratio * ratio, k)[0] * a


def _equidistant_jacobian(a: Tensor, k: Tensor) -> Tensor:
    u = squared_norm(a)
    ratio, slope = arctangent(u).split(1, -1)
    value, derivative = _even_polynomial(u * ratio * ratio, k)
    change = slope * value + ratio * derivative * ratio * (ratio + 2 * u * slope)
    return _on_diagonal(ratio * value, 2 * a.unsqueeze(-1) * (change * a).unsqueeze(-2))


def _even_polynomial(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """1 + k1 q + k2 q² + k3 q³ + k4 q⁴ and its derivative."""
    k1, k2, k3, k4 = k.split(1, -1)
    value = 1 + q * (k1 + q * (k2 + q * (k3 + q * k4)))
    return value, k1 + q * (2 * k2 + q * (3 * k3 + q * (4 * k4)))


def _on_diagonal(diagonal: Tensor, matrix: Tensor) -> Tensor:
    eye = torch.eye(2, dtype=matrix.dtype, device=matrix.device)
    return torch.addcmul(matrix, diagonal.unsqueeze(-1), eye)


@cost(batched=True)
def tag_corners(
    world_T_body: SE2 | SE3,
    body_T_camera: SE2 | SE3,
    world_T_landmark: SE2 | SE3,
    p_landmark: Tensor,
    pixels: Tensor,
    camera: PinholeCamera,
) -> Tensor:
    """Reprojection errors (…, 2K) [px] of a rigid landmark's K points, such as a tag's corners.

    A planar body keeps its SE(2) state and is lifted to z = 0; its extrinsic carries the height.

    Args:
        world_T_body: The body's pose.
        body_T_camera: The extrinsic; known or estimated.
        world_T_landmark: The landmark's pose; known or estimated.
        p_landmark: (…, K, 3) the points in the landmark's axes [m].
        pixels: (…, K, 2) where they were seen [px].
        camera: The intrinsics.
    """
    body, mount, landmark = _chain(world_T_body, body_T_camera, world_T_landmark)
    p_camera = seen_from(mount, seen_from(body, landmark.act(p_landmark)))
    return (camera.per_point().project(p_camera) - pixels).flatten(-2)


@tag_corners.linearization
def _tag_corners_linearized(
    world_T_body: SE2 | SE3,
    body_T_camera: SE2 | SE3,
    world_T_landmark: SE2 | SE3,
    p_landmark: Tensor,
    pixels: Tensor,
    camera: PinholeCamera,
) -> tuple[Tensor, tuple[Callable[[], Tensor], ...]]:
    body, mount, landmark = _chain(world_T_body, body_T_camera, world_T_landmark)
    p_body = seen_from(body, landmark.act(p_landmark))
    p_camera = seen_from(mount, p_body)
    lens = camera.per_point()
    in_camera = lens.jacobian(p_camera)
    in_body = to_parent(mount, in_camera)

    def of_landmark() -> Tensor:
        in_landmark = to_child(landmark, to_parent(body, in_body))
        return own_columns(world_T_landmark, of_carrier(in_landmark, p_landmark).flatten(-3, -2))

    # Mount and map are often known: what is not optimized is not computed.
    return (lens.project(p_camera) - pixels).flatten(-2), (
        lambda: own_columns(world_T_body, of_viewer(in_body, p_body).flatten(-3, -2)),
        lambda: own_columns(body_T_camera, of_viewer(in_camera, p_camera).flatten(-3, -2)),
        of_landmark,
    )


def _chain(*poses: SE2 | SE3) -> tuple[SE3, ...]:
    return tuple(per_point(in_space(x)) for x in poses)


@cost(batched=True)
def landmark_reprojection(
    world_T_body: SE2 | SE3,
    body_T_camera: SE2 | SE3,
    p_world: Tensor,
    pixel: Tensor,
    camera: PinholeCamera,
) -> Tensor:
    """Reprojection error (…, 2) [px] of a point landmark ``p_world`` (…, 3) [m]."""
    p_body = seen_from(in_space(world_T_body), p_world)
    return camera.project(seen_from(in_space(body_T_camera), p_body)) - pixel


@landmark_reprojection.jacobians
def _landmark_reprojection_jacobians(
    world_T_body: SE2 | SE3,
    body_T_camera: SE2 | SE3,
    p_world: Tensor,
    pixel: Tensor,
    camera: PinholeCamera,
) -> tuple[Tensor, Tensor, Tensor]:
    body, mount = in_space(world_T_body), in_space(body_T_camera)
    p_body = seen_from(body, p_world)
    p_camera = seen_from(mount, p_body)
    in_camera = camera.jacobian(p_camera)
    in_body = to_parent(mount, in_camera)
    return (
        own_columns(world_T_body, of_viewer(in_body, p_body)),
        own_columns(body_T_camera, of_viewer(in_camera, p_camera)),
        to_parent(body, in_body),
    )
