"""A rectified stereo camera: pixels of a point in both images."""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.costs.camera import PinholeCamera
from dnls_ros.costs.frames import in_space, of_viewer, own_columns, seen_from, to_parent
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, SE3
from dnls_ros.problem import cost


@cost(batched=True)
def stereo_reprojection(
    world_T_body: SE2 | SE3,
    body_T_camera: SE2 | SE3,
    p_world: Tensor,
    baseline: Tensor,
    pixels: Tensor,
    camera: PinholeCamera,
) -> Tensor:
    """Reprojection errors (…, 3) [px] of a point landmark: columns left and right, and the row.

    With p = (x, y, z) in the left camera's axes: u_left = f_x x/z + c_x,
    u_right = f_x (x − b)/z + c_x, v = f_y y/z + c_y, minus the measured ones (Hartley and
    Zisserman, *Multiple view geometry*, 2nd ed., §11.12: rectified images share their rows).

    Args:
        world_T_body: The body's pose; a planar one is lifted to z = 0.
        body_T_camera: The left camera's extrinsic.
        p_world: (…, 3) the landmark [m].
        baseline: (…, 1) b, how far the right camera is along the left one's x axis [m].
        pixels: (…, 3) the measured u_left, u_right, v [px].
        camera: The intrinsics of both, without distortion.

    Raises:
        DnlsError: The camera has a distortion: the images are not rectified.
    """
    _check_rectified(camera)
    p = seen_from(in_space(body_T_camera), seen_from(in_space(world_T_body), p_world))
    left, right = camera.project(p), camera.project(_shifted(p, baseline))
    return torch.cat([left[..., :1], right[..., :1], left[..., 1:]], -1) - pixels


@stereo_reprojection.jacobians
def _stereo_reprojection_jacobians(
    world_T_body: SE2 | SE3,
    body_T_camera: SE2 | SE3,
    p_world: Tensor,
    baseline: Tensor,
    pixels: Tensor,
    camera: PinholeCamera,
) -> tuple[Tensor, ...]:
    body, mount = in_space(world_T_body), in_space(body_T_camera)
    p_body = seen_from(body, p_world)
    p = seen_from(mount, p_body)
    left, right = camera.jacobian(p), camera.jacobian(_shifted(p, baseline))
    in_camera = torch.cat([left[..., :1, :], right[..., :1, :], left[..., 1:, :]], -2)
    in_body = to_parent(mount, in_camera)
    still = torch.zeros_like(right[..., :1, :1])
    return (
        own_columns(world_T_body, of_viewer(in_body, p_body)),
        own_columns(body_T_camera, of_viewer(in_camera, p)),
        to_parent(body, in_body),
        torch.cat([still, -right[..., :1, :1], still], -2),
    )


def _shifted(p: Tensor, baseline: Tensor) -> Tensor:
    """Points in the right camera's axes."""
    x = p[..., :1] - baseline
    return torch.cat([x, p[..., 1:].expand(*x.shape[:-1], 2)], -1)


def _check_rectified(camera: PinholeCamera) -> None:
    if camera.model:
        raise DnlsError(
            f"stereo_reprojection: the camera has distortion model '{camera.model}', expected "
            "none; rectify the images first"
        )
