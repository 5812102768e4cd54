"""Why a measurement was believed or not, in numbers: its innovation, its residual, its weight."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Lines:
    """M residuals of one sensor as lines in the world.

    Attributes:
        sensor: Whose measurements.
        track: Whose states they start from; they are in the parent frame of this track.
        start, end: (M, 3) [m].
        weight: (M,) robust weights in [0, 1].
    """

    sensor: str
    track: str
    start: Array
    end: Array
    weight: Array

    def __len__(self) -> int:
        """Number of lines."""
        return len(self.weight)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of one measurement; NaN, 0 or empty is what nobody computed.

    Attributes:
        dim: Entries of its residual, all its factors together.
        nis: Normalized innovation squared; NaN if it was not gated.
        gate: The largest that passes; NaN without a gate. Each factor of a measurement is held
            against its own: ``nis`` and ``gate`` are those of the worst.
        weight: Least robust weight after the solve, in [0, 1].
        residual: Whitened, after the solve; before it for a rejected measurement.
        lines: Of its factors, for a rejected one.
    """

    dim: int = 0
    nis: float = NAN
    gate: float = NAN
    weight: float = NAN
    residual: Array = field(default_factory=lambda: np.zeros(0))
    lines: tuple[Lines, ...] = ()
