"""The reprojection of "Bundle Adjustment in the Large": nine parameters a camera.

A camera is (ω, t, f, k₁, k₂): it looks along its negative z axis, p = R(ω) P + t, and its pixels
a = −(x, y)/z, f (1 + k₁‖a‖² + k₂‖a‖⁴) a count from the image's centre with y upwards (Snavely;
Agarwal, Snavely, Seitz, Szeliski, *Bundle Adjustment in the Large*, 2010).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dnls_ros.lie import SO3, hat3
from dnls_ros.lie.series import squared_norm
from dnls_ros.problem import cost


@cost(batched=True)
def bal_reprojection(camera: Tensor, p_world: Tensor, pixel: Tensor) -> Tensor:
    """Reprojection error (…, 2) [px]; not finite for a point in the camera's plane, z = 0.

    Args:
        camera: (…, 9) rotation vector [rad], translation [m], focal length [px], k₁, k₂.
        p_world: (…, 3) [m].
        pixel: (…, 2) where it was seen [px].
    """
    a = _ray(SO3.exp(camera[..., :3]).act(p_world) + camera[..., 3:6])
    focal, scale = camera[..., 6:7], _scale(camera, squared_norm(a))
    return focal * scale * a - pixel


@bal_reprojection.linearization
def _bal_reprojection_linearized(
    camera: Tensor, p_world: Tensor, pixel: Tensor
) -> tuple[Tensor, tuple[Callable[[], Tensor], ...]]:
    rotation = SO3.exp(camera[..., :3])
    p = rotation.act(p_world) + camera[..., 3:6]
    a = _ray(p)
    u = squared_norm(a)
    focal, k1, k2 = camera[..., 6:].split(1, -1)
    scale = _scale(camera, u)
    slope = (2 * focal * (k1 + 2 * k2 * u))[..., None]
    eye = torch.eye(2, dtype=a.dtype, device=a.device)
    of_ray = (focal * scale)[..., None] * eye + slope * a[..., :, None] * a[..., None, :]
    # a = −(x, y)/z moves by −(I | a)/z
    in_camera = torch.cat([of_ray, of_ray @ a[..., None]], -1) / -p[..., 2:, None]
    in_world = in_camera @ rotation.matrix()

    def of_camera() -> Tensor:
        turned = -in_world @ hat3(p_world) @ SO3.right_jacobian(camera[..., :3])
        lens = torch.stack([scale * a, focal * u * a, focal * u * u * a], -1)
        return torch.cat([turned, in_camera, lens], -1)

    return focal * scale * a - pixel, (of_camera, lambda: in_world)


def _ray(p: Tensor) -> Tensor:
    return -p[..., :2] / p[..., 2:]


def _scale(camera: Tensor, u: Tensor) -> Tensor:
    return 1 + u * (camera[..., 7:8] + u * camera[..., 8:9])
