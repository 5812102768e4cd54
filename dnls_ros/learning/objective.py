"""The outer objective: windows in, the training loss out, through the inner solve."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dnls_ros.diff import solve
from dnls_ros.errors import DnlsError
from dnls_ros.learned import TactileNet, WrenchNet, build_network, read_model
from dnls_ros.learning.config import ADJOINTS, TrainConfig
from dnls_ros.learning.losses import (
    ate,
    negative_log_likelihood,
    pose_errors,
    tracking_loss,
)
from dnls_ros.learning.pushing import (
    PushingModel,
    TactilePushing,
    initial_values,
    true_values,
)
from dnls_ros.learning.windows import Windows
from dnls_ros.learning.wrench_pushing import WrenchPushing
from dnls_ros.linear import BlockCholesky
from dnls_ros.optim import GaussNewton, LevenbergMarquardt, Solution, Tolerances

Trained = PushingModel[TactileNet] | PushingModel[WrenchNet]
PART = 64
"""Windows that are evaluated at once."""


@dataclass(frozen=True)
class Figures:
    """How good a model is on some windows.

    Attributes:
        loss: What is minimized.
        ate, are: Root mean square error of the object's position [m] and yaw [rad].
        failed: Share of the windows without a solution.
    """

    loss: float
    ate: float
    are: float
    failed: float


class Objective(nn.Module):
    """The loss of a batch of windows.

    Args:
        model: What is trained.
        config: How windows are solved, and solutions differentiated.
    """

    def __init__(self, model: Trained, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, windows: Windows, loss: str) -> Tensor:
        """The loss by its name, see `TrainConfig`; NaN if no window can be solved."""
        if loss == "likelihood":
            return negative_log_likelihood(self.model.problem(windows), true_values(windows))
        found = self.solve(windows)
        return tracking_loss(pose_errors(found.values, windows)[found.cost.isfinite()])

    def solve(self, windows: Windows) -> Solution:
        """The solution of a batch, differentiable in all that is trained."""
        step = self.config.step_size
        return solve(
            self.model.problem(windows),
            initial_values(windows),
            GaussNewton(step) if step else LevenbergMarquardt(),
            linear=BlockCholesky(),
            adjoint=ADJOINTS[self.config.adjoint],
            tolerances=Tolerances(1e-8, 1e-8, 0.0, self.config.iterations),
        )

    def evaluate(self, windows: Windows, loss: str) -> Figures:
        """The figures of all windows, without derivatives."""
        errors: list[Tensor] = []
        losses: list[Tensor] = []
        with torch.no_grad():
            for part in torch.arange(len(windows)).split(PART):
                some = windows.select(part)
                found = self.solve(some)
                errors.append(pose_errors(found.values, some)[found.cost.isfinite()])
                if loss == "likelihood":
                    losses.append(self(some, loss) * len(some))
        every = torch.cat(errors)
        value = torch.stack(losses).sum() / len(windows) if losses else tracking_loss(every)
        return Figures(float(value), *ate(every), 1.0 - len(every) / len(windows))


def make_model(config: TrainConfig, windows: Windows) -> tuple[Trained, dict[str, object]]:
    """The untrained model, or the one that a configuration begins with; and its description.

    Args:
        config: Of the training.
        windows: What it is trained on: their images say how many pixels it sees, and how much
            those differ from the background.

    Raises:
        DnlsError: The model to begin with is of another kind or architecture.
    """
    torch.manual_seed(config.seed)
    network = describe_network(config, windows)
    if config.model:
        net, card = read_model(config.model)
        found, wanted = (card.kind, card.network), (config.kind, network)
        if (found[0], _shape_of(found[1])) != (wanted[0], _shape_of(wanted[1])):
            raise DnlsError(
                f"model {config.model} is of another kind or architecture: {found}, the "
                f"configuration says {wanted}"
            )
        network = dict(card.network)
    else:
        net = build_network(network, config.kind)
    net.train().requires_grad_(config.mode == "weights_and_model")
    net.log_sigma.requires_grad_(True)
    start, guesses = config.noise.start, config.noise.guesses()
    if isinstance(net, TactileNet):
        return TactilePushing(net, start, guesses), network
    if config.noise.normal:
        guesses["along"] = config.noise.along
    return WrenchPushing(net, start, guesses), network


def describe_network(config: TrainConfig, windows: Windows) -> dict[str, object]:
    """Arguments of the network, for a model's card."""
    wanted = config.network
    if config.kind == WrenchNet.KIND:
        return {"hidden": wanted.hidden, "sigma": next(iter(config.noise.normal), 1.0)}
    head = {"hidden": wanted.hidden, "sigma": list(wanted.sigma)}
    if windows.images.ndim == 2:
        return {"encoder": None, "head": {"features": windows.images.shape[1], **head}}
    height, width = windows.images.shape[-2:]
    encoder = {
        "size": [width, height],
        "features": wanted.features,
        "channels": list(wanted.channels),
        "scale": float(windows.images.std()),
    }
    return {"encoder": encoder, "head": {"features": wanted.features, **head}}


def _shape_of(network: object) -> object:
    """The description without what is no matter of architecture."""
    assert isinstance(network, dict)
    return {
        part: _shape_of(inner) if isinstance(inner, dict) else inner
        for part, inner in network.items()
        if part not in ("scale", "sigma")
    }
