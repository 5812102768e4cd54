"""What training minimizes: the error of the solved poses, or the likelihood of the true ones.

The first sees the whole problem: what pairs have in common, where the quasi-static model errs,
what one factor's error costs beside another's. The second, the *surrogate*, fits each factor to
its own residual at the truth, as if factors were independent. The fingertip's true pose is in no
recording: its noise is left out there, and stays what it was.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dnls_ros.learning.windows import Windows
from dnls_ros.lie import SE2
from dnls_ros.problem import Diagonal, FactorGroup, Problem, Values

LEVER = 0.1
"""What a turn by one radian counts [m]."""
SMOOTH = 1e-4
"""Below this the root of the loss is rounded off [m]."""


def pose_errors(values: Values, windows: Windows) -> Tensor:
    """(N, T, 3) the object's solved poses less the true ones: world axes [m, m, rad]."""
    solved = values["object"]
    assert isinstance(solved, SE2)
    true = SE2.from_xyt(windows.object.to(solved.tensor))
    turn = true.rotation.between(solved.rotation).log()
    return torch.cat([solved.translation - true.translation, turn], -1)


def tracking_loss(errors: Tensor) -> Tensor:
    """Root mean square of ‖(x, y, LEVER · yaw)‖ in each window, averaged over windows [mm]."""
    squares = errors[..., :2].square().sum(-1) + (LEVER * errors[..., 2]).square()
    return 1e3 * (squares.mean(-1) + SMOOTH**2).sqrt().mean()


def ate(errors: Tensor) -> tuple[float, float]:
    """Root mean square over windows and states of position [m] and yaw [rad]."""
    position = errors[..., :2].square().sum(-1).mean().sqrt()
    return float(position), float(errors[..., 2].square().mean().sqrt())


def negative_log_likelihood(problem: Problem, at: Values) -> Tensor:
    """−log p of all factors of learned noise at given values, per residual.

    ½ r²/σ² + log σ + ½ log 2π, averaged over the residuals of each group, then over groups.
    """
    structure = problem.structure(at)
    parts: list[Tensor] = []
    for name, group in problem.items():
        if name in ("start", "ee"):
            continue
        assert isinstance(group, FactorGroup)
        assert isinstance(group.noise, Diagonal)
        white = group.whitened(at, structure.slots[name])
        parts.append((0.5 * white.square() + group.noise.sigmas.log()).mean())
    return torch.stack(parts).mean() + 0.5 * math.log(2 * math.pi)
