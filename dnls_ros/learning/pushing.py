"""The planar pushing problem of a batch of windows, with learned measurements and noise.

Two tracks, the object and the fingertip (Sodhi et al., *Learning tactile models for factor
graph-based estimation*, ICRA 2021; Pineda et al., *Theseus*, NeurIPS 2022, §4): the object's first
pose, the fingertip's measured poses, quasi-static motion, contact by the signed distance, and what
a sensor says: relative poses of pairs of tactile images here, forces in `WrenchPushing`. The
factors and their noise are those of the estimator's window, so that what is learned can be used
there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from dnls_ros.costs import contact_in_plane, prior, quasi_static_push, tactile_relative_pose
from dnls_ros.learned import LearnedSigma, PairMotion, TactileNet
from dnls_ros.learning.windows import Windows
from dnls_ros.lie import SE2
from dnls_ros.problem import Diagonal, FactorGroup, Problem, Values, Variables

N = TypeVar("N", bound=nn.Module)
OBJECT = Variables("object", SE2)
EE = Variables("ee", SE2)


class PushingModel(nn.Module, Generic[N]):
    """All that is learned: the network of a sensor, and the noise of the other factors.

    Args:
        net: Makes measurements.
        start_sigma: Of the object's observed poses, which is not learned [m, m, rad].
        guesses: First noise of the other factors: ``ee`` [m, m, rad], ``motion`` [m, m, rad per
            √s, a turn counting with the object's c], ``contact`` [m].
    """

    start_sigma: Tensor

    def __init__(
        self,
        net: N,
        start_sigma: Sequence[float],
        guesses: Mapping[str, Sequence[float]],
    ) -> None:
        super().__init__()
        self.net = net
        self.noise = nn.ModuleDict({name: LearnedSigma(s) for name, s in guesses.items()})
        self.register_buffer("start_sigma", torch.tensor(list(start_sigma), dtype=torch.float64))

    def learned_noise(self, name: str) -> LearnedSigma:
        """The noise of a factor by its name."""
        found = self.noise[name]
        assert isinstance(found, LearnedSigma)
        return found

    def learned_noises(self) -> dict[str, LearnedSigma]:
        """All of them by name."""
        return {name: self.learned_noise(name) for name in self.noise}

    def sensed(self, windows: Windows) -> dict[str, FactorGroup]:
        """The factors of the sensor, by name."""
        raise NotImplementedError

    def motion_scale(self, windows: Windows, ratio: Tensor) -> Tensor:
        """(N, T − 1, 3): σ grows with √dt, and a turn counts by the ratio c [m]."""
        root = windows.times.diff(dim=1).sqrt()[..., None]
        return root * torch.cat([torch.ones_like(ratio), torch.ones_like(ratio), ratio], -1)

    def groups(self, windows: Windows) -> dict[str, FactorGroup]:
        """The factors of N windows, by name."""
        states = torch.arange(windows.rules.states)
        before, after = states[:-1], states[1:]
        observed = windows.rules.observed()
        ratio = windows.ratio[windows.shape][:, None, None]
        return {
            "start": prior(
                OBJECT[observed],
                SE2.from_xyt(windows.object[:, observed]),
                noise=Diagonal(self.start_sigma),
            ),
            "ee": prior(
                EE[states], SE2.from_xyt(windows.ee), noise=self.learned_noise("ee").noise()
            ),
            "motion": quasi_static_push(
                *(OBJECT[k] for k in (before, after)),
                *(EE[k] for k in (before, after)),
                ratio,
                noise=self.learned_noise("motion").noise(self.motion_scale(windows, ratio)),
            ),
            "contact": contact_in_plane(
                OBJECT[states],
                EE[states],
                windows.radius[:, None, None],
                windows.field(),
                noise=self.learned_noise("contact").noise(),
            ),
            **self.sensed(windows),
        }

    def problem(self, windows: Windows) -> Problem:
        """The problem of N windows."""
        return Problem(**self.groups(windows))


class TactilePushing(PushingModel[TactileNet]):
    """Pairs of tactile images: how the finger moved as the object sees it."""

    def pairs(self, windows: Windows) -> PairMotion:
        """Motions (N, M) of all pairs; every image is encoded once."""
        earlier, later = windows.rules.pairs()
        images = windows.images
        if self.net.encoder is None:
            return self.net(images[windows.frames], earlier, later)
        used, place = windows.frames.unique(return_inverse=True)
        features = self.net.encoder(images[used])[place]
        return self.net.head(features[:, earlier], features[:, later])

    def sensed(self, windows: Windows) -> dict[str, FactorGroup]:
        """One factor for each pair."""
        earlier, later = windows.rules.pairs()
        pair = self.pairs(windows)
        delta = SE2.from_xyt(pair.xyt.to(torch.float64))
        return {
            "tactile": tactile_relative_pose(
                *(OBJECT[k] for k in (earlier, later)),
                *(EE[k] for k in (earlier, later)),
                delta,
                noise=Diagonal(pair.sigma.to(torch.float64)),
            )
        }


def initial_values(windows: Windows) -> Values:
    """The object fixed to the fingertip since its pose was observed last."""
    ee, object_ = SE2.from_xyt(windows.ee), SE2.from_xyt(windows.object)
    states, observed = torch.arange(windows.rules.states), windows.rules.observed()
    last = observed[torch.searchsorted(observed, states, right=True) - 1]
    return _values(ee @ ee[:, last].between(object_[:, last]), ee)


def true_values(windows: Windows) -> Values:
    """The object's true poses, and the measured ones of the fingertip."""
    return _values(SE2.from_xyt(windows.object), SE2.from_xyt(windows.ee))


def _values(object_: SE2, ee: SE2) -> Values:
    states = torch.arange(ee.tensor.shape[1])
    return Values({"object": object_, "ee": ee}, {"object": states, "ee": states})
