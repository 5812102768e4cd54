"""What someone listens to now: work that is only done on demand.

Set by whoever publishes, read by the thread that solves; single flags may cross threads.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Wanted:
    """Flags; no estimate depends on them.

    Attributes:
        details: Costs by kind of factor and the weakest direction in ``StepResult.report``.
        evidence: Residuals and robust weights of settled measurements (``Settled.evidence``).
        rejected: Lines of what a gate shut out, there too.
        prediction: ``TrackEstimate.joint``, from which odometry is predicted.
    """

    details: bool = False
    evidence: bool = False
    rejected: bool = False
    prediction: bool = False
