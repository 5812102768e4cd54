"""Networks for tactile images: each image becomes a feature once, pairs of features a motion.

The motion is that of the fingertip as the object sees it, what `tactile_relative_pose` takes as
measured: a turn from a normalized sine and cosine, a translation, and one standard deviation per
axis (Sodhi, Kaess, Mukadam, Anderson, *Learning tactile models for factor graph-based estimation*,
ICRA 2021, §IV; there the noise is not learned).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnls_ros.errors import DnlsError

REACH = 3.0
"""By how much a pair's log σ may differ from that of all pairs."""
LENGTH = 0.01
"""Unit of translations inside of the network [m]."""
ANGLE = 0.1
"""Unit of turns inside of the network [rad]."""
SMALLEST = 16
"""Of an image's sides [px]: the convolutions halve them three times."""


@dataclass(frozen=True, eq=False)
class PairMotion:
    """What a pair of features says.

    Attributes:
        turn: (…, 2) sine and cosine, of unit length.
        translation: (…, 2) [m].
        log_information: (…, 3) logarithm of the diagonal of the square-root information of x, y
            and yaw: −log σ.
    """

    turn: Tensor
    translation: Tensor
    log_information: Tensor

    @property
    def sigma(self) -> Tensor:
        """(…, 3) standard deviations of x, y, yaw [m, m, rad]."""
        return (-self.log_information).exp()

    @property
    def xyt(self) -> Tensor:
        """(…, 3) x, y, yaw [m, m, rad]."""
        yaw = torch.atan2(self.turn[..., :1], self.turn[..., 1:])
        return torch.cat([self.translation, yaw], -1)


class TactileEncoder(nn.Module):
    """An image (…, 3, H, W), 0 … 1 less the background, to a feature (…, F).

    Args:
        size: (W, H) of the images [px].
        features: F.
        channels: Of the three convolutions, each of which halves the image.
        scale: What images are divided by: their typical deviation from the background.
    """

    scale: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        features: int = 16,
        channels: Sequence[int] = (16, 24, 32),
        scale: float = 0.1,
    ) -> None:
        super().__init__()
        if min(size) < SMALLEST or len(channels) != 3:
            raise DnlsError(
                f"tactile encoder: size {tuple(size)} and channels {tuple(channels)}; expected "
                f"sides of at least {SMALLEST} px and three numbers of channels"
            )
        self.size = int(size[0]), int(size[1])
        layers: list[nn.Module] = []
        before = 3
        for count, kernel in zip(channels, (5, 3, 3), strict=True):
            layers += [nn.Conv2d(before, count, kernel, 2, kernel // 2), nn.ReLU()]
            before = count
        rows, columns = ((s + 7) // 8 for s in (self.size[1], self.size[0]))
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(before * rows * columns, features)
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, images: Tensor) -> Tensor:
        """Features (…, F)."""
        width, height = self.size
        if images.shape[-3:] != (3, height, width):
            raise DnlsError(
                f"tactile encoder: images have shape {tuple(images.shape[-3:])}, expected "
                f"{(3, height, width)}; the model was made for {width} × {height} px"
            )
        flat = images.reshape(-1, 3, height, width) / self.scale
        return self.last(self.layers(flat).flatten(1)).reshape(*images.shape[:-3], -1)


class PairHead(nn.Module):
    """Two features (…, F) to the motion between their images.

    Args:
        features: F.
        hidden: Width of the two hidden layers.
        sigma: Standard deviations of x, y, yaw before training [m, m, rad].
    """

    def __init__(
        self,
        features: int,
        hidden: int = 64,
        sigma: Sequence[float] = (2e-3, 2e-3, 3e-2),
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * features, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, 7),
        )
        self.log_sigma = nn.Parameter(torch.tensor(list(sigma)).log())

    def forward(self, earlier: Tensor, later: Tensor) -> PairMotion:
        """The motion from the earlier image to the later one."""
        out = self.layers(torch.cat([earlier, later - earlier], -1))
        sine, cosine, move, noise = out.split((1, 1, 2, 3), -1)
        turn = F.normalize(torch.cat([ANGLE * sine, 1.0 + ANGLE * cosine], -1), dim=-1)
        log_information = -self.log_sigma - REACH * torch.tanh(noise / REACH)
        return PairMotion(turn, LENGTH * move, log_information)


class TactileNet(nn.Module):
    """Encoder and head: what a file of kind ``tactile_pairs`` holds.

    Args:
        encoder: Images to features; None where a recording has features instead of images.
        head: Features to motions.
    """

    KIND: ClassVar[str] = "tactile_pairs"

    def __init__(self, encoder: TactileEncoder | None, head: PairHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    @classmethod
    def build(cls, network: Mapping[str, Any]) -> Self:
        """The untrained network of a card's description."""
        encoder = network["encoder"]
        return cls(
            None if encoder is None else TactileEncoder(**encoder), PairHead(**network["head"])
        )

    @property
    def log_sigma(self) -> nn.Parameter:
        """log σ of all pairs: their noise but for what the head says of each."""
        return self.head.log_sigma

    def forward(self, images: Tensor, earlier: Tensor, later: Tensor) -> PairMotion:
        """Motions (…, M) of pairs.

        Args:
            images: (…, T, 3, H, W) or features (…, T, F): each is encoded once.
            earlier, later: (M,) which of the T make a pair.
        """
        features = images if self.encoder is None else self.encoder(images)
        return self.head(features[..., earlier, :], features[..., later, :])
