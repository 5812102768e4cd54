"""A run as one HTML file that needs nothing else: tables of figures, pictures, parameters.

Pictures are inlined, styles too, and nothing depends on when or where it was made.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dnls_ros.io.evaluation import Evaluation
from dnls_ros.io.files import write_text


@dataclass(frozen=True)
class Table:
    """Rows of text under column heads; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG with the sentence that says what it shows."""

    caption: str
    png: bytes


def figures_table(evaluations: Mapping[str, Evaluation], title: str = "Figures") -> Table:
    """What is usually asked of each estimate, one column each."""
    rows = [
        ("ATE, RMSE [m]", [f"{one.translation.rmse:.4f}" for one in evaluations.values()]),
        ("ATE, maximum [m]", [f"{one.translation.max:.4f}" for one in evaluations.values()]),
        ("yaw error, RMSE [mrad]", [f"{1e3 * one.yaw.rmse:.2f}" for one in evaluations.values()]),
        (_distance(evaluations), [_relative_text(one) for one in evaluations.values()]),
        ("NEES per degree of freedom", [_nees_text(one) for one in evaluations.values()]),
        ("coverage", [f"{100 * one.coverage:.1f} %" for one in evaluations.values()]),
        ("poses compared", [str(one.poses) for one in evaluations.values()]),
        ("alignment", [one.options.align for one in evaluations.values()]),
    ]
    return Table(title, ["", *evaluations], [[name, *cells] for name, cells in rows])


def parameters_table(parameters: Mapping[str, object], title: str = "Parameters") -> Table:
    """Names and values of a run's settings."""
    return Table(
        title, ["name", "value"], [[name, str(value)] for name, value in parameters.items()]
    )


def write_report(
    path: Path | str, title: str, summary: str, parts: Sequence[Table | Picture]
) -> None:
    """Writes the page.

    Args:
        path: The ``.html`` file.
        title: Its head.
        summary: One or two sentences below it.
        parts: Tables and pictures in their order.
    """
    body = "\n".join(_table(one) if isinstance(one, Table) else _picture(one) for one in parts)
    write_text(
        path, _PAGE.format(title=html.escape(title), summary=html.escape(summary), body=body)
    )


def _distance(evaluations: Mapping[str, Evaluation]) -> str:
    options = next(iter(evaluations.values())).options
    unit = {"f": "frames", "s": "s", "m": "m"}[options.rpe_unit]
    return f"RPE over {options.rpe_delta:g} {unit}, RMSE [m, mrad]"


def _relative_text(evaluation: Evaluation) -> str:
    if evaluation.relative is None:
        return "–"
    relative = evaluation.relative
    return f"{relative.translation.rmse:.4f}, {1e3 * relative.rotation.rmse:.2f}"


def _nees_text(evaluation: Evaluation) -> str:
    result = evaluation.consistency
    if result is None:
        return "–"
    low, high = result.interval
    verdict = "inside" if result.inside else "outside"
    return f"{result.mean:.2f} ({verdict} {low:.2f} … {high:.2f})"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "\n".join(f"<tr>{_cells(row)}</tr>" for row in table.rows)
    return (
        f"<h2>{html.escape(table.title)}</h2>\n<div class='wide'><table>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _cells(row: Iterable[str]) -> str:
    first, *rest = row
    cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
    return f"<th scope='row'>{html.escape(first)}</th>{cells}"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    caption = html.escape(picture.caption)
    return (
        f"<figure><img alt='{caption}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.7rem; margin-bottom: 0.3rem; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 0.5rem; }}
.summary {{ color: #555; margin-top: 0; max-width: 50rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.3rem 1.1rem 0.3rem 0; border-bottom: 1px solid #e4e4e4; text-align: left;
  vertical-align: top; }}
thead th {{ border-bottom: 2px solid #0072b2; }}
tbody th {{ font-weight: normal; color: #555; }}
figure {{ margin: 2rem 0; }}
img {{ max-width: 100%; height: auto; }}
figcaption {{ color: #555; font-size: 0.9rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="summary">{summary}</p>
{body}
</body>
</html>
"""
