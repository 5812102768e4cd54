"""Recordings of tactile pushing in the format of the published set (Sodhi et al., ICRA 2021).

One JSON file holds several trajectories, all under the same keys: ``obj_poses_2d`` and
``ee_poses_2d`` (T × [x, y, yaw], m and rad), ``img_feats`` (T × F), ``contact_episode`` and
``contact_flag`` (T). Ours may add ``stamps`` [s], ``wrench`` (T × [f_x, f_y, τ_z] in the
finger's axes, N and Nm), ``object`` (shape and size of each), ``tip_radius`` [m] and ``images``,
the name of an .npz beside it with (T, H, W, 3) of 0 … 255 per trajectory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.files import write_text

Array = NDArray[np.float64]
POSES = ("obj_poses_2d", "ee_poses_2d")
NEEDED = (*POSES, "contact_episode", "contact_flag")
PUBLISHED_SIZE = (0.2363, 0.1579)
"""Of the rectangle in the published recordings, whose files do not say it [m]."""


@dataclass(frozen=True, eq=False)
class TactileTrajectory:
    """What one push, or several, were recorded as.

    Attributes:
        object, ee: (T, 3) x, y, yaw of object (truth) and fingertip (measured) [m, rad].
        features: (T, F), F = 0 if there are none.
        episode, contact: (T,) number of the push; whether it touches.
        stamps: (T,) [s].
        wrench: (T, 3) f_x, f_y, τ_z in the finger's axes; None: not recorded.
        images: (T, H, W, 3) uint8; None: not recorded.
        shape, size: See `shape_of`.
        tip_radius: [m].
    """

    object: Array
    ee: Array
    features: Array
    episode: NDArray[np.int64]
    contact: NDArray[np.bool_]
    stamps: Array
    wrench: Array | None = None
    images: NDArray[np.uint8] | None = None
    shape: str = "rect"
    size: tuple[float, ...] = PUBLISHED_SIZE
    tip_radius: float = 0.0

    def __len__(self) -> int:
        return len(self.object)

    def part(self, first: int, last: int) -> TactileTrajectory:
        """Steps first … last − 1."""
        rows = {
            name: value[first:last] if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }
        return TactileTrajectory(**rows)


def write_tactile_json(path: Path | str, trajectories: Sequence[TactileTrajectory]) -> Path:
    """Writes a file, and its images beside it; an earlier one is replaced."""
    path = Path(path)
    content: dict[str, Any] = {
        "obj_poses_2d": [t.object.tolist() for t in trajectories],
        "ee_poses_2d": [t.ee.tolist() for t in trajectories],
        "img_feats": [t.features.tolist() for t in trajectories],
        "contact_episode": [t.episode.tolist() for t in trajectories],
        "contact_flag": [t.contact.astype(int).tolist() for t in trajectories],
        "stamps": [t.stamps.tolist() for t in trajectories],
        "object": [{"shape": t.shape, "size": list(t.size)} for t in trajectories],
        "tip_radius": [t.tip_radius for t in trajectories],
    }
    if all(t.wrench is not None for t in trajectories):
        content["wrench"] = [t.wrench.tolist() for t in trajectories if t.wrench is not None]
    images = {f"{k:05d}": t.images for k, t in enumerate(trajectories) if t.images is not None}
    if len(images) == len(trajectories) and images:
        content["images"] = f"{path.stem}_images.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path.with_name(content["images"]), **images)  # pyright: ignore[reportArgumentType]
    write_text(path, json.dumps(content) + "\n")
    return path


def read_tactile_json(path: Path | str) -> list[TactileTrajectory]:
    """The trajectories of a file.

    Raises:
        UnreadableInputError: It is no JSON, a key is missing, or lengths differ.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnreadableInputError(f"{path}: no tactile pushing data: {error}") from error
    missing = [k for k in NEEDED if not isinstance(content, dict) or k not in content]
    if missing:
        raise UnreadableInputError(
            f"{path}: no tactile pushing data: keys {missing} are missing; expected "
            f"{list(NEEDED)}, a list of trajectories under each"
        )
    counts = {key: len(content[key]) for key in NEEDED}
    if len(set(counts.values())) > 1:
        raise UnreadableInputError(f"{path}: different numbers of trajectories: {counts}")
    images = _images(path, content)
    return [_trajectory(path, content, k, images) for k in range(counts[POSES[0]])]


def _images(path: Path, content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if "images" not in content:
        return None
    file = path.with_name(Path(str(content["images"])).name)
    try:
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError) as error:
        raise UnreadableInputError(f"{path}: its images cannot be read: {error}") from error


def _trajectory(
    path: Path, content: Mapping[str, Any], k: int, images: Mapping[str, Any] | None
) -> TactileTrajectory:
    def numbers(key: str, width: int | None) -> Array:
        try:
            rows = np.asarray(content[key][k], dtype=np.float64)
        except (ValueError, TypeError, IndexError) as error:
            raise UnreadableInputError(f"{path}: '{key}' of trajectory {k}: {error}") from error
        good = rows.ndim == (1 if width is None else 2) and np.isfinite(rows).all()
        if not good or (width is not None and rows.shape[1] != width):
            wanted = "(T,)" if width is None else f"(T, {width})"
            raise UnreadableInputError(
                f"{path}: '{key}' of trajectory {k} must be {wanted}, finite; got {rows.shape}"
            )
        return rows

    poses = [numbers(key, 3) for key in POSES]
    count = len(poses[0])
    features = np.asarray(content.get("img_feats", {k: []})[k], dtype=np.float64)
    features = features.reshape(count, -1) if features.size else np.zeros((count, 0))
    stamps = numbers("stamps", None) if "stamps" in content else np.arange(count, dtype=float)
    kind = content["object"][k] if "object" in content else {}
    made = TactileTrajectory(
        *poses,
        features,
        numbers("contact_episode", None).astype(np.int64),
        numbers("contact_flag", None) != 0,
        stamps,
        numbers("wrench", 3) if "wrench" in content else None,
        None if images is None else images[f"{k:05d}"],
        str(kind.get("shape", "rect")),
        tuple(float(s) for s in kind.get("size", PUBLISHED_SIZE)),
        float(content["tip_radius"][k]) if "tip_radius" in content else 0.0,
    )
    lengths = {n: len(v) for n, v in vars(made).items() if isinstance(v, np.ndarray)}
    if len(set(lengths.values())) > 1:
        raise UnreadableInputError(f"{path}: trajectory {k} has different lengths: {lengths}")
    return made
