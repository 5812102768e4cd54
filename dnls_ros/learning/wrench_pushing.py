"""The planar pushing problem of windows with forces: see `PushingModel`, and `WrenchNet`."""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.costs import contact_normal, push_along_force
from dnls_ros.learned import ContactReading, WrenchNet
from dnls_ros.learning.pushing import EE, OBJECT, PushingModel
from dnls_ros.learning.windows import Windows
from dnls_ros.problem import Diagonal, FactorGroup, Huber

OUTLIER = 1.5
"""Standard deviations: a small force that trembles has any direction."""


class WrenchPushing(PushingModel[WrenchNet]):
    """Forces: the surface's normal, the object's way along them, how far the contact slides.

    Without noise of the name ``along`` forces are not used: they only say when the finger touches.
    """

    @property
    def uses_forces(self) -> bool:
        """Whether there are factors of forces."""
        return "along" in self.noise

    def readings(self, windows: Windows) -> ContactReading:
        """(N, T) of all states."""
        return self.net(windows.images[windows.frames])

    def motion_scale(self, windows: Windows, ratio: Tensor) -> Tensor:
        """(N, T − 1, 3): the contact moves further where it slides; the twist is not freer."""
        scale = super().motion_scale(windows, ratio)
        if not self.uses_forces:
            return scale
        slip = self.readings(windows).slip[:, 1:].to(scale)
        return scale * torch.cat([slip, slip, torch.ones_like(slip)], -1)

    def sensed(self, windows: Windows) -> dict[str, FactorGroup]:
        """The normal at each contact, at the centre of the round tip; the way between two."""
        if not self.uses_forces:
            return {}
        states = torch.arange(windows.rules.states)
        before, after = states[:-1], states[1:]
        reading = self.readings(windows)
        normal, force = (x.to(torch.float64) for x in (reading.normal, reading.force))
        root = windows.times.diff(dim=1).sqrt()[..., None]
        return {
            "normal": contact_normal(
                OBJECT[states],
                EE[states],
                torch.zeros_like(normal),
                normal,
                windows.field(),
                noise=Diagonal(reading.sigma.to(torch.float64)),
                loss=Huber(OUTLIER),
            ),
            "along": push_along_force(
                OBJECT[before],
                OBJECT[after],
                EE[after],
                force[:, 1:],
                noise=self.learned_noise("along").noise(root),
                loss=Huber(OUTLIER),
            ),
        }
