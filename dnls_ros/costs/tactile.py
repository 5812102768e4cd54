"""What a tactile sensor on a finger tells of the object that it touches, between two times.

Both costs compare the motion of the fingertip as the object sees it (Sodhi, Kaess, Mukadam,
Anderson: *Learning tactile models for factor graph-based estimation*, ICRA 2021, the tactile
factor): with y_k = object_k⁻¹ ee_k it is y_i⁻¹ y_j.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.costs.pose import log_jacobian
from dnls_ros.lie import SE2, local
from dnls_ros.problem import cost


@cost(batched=True)
def tactile_relative_pose(
    object_i: SE2, object_j: SE2, ee_i: SE2, ee_j: SE2, delta: SE2
) -> Tensor:
    """The finger moved by ``delta`` as seen from the object: r = Log(delta⁻¹ y_i⁻¹ y_j), (…, 3).

    Args:
        object_i, object_j: The object's poses.
        ee_i, ee_j: The fingertip's.
        delta: Measured y_i⁻¹ y_j [m, rad].
    """
    return local(delta, _seen(object_i, ee_i).between(_seen(object_j, ee_j)))


@tactile_relative_pose.linearization
def _tactile_relative_pose_linearized(
    object_i: SE2, object_j: SE2, ee_i: SE2, ee_j: SE2, delta: SE2
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    y_i, y_j = _seen(object_i, ee_i), _seen(object_j, ee_j)
    moved = y_i.between(y_j)
    r = local(delta, moved)
    right = log_jacobian(moved, r)
    # The object's Exp(−δ) before y is Exp(−Ad(y⁻¹) δ) after it.
    of_ee_i = -(right @ moved.inverse().adjoint())
    return r, (
        -(of_ee_i @ y_i.inverse().adjoint()),
        -(right @ y_j.inverse().adjoint()),
        of_ee_i,
        right,
    )


@cost(batched=True)
def tactile_relative_yaw(
    object_i: SE2, object_j: SE2, ee_i: SE2, ee_j: SE2, turn: Tensor
) -> Tensor:
    """The finger turned so much as seen from the object: angle of y_i⁻¹ y_j less the measured.

    Args:
        object_i, object_j: The object's poses.
        ee_i, ee_j: The fingertip's.
        turn: (…, 2) sine and cosine of the measured angle, of any common length but zero.
    """
    sine, cosine = _turn(object_i, object_j, ee_i, ee_j).unbind(-1)
    s, c = turn.unbind(-1)
    return torch.atan2(sine * c - cosine * s, cosine * c + sine * s).unsqueeze(-1)


@tactile_relative_yaw.jacobians
def _tactile_relative_yaw_jacobians(
    object_i: SE2, object_j: SE2, ee_i: SE2, ee_j: SE2, turn: Tensor
) -> tuple[Tensor, ...]:
    row = torch.zeros_like(object_i.tensor[..., None, :3])
    row[..., 2] = 1.0
    s, c = turn.unbind(-1)
    square = s.square() + c.square()
    of_turn = torch.stack([-c / square, s / square], -1).unsqueeze(-2)
    return row, -row, -row, row, of_turn


def _seen(object_: SE2, ee: SE2) -> SE2:
    return object_.between(ee)


def _turn(object_i: SE2, object_j: SE2, ee_i: SE2, ee_j: SE2) -> Tensor:
    """(…, 2) sine and cosine of the angle of y_i⁻¹ y_j."""
    moved = _seen(object_i, ee_i).between(_seen(object_j, ee_j))
    cosine, sine = moved.tensor[..., 2], moved.tensor[..., 3]
    return torch.stack([sine, cosine], -1)
