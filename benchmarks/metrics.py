"""What is measured, what was promised, and how a run is judged by the committed one.

Machines drift by a factor of two within minutes, so only figures that are ratios within one run,
and sizes, are compared; absolute times are shown.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

BASELINE = Path(__file__).with_name("baseline.json")


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        name: Unique; parts by dots.
        value: Measured.
        unit: Of the value; "×" is a ratio within one run.
        better: Which direction is good.
        tolerance: How much worse than the baseline, relatively, is too much; None: only shown.
        promise, moonshot: What was promised and hoped for, in the same unit.
        note: How it was measured.
    """

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"] = "lower"
    tolerance: float | None = None
    promise: float | None = None
    moonshot: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Against what was promised."""
        if self.promise is None:
            return ""
        if self.moonshot is not None and self._reaches(self.moonshot):
            return "moonshot"
        return "met" if self._reaches(self.promise) else "missed"

    def _reaches(self, bound: float) -> bool:
        return self.value <= bound if self.better == "lower" else self.value >= bound

    def worse_than(self, before: Metric) -> bool:
        """Whether it is beyond the tolerance of the baseline's."""
        if self.tolerance is None:
            return False
        if self.better == "lower":
            return self.value > before.value * (1 + self.tolerance)
        return self.value < before.value / (1 + self.tolerance)


@dataclass(frozen=True)
class Run:
    """All figures of one run and the machine they are of."""

    machine: dict[str, str]
    metrics: tuple[Metric, ...]

    def save(self, path: Path = BASELINE) -> None:
        """As JSON."""
        content = {"machine": self.machine, "metrics": [asdict(m) for m in self.metrics]}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path = BASELINE) -> Run:
        """From JSON."""
        content: dict[str, Any] = json.loads(path.read_text())
        return cls(content["machine"], tuple(Metric(**m) for m in content["metrics"]))

    def regressions(self, baseline: Run) -> list[str]:
        """A sentence for each figure that is worse than the baseline allows."""
        before = {m.name: m for m in baseline.metrics}
        return [
            f"{m.name}: {m.value:.3g} {m.unit}, the baseline has {before[m.name].value:.3g} and "
            f"allows {100 * (m.tolerance or 0):.0f} % more"
            for m in self.metrics
            if m.name in before and m.worse_than(before[m.name])
        ]
