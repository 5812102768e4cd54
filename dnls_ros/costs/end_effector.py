"""Costs of where the tip of a chain of joints is, for inverse kinematics and calibration.

Everything is in the frame of the chain's root. Joint limits are the cost `hinge` with the chain's
``lower`` and ``upper``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dnls_ros.costs.kinematics import KinematicTree
from dnls_ros.costs.pose import log_jacobian
from dnls_ros.lie import SE3, local
from dnls_ros.problem import cost


@cost(batched=True)
def end_effector_pose(q: Tensor, root_T_tip: SE3, chain: KinematicTree) -> Tensor:
    """The tip against a pose: r = Log(root_T_tip⁻¹ f(q)), (…, 6) [m, rad], in the pose's axes.

    The pose is a target, a measurement, or a variable that other costs tie to the world.

    Args:
        q: (…, n) configuration of the chain [rad or m].
        root_T_tip: The pose; known or estimated.
        chain: A tree with one tip, see `KinematicTree.chain`.
    """
    return local(root_T_tip, chain.pose(q))


@end_effector_pose.linearization
def _end_effector_pose_linearized(
    q: Tensor, root_T_tip: SE3, chain: KinematicTree
) -> tuple[Tensor, tuple[Tensor, Callable[[], Tensor]]]:
    tip, jacobian = chain.linearize(q)
    xi = local(root_T_tip, tip)
    right = log_jacobian(tip, xi)
    return xi, (right @ jacobian, lambda: tip.ad(xi) - right)


@cost(batched=True)
def end_effector_position(q: Tensor, p_root: Tensor, chain: KinematicTree) -> Tensor:
    """The tip against a point, whatever its orientation: r = t(q) − p_root, (…, 3) [m].

    Args:
        q: (…, n) configuration of the chain [rad or m].
        p_root: (…, 3) the point; known or estimated [m].
        chain: A tree with one tip, see `KinematicTree.chain`.
    """
    return chain.pose(q).translation - p_root


@end_effector_position.linearization
def _end_effector_position_linearized(
    q: Tensor, p_root: Tensor, chain: KinematicTree
) -> tuple[Tensor, tuple[Tensor, Callable[[], Tensor]]]:
    tip, jacobian = chain.linearize(q)
    residual = tip.translation - p_root
    eye = torch.eye(3, dtype=q.dtype, device=q.device).expand(*residual.shape, 3)
    return residual, (tip.rotation.matrix() @ jacobian[..., :3, :], lambda: -eye)
