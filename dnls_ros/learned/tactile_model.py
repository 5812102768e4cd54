"""A trained network as the tactile front end uses it: NumPy in and out, one image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.learned.encoder import TactileNet
from dnls_ros.learned.model_file import ModelCard, read_model

Array = NDArray[np.float64]
AXES = ("x", "y", "yaw")


@dataclass(frozen=True, eq=False)
class TrainedTactileModel:
    """Features of images, motions of pairs.

    Attributes:
        net: The network, not in training.
        card: What its file says.
    """

    net: TactileNet
    card: ModelCard

    @property
    def hash(self) -> str:
        """Of the weights, 16 hexadecimal digits."""
        return self.card.weights[:16]

    @property
    def measured(self) -> tuple[str, ...]:
        """Which axes its pairs measure."""
        return self.card.measured

    def feature(self, image: NDArray[np.float32]) -> Array:
        """(F,) of one image (3, H, W), 0 … 1 less the background.

        Raises:
            DnlsError: The image has another size, or the model takes no images.
        """
        if self.net.encoder is None:
            raise DnlsError(f"model {self.hash} was trained on features: it takes no images")
        with torch.inference_mode():
            return _numbers(self.net.encoder(torch.as_tensor(image, dtype=torch.float32)))

    def pairs(self, earlier: Array, later: Array) -> tuple[Array, Array]:
        """Motions (K, 3) x y yaw [m, rad] between features (K, F), and their sigmas (K, 3)."""
        with torch.inference_mode():
            both = (torch.as_tensor(np.array(f), dtype=torch.float32) for f in (earlier, later))
            found = self.net.head(*both)
            return _numbers(found.xyt), _numbers(found.sigma)


def load_model(path: Path | str, image_size: Sequence[int] | None = None) -> TrainedTactileModel:
    """The model of a file, ready for the front end.

    Args:
        path: ``model.pt`` or ``model.json``.
        image_size: (width, height) of the images that it will get [px]; None: not known.

    Raises:
        UnreadableInputError: See `read_model`.
        DnlsError: It is of another kind, or was trained on images of another size.
    """
    net, card = read_model(path)
    if not isinstance(net, TactileNet):
        raise DnlsError(
            f"model {path} is of kind '{card.kind}': images of a tactile sensor need "
            f"'{TactileNet.KIND}'"
        )
    if image_size is not None and tuple(card.image["size"]) != tuple(image_size):
        raise DnlsError(
            f"model {path} was trained on images of {card.image['size']} px, got "
            f"{list(image_size)}: set image.size"
        )
    return TrainedTactileModel(net, card)


def _numbers(t: Tensor) -> Array:
    return t.numpy().astype(np.float64)
