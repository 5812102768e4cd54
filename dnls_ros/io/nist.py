"""The files of NIST's Statistical Reference Datasets for nonlinear regression (StRD, .dat).

A file states a model y = f(x; b), two starts, certified parameters with standard deviations, and
the data. The model is read from the text, so that any file of the collection with one response
can be solved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.files import read_text, write_text
from dnls_ros.io.formula import FormulaError, compile_formula
from dnls_ros.io.number_lines import Line
from dnls_ros.lie import Euclidean
from dnls_ros.problem import Cost, Problem, Values, Variables

PARAMETERS = "b"
MAGIC = "NIST/ITL StRD"


@dataclass(frozen=True, eq=False)
class Regression:
    """What a file of the collection says.

    Attributes:
        name: Of the dataset.
        model: Right side of y = f(x; b), in Python's notation.
        predictors: Their names in the model.
        starts: (S, p).
        certified: (p,) parameters of least squares.
        deviations: (p,) their standard deviations.
        residual_sum: Certified residual sum of squares Σr² (the objective is half of it).
        x: (M, k) predictors.
        y: (M,) responses.
    """

    name: str
    model: str
    predictors: tuple[str, ...]
    starts: Tensor
    certified: Tensor
    deviations: Tensor
    residual_sum: float
    x: Tensor
    y: Tensor

    def problem(self) -> Problem:
        """½Σ(f(x; b) − y)² over the parameters, block ``b`` with the id 0."""
        function = compile_formula(self.model, self._names())
        count = len(self.predictors)

        def residual(b: Tensor, x: Tensor, y: Tensor) -> Tensor:
            named = {f"b{k + 1}": b[k] for k in range(self.starts.shape[1])}
            named |= {self.predictors[k]: x[k] for k in range(count)}
            return (function(named) - y)[None]

        ref = self._variables()[[0] * len(self.y)]
        return Problem(model=Cost(residual)(ref, self.x[None], self.y[None]))

    def initial(self, start: int | None = None) -> Values:
        """Start 1, 2 … as block ``b``; all of them side by side (B = S) if None."""
        chosen = self.starts if start is None else self.starts[start - 1 : start]
        return self._variables().values([0], chosen[:, None])

    def _variables(self) -> Variables:
        return Variables(PARAMETERS, Euclidean(self.starts.shape[1]))

    def _names(self) -> list[str]:
        return [*(f"b{k + 1}" for k in range(self.starts.shape[1])), *self.predictors]

    def digits(self, b: Tensor) -> float:
        """Log relative error of the worst of parameters (p,): correct digits, at most 11.

        The certified values have 11 digits.
        """
        return float(correct_digits(b, self.certified).min())

    def moved(self, solved: Values) -> Regression:
        """The same data with the solution of the first batch element as the only start."""
        b: Any = solved[PARAMETERS]
        return replace(self, starts=b[:1, 0])


def correct_digits(value: Tensor, certified: Tensor) -> Tensor:
    """−log₁₀ of the relative error, in 0 … 11; certified values have 11 digits."""
    relative = (value - certified).abs() / certified.abs()
    return -relative.clamp(1e-11, 1.0).log10().nan_to_num(nan=-0.0)


def read_nist(path: Path | str) -> Regression:
    """Read a dataset.

    Raises:
        UnreadableInputError: Names file and line: no such file, a part that is missing or shorter
            than the header says, a number that is not finite, a model that cannot be read.
    """
    where = Path(path)
    text = read_text(where).splitlines()
    if not text or not text[0].startswith(MAGIC):
        raise UnreadableInputError(f"{path}:1: expected '{MAGIC}' in the first line")
    reader = _Reader(where, text)
    rows = reader.parameters()
    values, deviations = torch.tensor(rows, dtype=torch.float64).tensor_split(
        [len(rows[0]) - 1], 1
    )
    starts, certified = values[:, :-1], values[:, -1]
    predictors, data = reader.data()
    model = reader.model([f"b{k + 1}" for k in range(len(rows))], predictors)
    return Regression(
        reader.value(r"Dataset Name:\s*(\S+)"),
        model,
        predictors,
        starts.T.contiguous(),
        certified.contiguous(),
        deviations[:, 0].contiguous(),
        reader.number(r"Residual Sum of Squares:\s*(\S+)"),
        data[:, 1:].contiguous(),
        data[:, 0].contiguous(),
    )


@dataclass(frozen=True)
class _Reader:
    path: Path
    text: list[str]

    def fail(self, number: int, text: str) -> NoReturn:
        raise UnreadableInputError(f"{self.path}:{number}: {text}")

    def line(self, number: int) -> Line:
        """A line by its number from 1."""
        return Line(self.path, number, tuple(self.text[number - 1].split()))

    def find(self, pattern: str) -> tuple[int, re.Match[str]]:
        """The first line that matches, with its number."""
        for number, text in enumerate(self.text, 1):
            found = re.search(pattern, text)
            if found:
                return number, found
        self.fail(len(self.text), f"the file ends without '{pattern.split(chr(92))[0]}'")

    def value(self, pattern: str) -> str:
        """What the pattern's group holds."""
        return self.find(pattern)[1].group(1)

    def number(self, pattern: str) -> float:
        """The same as a number."""
        at, found = self.find(pattern)
        return self.line(at).real(found.group(1), "a certified value")

    def parameters(self) -> list[list[float]]:
        """For each parameter its starts, certified value and deviation."""
        rows: list[list[float]] = []
        for number, text in enumerate(self.text, 1):
            found = re.match(r"\s*b(\d+)\s*=\s*(.*)", text)
            if not found:
                continue
            line = Line(self.path, number, tuple(found.group(2).split()))
            if int(found.group(1)) != len(rows) + 1:
                line.fail(f"parameter b{found.group(1)} where b{len(rows) + 1} is expected")
            # One start or more, the certified value, its deviation: as many as in the first line.
            count = len(rows[0]) if rows else max(3, len(line.words))
            rows.append(line.reals(0, count, "a parameter's line"))
        stated = int(self.value(r"(\d+) Parameters"))
        if len(rows) != stated:
            at = self.find(r"(\d+) Parameters")[0]
            self.fail(at, f"the model has {stated} parameters, {len(rows)} lines 'bK = …' follow")
        return rows

    def data(self) -> tuple[tuple[str, ...], Tensor]:
        """Names of the predictors and the rows (M, 1 + k), response first."""
        heads = [n for n, text in enumerate(self.text, 1) if re.match(r"Data:\s+y\s+x", text)]
        if not heads:
            self.fail(len(self.text), "the file ends without 'Data: y x'")
        names = self.line(heads[-1]).words[2:]
        rows = [
            self.line(number).reals(0, 1 + len(names), "an observation")
            for number in range(heads[-1] + 1, len(self.text) + 1)
            if self.text[number - 1].strip()
        ]
        at, found = self.find(r"(\d+) Observations")
        if len(rows) != int(found.group(1)):
            self.fail(
                at,
                f"{found.group(1)} observations are announced, {len(rows)} follow: the file may "
                "be truncated",
            )
        return tuple(names), torch.tensor(rows, dtype=torch.float64)

    def model(self, parameters: list[str], predictors: tuple[str, ...]) -> str:
        """The right side of the model, in Python's notation."""
        first, found = self.find(r"^\s*y\s*=\s*(?!\d+ )(.*\S)\s*$")
        parts = [found.group(1)]
        number = first
        while not re.search(r"\+\s*e\s*$", parts[-1]):
            number += 1
            if number > len(self.text) or not self.text[number - 1].strip():
                self.fail(first, "the model does not end in '+ e'")
            parts.append(self.text[number - 1].strip())
        formula = re.sub(r"\+\s*e\s*$", "", " ".join(parts))
        formula = formula.replace("[", "(").replace("]", ")").strip()
        try:
            compile_formula(formula, [*parameters, *predictors])
        except FormulaError as error:
            self.fail(first, f"the model '{formula}' cannot be read: {error}")
        return formula


def write_nist(path: Path | str, regression: Regression) -> None:
    """Write a dataset in the collection's form, whole or not at all, with all digits."""
    one = regression
    starts = " ".join(f"Start {k + 1}" for k in range(len(one.starts)))
    lines = [
        MAGIC,
        f"Dataset Name:  {one.name}",
        "",
        f"Data:          1 Response  (y), {len(one.predictors)} Predictor",
        f"               {len(one.y)} Observations",
        f"Model:         {len(one.certified)} Parameters (b1 to b{len(one.certified)})",
        "",
        f"               y = {one.model}  +  e",
        "",
        f"        {starts}   Parameter   Standard Deviation",
    ]
    columns = [*one.starts.tolist(), one.certified.tolist(), one.deviations.tolist()]
    for k, row in enumerate(zip(*columns, strict=True), 1):
        lines.append(f"  b{k} = " + "  ".join(map(repr, row)))
    lines += ["", f"Residual Sum of Squares:  {one.residual_sum!r}", ""]
    lines.append("Data:   y   " + "   ".join(one.predictors))
    for y, x in zip(one.y.tolist(), one.x.tolist(), strict=True):
        lines.append("       " + "  ".join(map(repr, (y, *x))))
    write_text(path, "\n".join(lines) + "\n")
