"""Reading the text files of a UTIAS MR.CLAM data set, plain or gzipped."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import DecimalException
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.trajectory import Stamps, parse_stamp


@dataclass(frozen=True, eq=False)
class Table:
    """Rows that advance in time.

    Attributes:
        stamps: (N,) strictly ascending [ns].
        columns: (N, K) the numbers after the stamp.
        repeated: Rows left out because their stamp did not advance.
    """

    stamps: Stamps
    columns: NDArray[np.float64]
    repeated: int


@dataclass(frozen=True, eq=False)
class Sightings:
    """What a robot saw.

    Attributes:
        by_stamp: (landmark id, range [m], bearing [rad]) of all landmarks seen at a stamp [ns].
        other_robots: Sightings of other robots, left out.
        unknown_barcodes: Sightings of barcodes that no subject carries, left out.
    """

    by_stamp: dict[int, list[tuple[str, float, float]]]
    other_robots: int
    unknown_barcodes: int


@dataclass(frozen=True, eq=False)
class MrclamData:
    """One robot's part of a data set.

    Attributes:
        odometry: Columns v [m/s], ω [rad/s].
        truth: Columns x, y [m], yaw [rad].
        sightings: Ranges and bearings to landmarks.
        landmarks: Surveyed (x, y) by id, the subject number as text [m].
    """

    odometry: Table
    truth: Table
    sightings: Sightings
    landmarks: dict[str, tuple[float, float]]


def read_mrclam(directory: Path | str, robot: int) -> MrclamData:
    """Read one robot's files.

    Raises:
        UnreadableInputError: A file is missing, empty or has a damaged line.
    """
    folder = Path(directory)
    landmarks = {
        str(int(subject)): (x, y)
        for _, (subject, x, y, *_) in _numbers(folder, "Landmark_Groundtruth.dat", 5)
    }
    return MrclamData(
        odometry=_table(folder, f"Robot{robot}_Odometry.dat", 3),
        truth=_table(folder, f"Robot{robot}_Groundtruth.dat", 4),
        sightings=_sightings(folder, f"Robot{robot}_Measurement.dat", set(landmarks)),
        landmarks=landmarks,
    )


def _table(folder: Path, name: str, width: int) -> Table:
    """Read a file of stamped rows, at least two, without those that do not advance."""
    stamps: list[int] = []
    columns: list[list[float]] = []
    repeated = 0
    for word, values in _numbers(folder, name, width):
        stamp = parse_stamp(word)
        if stamps and stamp <= stamps[-1]:
            repeated += 1
            continue
        stamps.append(stamp)
        columns.append(values[1:])
    if len(stamps) < 2:
        raise UnreadableInputError(f"{folder / name}: expected at least two rows that advance")
    return Table(np.array(stamps, dtype=np.int64), np.array(columns), repeated)


def _sightings(folder: Path, name: str, landmarks: set[str]) -> Sightings:
    """Group what was seen by stamp, and count the barcodes that are no landmark's."""
    subjects = {
        int(barcode): str(int(subject))
        for _, (subject, barcode) in _numbers(folder, "Barcodes.dat", 2)
    }
    by_stamp: dict[int, list[tuple[str, float, float]]] = {}
    others = unknown = 0
    for word, (_, barcode, distance, bearing) in _numbers(folder, name, 4):
        subject = subjects.get(int(barcode))
        if subject is None:
            unknown += 1
        elif subject not in landmarks:
            others += 1
        else:
            by_stamp.setdefault(parse_stamp(word), []).append((subject, distance, bearing))
    return Sightings(by_stamp, others, unknown)


def _numbers(folder: Path, name: str, width: int) -> Iterator[tuple[str, list[float]]]:
    """Yield the first word and all numbers of each line; ``#`` begins a comment."""
    path = _existing(folder, name)
    found = False
    for number, line in enumerate(_text(path).splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            values = [float(word) for word in words]
            parse_stamp(words[0])
        except (ValueError, OverflowError, DecimalException) as error:
            raise UnreadableInputError(
                f"{path}:{number}: not a line of numbers: {line!r:.60}"
            ) from error
        if len(values) != width or not np.isfinite(values).all():
            raise UnreadableInputError(
                f"{path}:{number}: expected {width} finite numbers, got {line.strip()!r:.60}"
            )
        found = True
        yield words[0], values
    if not found:
        raise UnreadableInputError(f"{path} holds no data")


def _existing(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UnreadableInputError(
        f"{folder} is no MR.CLAM data set, or lacks this robot: it has neither {name} nor "
        f"{name}.gz"
    )


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (OSError, EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise UnreadableInputError(f"cannot read {path}: {error}") from error
