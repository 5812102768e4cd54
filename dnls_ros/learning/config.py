"""What a training run is made of: recordings, windows, network, noise, and how it is optimized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dnls_ros.diff import Adjoint, DirectLoss, Implicit, Truncated, Unroll
from dnls_ros.errors import DnlsError
from dnls_ros.io.files import read_yaml
from dnls_ros.io.settings import filled
from dnls_ros.learned import NETWORKS, TactileNet
from dnls_ros.learning.handover import EstimatorNames
from dnls_ros.learning.windows import WindowRules

MODES = ("weights_and_model", "weights_only")
LOSSES = ("tracking", "likelihood")
ADJOINTS: Mapping[str, Adjoint] = {
    "implicit": Implicit(tolerance=1e-6),
    "implicit_gauss_newton": Implicit("gauss_newton"),
    "unroll": Unroll(),
    "truncated_5": Truncated(5),
    "truncated_10": Truncated(10),
    "direct_loss": DirectLoss(),
}
"""How solutions are differentiated, by name."""


@dataclass(frozen=True)
class NetworkConfig:
    """The network of pairs.

    Attributes:
        features: Of an image.
        channels: Of the three convolutions.
        hidden: Width of the head's layers.
        sigma: Of a pair before training: x, y, yaw [m, m, rad].
    """

    features: int = 16
    channels: tuple[int, ...] = (16, 24, 32)
    hidden: int = 64
    sigma: tuple[float, ...] = (0.002, 0.002, 0.03)


@dataclass(frozen=True)
class NoiseConfig:
    """Noise of the other factors before training, and what is not learned.

    Attributes:
        start: Of the object's first pose; it stays [m, m, rad].
        ee: Of the fingertip's poses [m, m, rad].
        motion: Of quasi-static motion, a turn counting with the object's c [m, m, rad per √s].
        contact: Of the distance of a fingertip that touches [m].
        normal: Of the angle from a force to the surface's normal, for kind ``wrench_contact``
            [rad]; (): forces only say when the finger touches.
        along: Of the object's way across the force, for the same [m per √s].
    """

    start: tuple[float, ...] = (0.001, 0.001, 0.005)
    ee: tuple[float, ...] = (0.001, 0.001, 0.005)
    motion: tuple[float, ...] = (0.01, 0.01, 0.1)
    contact: tuple[float, ...] = (0.001,)
    normal: tuple[float, ...] = (0.3,)
    along: tuple[float, ...] = (0.01,)

    def __post_init__(self) -> None:
        lengths = {"start": 3, "ee": 3, "motion": 3, "contact": 1, "normal": 1, "along": 1}
        for name, count in lengths.items():
            given = getattr(self, name)
            if name == "normal" and not given:
                continue
            if len(given) != count or not all(s > 0 for s in given):
                raise DnlsError(f"noise.{name} must be {count} positive numbers, got {given}")

    def guesses(self) -> dict[str, tuple[float, ...]]:
        """What is learned."""
        return {"ee": self.ee, "motion": self.motion, "contact": self.contact}


@dataclass(frozen=True)
class TrainConfig:
    """One training run; a YAML file has the same names.

    Attributes:
        kind: Of the network, one of `NETWORKS`: ``tactile_pairs`` of images, ``wrench_contact`` of
            forces.
        data: JSON files of recordings, see `dnls_ros.io.tactile_json`.
        validation: Others, to choose the best epoch by; none: a share of the recordings of
            ``data``, see ``val_ratio``.
        val_ratio: That share.
        model: A trained model's file to begin with; '': first weights are drawn.
        mode: ``weights_and_model``, or ``weights_only``: only noise is trained, that of the
            model's pairs by one factor per axis, that of forces without a model by one for all.
        loss: ``tracking``: the error of the solved object; ``likelihood``: of each factor at the
            truth, without solving (the surrogate).
        pretrain_epochs: With ``tracking``: so many epochs of ``likelihood`` before.
        epochs: All, those included.
        batch: Windows in a step, all processes together.
        lr, lr_noise: Of Adam at first, for the network and for noise; falling to 0 by a cosine.
        clip: Largest norm of a gradient.
        patience: Epochs without a better validation after which it stops.
        seed: Of first weights and of the order of windows.
        adjoint: How solutions are differentiated, one of `ADJOINTS`.
        iterations: Of the inner solver at most.
        step_size: Of Gauss–Newton steps as inner solver; 0: Levenberg–Marquardt.
        windows: How recordings are cut.
        network: The network.
        noise: The noise before training.
        estimator: Whose parameters take over what was learned; of kind ``tactile_pairs`` only.
    """

    kind: str = TactileNet.KIND
    data: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    val_ratio: float = 0.15
    model: str = ""
    mode: str = "weights_and_model"
    loss: str = "tracking"
    pretrain_epochs: int = 10
    epochs: int = 30
    batch: int = 16
    lr: float = 0.002
    lr_noise: float = 0.02
    clip: float = 5.0
    patience: int = 10
    seed: int = 0
    adjoint: str = "implicit"
    iterations: int = 20
    step_size: float = 0.0
    windows: WindowRules = field(default_factory=WindowRules)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    estimator: EstimatorNames = field(default_factory=EstimatorNames)

    def __post_init__(self) -> None:
        choices = {"kind": NETWORKS, "mode": MODES, "loss": LOSSES, "adjoint": ADJOINTS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise DnlsError(
                    f"training: {name} is '{getattr(self, name)}', expected one of {tuple(known)}"
                )
        least = {"epochs": 1, "batch": 1, "patience": 1, "iterations": 1, "pretrain_epochs": 0}
        bad = {n: getattr(self, n) for n, low in least.items() if getattr(self, n) < low}
        rates = ("lr", "lr_noise", "clip")
        bad |= {n: getattr(self, n) for n in rates if not getattr(self, n) > 0}
        pairs = self.kind == TactileNet.KIND
        if pairs and not self.windows.pair_offsets:
            raise DnlsError(f"training: kind '{self.kind}' needs windows.pair_offsets")
        if pairs and self.mode == "weights_only" and not self.model:
            raise DnlsError("training: mode 'weights_only' trains the noise of a model: name it")
        if not 0 < self.val_ratio < 1:
            bad["val_ratio"] = self.val_ratio
        if not 0 <= self.step_size <= 1:
            bad["step_size"] = self.step_size
        if bad:
            raise DnlsError(f"training: out of range: {bad}")

    @property
    def phases(self) -> tuple[tuple[str, int], ...]:
        """(loss, epochs) one after another."""
        if self.loss == "likelihood":
            return (("likelihood", self.epochs),)
        first = min(self.pretrain_epochs, self.epochs - 1)
        phases = (("likelihood", first), ("tracking", self.epochs - first))
        return phases if first else phases[1:]

    def plain(self) -> dict[str, Any]:
        """As a mapping of lists, numbers and text, which JSON and YAML can hold."""
        return _plain(asdict(self))


def load_config(path: Path | str) -> TrainConfig:
    """A configuration from a YAML file; files it names are sought beside it.

    Raises:
        UnreadableInputError: The file cannot be read, or names a setting that there is not.
        DnlsError: A setting is out of range.
    """
    path = Path(path)
    content = read_yaml(path)
    for name in ("data", "validation"):
        if isinstance(content.get(name), list):
            content[name] = [str(path.parent / str(file)) for file in content[name]]
    if content.get("model"):
        content["model"] = str(path.parent / str(content["model"]))
    return filled(TrainConfig(), content, str(path))


def config_from(content: Mapping[str, Any], where: str) -> TrainConfig:
    """The configuration that `TrainConfig.plain` gave."""
    return filled(TrainConfig(), content, where)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
