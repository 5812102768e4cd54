"""A network for forces: what the force on a pushing finger says of the surface it touches.

A force is normal to the surface only up to friction: while the finger sticks it lies anywhere in
the friction cone, while it slides it lies on that edge of the cone which opposes the sliding. The
angle between the force and the finger's velocity tells which: it is small where the finger sticks,
and large, to one side or the other, where it slides. So this angle alone is what the network sees.
It gives the turn from the force to the normal, how well that is known, and how much further than
usual the contact may move along the surface.

What it sees does not change with the finger's axes, the unit of force or the object's weight, and
it is mirrored with the motion: those are not learned, they are built in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dnls_ros.learned.encoder import REACH

Array = NDArray[np.float64]
TURN = 0.5
"""Unit of turns inside of the network [rad]."""
SMALL = 1e-6
"""Square below which a force [N²] or a velocity [m²/s²] has no direction."""


@dataclass(frozen=True, eq=False)
class ContactReading:
    """What a force says of the contact.

    Attributes:
        force: (…, 2) along the force, of unit length, the way that the finger moves.
        normal: (…, 2) along the surface's normal, of unit length, either way; the finger's axes.
        log_information: (…, 1) −log σ of its angle.
        log_slip: (…, 1) log of the factor on σ of the contact's motion along the object.
    """

    force: Tensor
    normal: Tensor
    log_information: Tensor
    log_slip: Tensor

    @property
    def sigma(self) -> Tensor:
        """(…, 1) of the normal's angle [rad]."""
        return (-self.log_information).exp()

    @property
    def slip(self) -> Tensor:
        """(…, 1) the factor on σ of the contact's motion along the object."""
        return self.log_slip.exp()


def push_signals(wrench: Array, ee: Array, stamps: Array) -> Array:
    """What `WrenchNet` sees: forces, and the finger's velocity since the step before.

    Args:
        wrench: (T, 3) f_x, f_y, τ_z in the finger's axes [N, N m].
        ee: (T, 3) the finger's x, y, yaw [m, rad]; T ≥ 2.
        stamps: (T,) [s].

    Returns:
        (T, 5) f_x, f_y [N], τ_z [N m], v_x, v_y [m/s] in the finger's axes.
    """
    velocity = np.diff(ee[:, :2], axis=0) / np.diff(stamps)[:, None]
    velocity = np.concatenate([velocity[:1], velocity])
    c, s = np.cos(ee[:, 2]), np.sin(ee[:, 2])
    x, y = velocity.T
    return np.column_stack([wrench, c * x + s * y, c * y - s * x])


class WrenchNet(nn.Module):
    """What a file of kind ``wrench_contact`` holds. Untrained, it gives the force as the normal.

    Args:
        hidden: Width of the two hidden layers.
        sigma: Of the normal's angle before training [rad].
    """

    KIND: ClassVar[str] = "wrench_contact"

    def __init__(self, hidden: int = 16, sigma: float = 0.3) -> None:
        super().__init__()
        last = nn.Linear(hidden, 3)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), last
        )
        self.log_sigma = nn.Parameter(torch.tensor([sigma]).log())

    @classmethod
    def build(cls, network: Mapping[str, Any]) -> Self:
        """The untrained network of a card's description."""
        return cls(**network)

    def forward(self, signals: Tensor) -> ContactReading:
        """Readings (…) of signals (…, 5), see `push_signals`.

        A finger at rest is read as one that moves along the force, no force as one along x.
        """
        x_axis = signals.new_tensor([1.0, 0.0]).expand(*signals.shape[:-1], 2)
        force, velocity = _unit(signals[..., :2], x_axis), signals[..., 3:]
        along = _dot(force, velocity)
        # The object's force on the finger or the finger's on the object: what pushes goes forward.
        push = torch.where(along < 0, -force, force)
        forward = _unit(velocity, push)
        sine = push[..., :1] * forward[..., 1:] - push[..., 1:] * forward[..., :1]
        out = self.layers(torch.cat([sine.abs(), _dot(push, forward)], -1))
        turn, noise, slip = out.split(1, -1)
        angle = TURN * torch.tanh(sine * turn)
        c, s = angle.cos(), angle.sin()
        x, y = push.split(1, -1)
        return ContactReading(
            push,
            torch.cat([c * x - s * y, s * x + c * y], -1),
            -self.log_sigma - REACH * torch.tanh(noise / REACH),
            REACH * torch.tanh(slip / REACH),
        )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _unit(v: Tensor, instead: Tensor) -> Tensor:
    """Of unit length; another where there is no direction."""
    known = v.square().sum(-1, keepdim=True) > SMALL
    return torch.where(known, torch.nn.functional.normalize(v, dim=-1), instead)
