"""Text files of numbers, read line by line with errors that name the line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.files import read_text


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Attributes:
        path: Of the file.
        number: From 1.
        words: What white space separates, comments left out.
    """

    path: Path
    number: int
    words: tuple[str, ...]

    def fail(self, text: str) -> NoReturn:
        """Raises the error of this line."""
        raise UnreadableInputError(f"{self.path}:{self.number}: {text}")

    def reals(self, start: int, count: int, what: str) -> list[float]:
        """The ``count`` finite numbers from word ``start`` to the end of the line.

        Raises:
            UnreadableInputError: More or fewer words, or one that is no finite number.
        """
        words = self.words[start:]
        if len(words) != count:
            hint = "; the file may be truncated" if len(words) < count else ""
            self.fail(f"{what} has {count} numbers, got {len(words)}{hint}")
        return [self.real(word, what) for word in words]

    def real(self, word: str, what: str) -> float:
        """A finite number."""
        try:
            value = float(word)
        except ValueError:
            self.fail(f"{what}: '{word}' is no number")
        if not math.isfinite(value):
            self.fail(f"{what}: {word} is not finite")
        return value

    def whole(self, word: str, what: str, below: int = 2**63) -> int:
        """A whole number in 0 … ``below`` − 1."""
        try:
            value = int(word)
        except ValueError:
            self.fail(f"{what}: '{word}' is no whole number")
        if not 0 <= value < below:
            self.fail(f"{what} is {value}, expected 0 … {below - 1}")
        return value


def lines_of(path: Path | str) -> Iterator[Line]:
    """The lines that hold anything besides a comment (from ``#`` on)."""
    where = Path(path)
    for number, text in enumerate(read_text(where).splitlines(), 1):
        words = tuple(text.split("#", 1)[0].split())
        if words:
            yield Line(where, number, words)
