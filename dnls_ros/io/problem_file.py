"""A file that states a least-squares problem, whatever its format: read, started, written.

The format is known by the content: a NIST dataset by its first words, BAL by a first line of three
numbers, g2o otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dnls_ros.errors import DnlsError
from dnls_ros.io.bal import BundleAdjustment, read_bal, write_bal
from dnls_ros.io.files import read_text
from dnls_ros.io.g2o import read_g2o, write_g2o
from dnls_ros.io.nist import MAGIC, Regression, read_nist, write_nist
from dnls_ros.io.pose_graph import PoseGraph
from dnls_ros.problem import Problem, Values

Content = PoseGraph | BundleAdjustment | Regression


@dataclass(frozen=True)
class ProblemFile:
    """What was read.

    Attributes:
        format: ``g2o``, ``bal`` or ``nist``.
        content: In the format's own terms.
    """

    format: str
    content: Content

    def counts(self) -> Mapping[str, int]:
        """What the file holds, by name."""
        one = self.content
        if isinstance(one, PoseGraph):
            seen = 0 if one.sightings is None else len(one.sightings.poses)
            counts = {"poses": len(one.pose_ids), "edges": len(one.edges.first)}
            extra = {"landmarks": len(one.landmark_ids), "sightings": seen}
            return counts | (extra if seen else {})
        if isinstance(one, BundleAdjustment):
            numbers = len(one.cameras), len(one.points), len(one.pixels)
            return dict(zip(("cameras", "points", "observations"), numbers, strict=True))
        return {"parameters": len(one.certified), "observations": len(one.y)}

    def problem(self) -> Problem:
        """What is minimized."""
        return self.content.problem()

    def initial(self, how: str, start: int) -> Values:
        """First values of what is free.

        Args:
            how: ``file``, or an initialization of `PoseGraph.initial`.
            start: Which of a NIST file's starts, from 1.

        Raises:
            DnlsError: The format does not have that.
        """
        one = self.content
        if isinstance(one, PoseGraph):
            return one.free(one.initial(how))
        if how != "file":
            raise DnlsError(
                f"--init {how} is for pose graphs; {self.format} files start at 'file'"
            )
        if isinstance(one, BundleAdjustment):
            return one.initial()
        if start > len(one.starts):
            raise DnlsError(f"--start is {start}, the file has {len(one.starts)} starts")
        return one.initial(start)

    def solved(self, values: Values) -> ProblemFile:
        """The same with the solution in place of first values."""
        return ProblemFile(self.format, self.content.moved(values))

    def write(self, path: Path) -> None:
        """Writes it in its own format."""
        one = self.content
        if isinstance(one, PoseGraph):
            write_g2o(path, one)
        elif isinstance(one, BundleAdjustment):
            write_bal(path, one)
        else:
            write_nist(path, one)


def read_problem(path: Path, rotation_information: str = "tangent") -> ProblemFile:
    """Reads a g2o, BAL or NIST file.

    Raises:
        UnreadableInputError: It cannot be read; names the line.
    """
    first = next((text for text in read_text(path).splitlines() if text.strip()), "")
    if first.startswith(MAGIC):
        return ProblemFile("nist", read_nist(path))
    words = first.split()
    if len(words) == 3 and all(word.lstrip("-").isdecimal() for word in words):
        return ProblemFile("bal", read_bal(path))
    return ProblemFile("g2o", read_g2o(path, rotation_information))
