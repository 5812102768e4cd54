"""Files of trained models: ``model.pt`` holds tensors, ``model.json`` beside it says which.

Reading executes nothing: tensors only are restored, and the network is built from the card. The
card knows the weights by their hash, so that a card beside other weights is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from dnls_ros import __version__
from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.learned.encoder import TactileNet
from dnls_ros.learned.wrench import WrenchNet
from dnls_ros.problem.coding import DAMAGE

SCHEMA = "dnls_ros.model/1"
Network = TactileNet | WrenchNet
NETWORKS: Mapping[str, type[Network]] = {net.KIND: net for net in (TactileNet, WrenchNet)}
"""What a file can hold, by its kind."""


@dataclass(frozen=True)
class ModelCard:
    """What a model's file says of it.

    Attributes:
        network: Arguments of the network; ``tactile_pairs``: of the encoder (None: it takes
            features) and of the head.
        image: Size (width, height) and crop (left, top, width, height) of the images [px]; {}:
            it takes none.
        pair_offsets: Images between the two of a pair, in training.
        measured: Axes of the pairs.
        noise: Learned σ of the estimator's other factors, by name.
        data: SHA-256 of each recording that was trained on, by name.
        config: Of the training.
        figures: What training reached.
        weights: SHA-256 of model.pt; '' before it is written.
        software: Version that wrote it.
        kind: What the network does, one of `NETWORKS`.
        schema: Of this card.
    """

    network: Mapping[str, Any]
    image: Mapping[str, Any]
    pair_offsets: tuple[int, ...] = ()
    measured: tuple[str, ...] = ("x", "y", "yaw")
    noise: Mapping[str, list[float]] = field(default_factory=dict[str, list[float]])
    data: Mapping[str, str] = field(default_factory=dict[str, str])
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])
    weights: str = ""
    software: str = __version__
    kind: str = TactileNet.KIND
    schema: str = SCHEMA


def build_network(network: Mapping[str, Any], kind: str = TactileNet.KIND) -> Network:
    """The untrained network of a card.

    Raises:
        DnlsError: The description does not fit this version.
    """
    try:
        return NETWORKS[kind].build(network)
    except (KeyError, TypeError) as error:
        raise DnlsError(f"a network '{kind}' {dict(network)} cannot be built: {error}") from error


def save_model(path: Path | str, net: Network, card: ModelCard) -> ModelCard:
    """Writes the two files, each whole or not at all; an earlier model there is replaced.

    Args:
        path: Of the weights, ``….pt``.
        net: The network.
        card: About it, without the weights' hash and the kind.

    Returns:
        The card with both.

    Raises:
        OSError: They cannot be written.
    """
    weights, text = _paths(path)
    weights.parent.mkdir(parents=True, exist_ok=True)
    half = [p.with_name(p.name + ".part") for p in (weights, text)]
    try:
        torch.save({name: t.detach().cpu() for name, t in net.state_dict().items()}, half[0])
        content: dict[str, Any] = {**asdict(card), "kind": net.KIND, "weights": sha256(half[0])}
        half[1].write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(half[0], weights)
        os.replace(half[1], text)
    finally:
        for p in half:
            with suppress(OSError):
                p.unlink(missing_ok=True)
    return ModelCard(**content)


def read_model(path: Path | str) -> tuple[Network, ModelCard]:
    """A trained network and its card, on the CPU and ready to use.

    Raises:
        UnreadableInputError: A file is missing or damaged, or the two do not belong together, or
            are of a kind, a schema or a network that this version does not have.
    """
    weights, text = _paths(path)
    card = _card(text)
    try:
        found = sha256(weights)
        if found != card.weights:
            raise ValueError(
                f"its SHA-256 is {found[:12]}…, its card {text.name} says {card.weights[:12]}…: "
                "they are of two models"
            )
        state = torch.load(weights, map_location="cpu", weights_only=True)
        net = build_network(card.network, card.kind)
        _check_state(state, dict(net.state_dict()))
        net.load_state_dict(state)
    except (*DAMAGE, UnpicklingError) as error:
        said = str(error).splitlines() or [""]
        raise UnreadableInputError(f"model {weights} cannot be used: {said[0]}") from error
    return net.eval().requires_grad_(False), card


def sha256(path: Path | str) -> str:
    """Of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _paths(path: Path | str) -> tuple[Path, Path]:
    """The weights and the card, by the name of either."""
    return Path(path).with_suffix(".pt"), Path(path).with_suffix(".json")


def _card(path: Path) -> ModelCard:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a mapping was expected, got {type(content).__name__}")
        for name, known in (("schema", (SCHEMA,)), ("kind", tuple(NETWORKS))):
            if content.get(name) not in known:
                wanted = " or ".join(f"'{one}'" for one in known)
                raise ValueError(f"{name} is {content.get(name)!r}, this version reads {wanted}")
        wrong = {f.name for f in fields(ModelCard)} ^ set(content)
        if wrong:
            raise ValueError(f"fields {sorted(wrong)} are missing or unknown")
        lists: dict[str, Any] = {n: tuple(content[n]) for n in ("pair_offsets", "measured")}
        read: dict[str, Any] = {**content, **lists}
        return ModelCard(**read)
    except (OSError, ValueError, TypeError) as error:
        raise UnreadableInputError(f"model card {path} cannot be used: {error}") from error


def _check_state(state: Any, wanted: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless names and shapes are those of the network, and all is finite."""
    if not isinstance(state, dict) or set(state) != set(wanted):
        got = sorted(state) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"another architecture: it holds {got}, expected {sorted(wanted)}")
    for name, t in wanted.items():
        if state[name].shape != t.shape:
            raise ValueError(
                f"another architecture: '{name}' has shape {tuple(state[name].shape)}, expected "
                f"{tuple(t.shape)}"
            )
        if not bool(state[name].isfinite().all()):
            raise ValueError(f"'{name}' is not finite")
