"""Bundle adjustment in the large: reprojection with a camera's lens among the variables."""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.costs.frames import of_carrier, to_child
from dnls_ros.lie import SE3
from dnls_ros.lie.series import squared_norm
from dnls_ros.problem import cost


@cost(batched=True)
def snavely_reprojection(
    camera_T_world: SE3, lens: Tensor, p_world: Tensor, pixel: Tensor
) -> Tensor:
    """The reprojection error (…, 2) [px] of the nine-parameter camera of the BAL data sets.

    With P = camera_T_world p_world and a = −(P_x, P_y)/P_z: r = f (1 + k₁‖a‖² + k₂‖a‖⁴) a − pixel
    (Agarwal, Snavely, Seitz and Szeliski, *Bundle adjustment in the large*, ECCV 2010, and its
    data). The camera looks along its −z axis. Points behind it are projected as the formula says,
    so that costs are those of other solvers; in the plane of the camera they are not finite.

    Args:
        camera_T_world: As in the files: from the world to the camera.
        lens: (…, 3) f [px], k₁, k₂.
        p_world: (…, 3).
        pixel: (…, 2) from the image's centre [px].
    """
    a = _direction(camera_T_world.act(p_world))
    return lens[..., :1] * _stretch(lens, squared_norm(a)) * a - pixel


@snavely_reprojection.jacobians
def _snavely_reprojection_jacobians(
    camera_T_world: SE3, lens: Tensor, p_world: Tensor, pixel: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    p_camera = camera_T_world.act(p_world)
    a = _direction(p_camera)
    u = squared_norm(a)
    f, k1, k2 = lens.split(1, -1)
    stretch = _stretch(lens, u)
    eye = torch.eye(2, dtype=a.dtype, device=a.device)
    slope = (2 * (k1 + 2 * k2 * u)).unsqueeze(-1)
    bend = f.unsqueeze(-1) * (
        stretch.unsqueeze(-1) * eye + slope * a.unsqueeze(-1) * a.unsqueeze(-2)
    )
    bend = -bend / p_camera[..., 2:].unsqueeze(-1)
    in_camera = torch.cat([bend, (bend * a.unsqueeze(-2)).sum(-1, keepdim=True)], -1)
    in_world = to_child(camera_T_world, in_camera)
    of_lens = torch.stack([stretch * a, f * u * a, f * u * u * a], -1)
    return of_carrier(in_world, p_world), of_lens, in_world


def _direction(p_camera: Tensor) -> Tensor:
    return -p_camera[..., :2] / p_camera[..., 2:]


def _stretch(lens: Tensor, u: Tensor) -> Tensor:
    return 1 + u * (lens[..., 1:2] + u * lens[..., 2:3])
