"""Parameters one at a time: single values, changes of a running configuration, parts of the table.

A running estimator accepts changes of its dynamic parameters only, all of them together or none.
Nodes that use a part of the table (a front end, a tool) read theirs with ``read_rows``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.parameter_blocks import (
    Problems,
    WrongValueError,
    read_block,
    read_value,
    unknown_name,
)
from dnls_ros.window.parameter_file import flatten, ros_parameters
from dnls_ros.window.parameter_table import NODE, SENSOR, TRACK, Row
from dnls_ros.window.parameters import ROS_OWN, Declaration, declared, load_parameters

_NODE_ROWS = {row.name: row for row in NODE}
_BLOCK_ROWS = {
    "track": {row.name: row for row in TRACK},
    "sensor": {row.name: row for row in SENSOR},
}
INACTIVE_ONLY = "set while inactive; a change counts from the next configure"


def row_of(name: str) -> Row | None:
    """The row of a full parameter name such as ``sensor.gps.sigma``; None if there is none."""
    kind, _, rest = name.partition(".")
    block, _, row = rest.partition(".")
    return _BLOCK_ROWS[kind].get(row) if block and kind in _BLOCK_ROWS else _NODE_ROWS.get(name)


def problem_of(name: str, value: Any, valid: Collection[str]) -> str:
    """What is wrong with one value on its own, as ``name: got …; expected …``; '' if nothing.

    Args:
        name: Full name of a parameter.
        value: As it came.
        valid: All full names that there are, so that the nearest can be named.
    """
    row = row_of(name)
    if row is None or name not in valid:
        return f"{name}: {unknown_name(name, valid)}"
    try:
        read_value(row, value)
    except WrongValueError as error:
        return f"{name}: {error}"
    return ""


def apply_changes(
    config: EstimatorConfig, changes: Mapping[str, Any], free: Collection[str] = ()
) -> EstimatorConfig:
    """The configuration with some dynamic parameters changed, checked as a whole.

    Args:
        config: What is in use; it stays as it is.
        changes: New values by full name, nested or dotted. A parameter that is not dynamic may
            only be given the value it has.
        free: Names that nobody has given: the dynamic ones among them follow the others, as they
            do when a file is loaded (``solver.time_budget`` follows ``solver.rate``).

    Raises:
        DnlsError: One line for each problem: unknown names, wrong values, parameters that are not
            dynamic, values that do not go together.
    """
    problems = Problems()
    present = {d.name: d for d in declared(config)}
    changed = flatten(changes, problems)
    for name, value in changed.items():
        problem = problem_of(name, value, present)
        if problem:
            problems.lines.append(problem)
        elif not present[name].row.dynamic and not _is_same(present[name], value):
            problems.add(name, INACTIVE_ONLY)
    problems.check("parameters are not changed")
    kept = {d.name: d.value for d in present.values() if d.name not in free or not d.row.dynamic}
    return load_parameters(kept | changed)


def _is_same(declaration: Declaration, value: Any) -> bool:
    """Whether a value that its row allows is the one in use."""
    read = read_value(declaration.row, value)
    return (list(read) if isinstance(read, tuple) else read) == declaration.value


def read_rows(
    rows: tuple[Row, ...],
    source: Mapping[str, Any],
    node: str,
    base: Path | None = None,
) -> dict[str, Any]:
    """The values of some rows, for a node that uses a part of the table.

    Args:
        rows: What the node has.
        source: Its parameters or the content of a parameter file; names nested or dotted.
        node: Its name, for the section of a file and for errors.
        base: Directory for relative file names.

    Raises:
        DnlsError: One line for each problem, unknown names included.
    """
    problems = Problems()
    given = flatten(ros_parameters(source, node), problems)
    names = [row.name for row in rows]
    for name in given:
        if name not in names and name.split(".")[0] not in ROS_OWN:
            problems.add(name, unknown_name(name, names))
    block = read_block(rows, given, "", base, problems)
    problems.check(f"parameters of '{node}'")
    return dict(block.values)
