"""The planar pushing problem of windows with forces: see `PushingModel`, and `WrenchNet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dnls_ros.costs import contact_normal
from dnls_ros.learned import ContactReading, WrenchNet
from dnls_ros.learning.pushing import EE, OBJECT, PushingModel
from dnls_ros.learning.windows import Windows
from dnls_ros.problem import Diagonal, FactorGroup


class WrenchPushing(PushingModel[WrenchNet]):
    """Forces: the surface's normal where the finger touches, and how far the contact slides.

    Args:
        net: Makes readings of forces.
        start_sigma, guesses: See `PushingModel`.
        normal: Whether forces are used at all; without, they only say when the finger touches.
    """

    def __init__(
        self,
        net: WrenchNet,
        start_sigma: Sequence[float],
        guesses: Mapping[str, Sequence[float]],
        normal: bool = True,
    ) -> None:
        super().__init__(net, start_sigma, guesses)
        self.normal = normal

    def readings(self, windows: Windows) -> ContactReading:
        """(N, T) of all states."""
        return self.net(windows.images[windows.frames])

    def motion_scale(self, windows: Windows, ratio: Tensor) -> Tensor:
        """(N, T − 1, 3): the contact moves further where it slides; the twist is not freer."""
        scale = super().motion_scale(windows, ratio)
        if not self.normal:
            return scale
        slip = self.readings(windows).slip[:, 1:].to(scale)
        return scale * torch.cat([slip, slip, torch.ones_like(slip)], -1)

    def sensed(self, windows: Windows) -> dict[str, FactorGroup]:
        """The normal at each state's contact, at the centre of the round tip."""
        if not self.normal:
            return {}
        states = torch.arange(windows.rules.states)
        reading = self.readings(windows)
        along = reading.normal.to(torch.float64)
        return {
            "normal": contact_normal(
                OBJECT[states],
                EE[states],
                torch.zeros_like(along),
                along,
                windows.field(),
                noise=Diagonal(reading.sigma.to(torch.float64)),
            )
        }
