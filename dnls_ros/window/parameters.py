"""From a parameter file or a mapping to an ``EstimatorConfig``, or to one list of problems.

``load_parameters`` flattens what it is given to dotted names, reads each row of the table (type,
range, words), fills in what depends on other values, and checks what depends on several. ``flat``
is its inverse: ``load_parameters(flat(config)) == config``; the node declares its ROS parameters
from ``declared``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnls_ros.window import config as cfg
from dnls_ros.window.config import EstimatorConfig, SensorConfig, TrackConfig
from dnls_ros.window.files import find_file
from dnls_ros.window.parameter_blocks import (
    Block,
    Problems,
    attribute,
    read_block,
    resolve_sensor,
    resolve_track,
    unknown_name,
)
from dnls_ros.window.parameter_checks import check_configuration
from dnls_ros.window.parameter_file import flatten, read_file, ros_parameters
from dnls_ros.window.parameter_table import NODE, PATH_ROWS, SENSOR, TRACK, Row, Value

DEFAULT_NODE = "dnls_estimator"
GROUPS: Mapping[str, Callable[..., Any]] = {
    "window": cfg.WindowConfig,
    "history": cfg.HistoryConfig,
    "solver": cfg.SolverConfig,
    "time": cfg.TimeConfig,
    "tf": cfg.TfConfig,
    "init": cfg.NodeInitConfig,
    "health": cfg.HealthConfig,
    "recovery": cfg.RecoveryConfig,
    "gate": cfg.GateConfig,
    "publish": cfg.PublishConfig,
    "diagnostics": cfg.DiagnosticsConfig,
    "log": cfg.LogConfig,
    "dump": cfg.DumpConfig,
}
"""Rows of the node with a dot in their name, by what stands before it."""
ROS_OWN = ("use_sim_time", "start_type_description_service", "qos_overrides")


def load_parameters(
    source: Mapping[str, Any] | str | Path | Sequence[Path],
    node: str = DEFAULT_NODE,
    base: Path | None = None,
) -> EstimatorConfig:
    """Reads and checks the parameters of one estimator.

    Args:
        source: Path of a ROS parameter file, its content, or the parameters themselves; names
            nested or dotted. Several paths: a later file is laid over those before it, as ROS
            does with several ``--params-file``.
        node: Name of the node whose section is taken; sections ``/**`` apply to it too.
        base: Directory for relative file names; default: that of the parameter file.

    Raises:
        DnlsError: One line for each problem.
    """
    problems = Problems()
    if isinstance(source, str | Path):
        base = base or Path(source).resolve().parent
        source = read_file(Path(source))
    if isinstance(source, Mapping):
        given = flatten(ros_parameters(source, node), problems)
    else:
        given = _overlaid(source, node, problems)
        base = base or Path(source[-1]).resolve().parent
    config = _build(given, base, problems)
    problems.check(f"parameters of '{node}'")
    assert config is not None
    return config


def _overlaid(paths: Sequence[Path], node: str, problems: Problems) -> dict[str, Any]:
    """The parameters of several files; names of files are relative to the one that says them."""
    merged: dict[str, Any] = {}
    for path in paths:
        folder = Path(path).resolve().parent
        for name, value in flatten(ros_parameters(read_file(Path(path)), node), problems).items():
            merged[name] = _anchored(name, value, folder)
    return merged


def _anchored(name: str, value: Any, folder: Path) -> Any:
    """A relative file's name with the folder before it, if it is there."""
    if not isinstance(value, str) or not any(name.endswith(f".{row}") for row in PATH_ROWS):
        return value
    found = find_file(value, folder) if value else None
    return value if found is None else str(found)


def _build(
    given: Mapping[str, Any], base: Path | None, problems: Problems
) -> EstimatorConfig | None:
    """The configuration, or None where a problem leaves nothing to build."""
    root = read_block(NODE, given, "", base, problems)
    names = _block_names(root, given, problems)
    _report_unknown(given, names, problems)
    tracks = [
        resolve_track(
            name, read_block(TRACK, given, f"track.{name}.", base, problems), root, problems
        )
        for name in names["track"]
    ]
    by_name = {track.name: track for track in tracks}
    sensors = [
        resolve_sensor(name, block, by_name, problems)
        for name in names["sensor"]
        if (block := read_block(SENSOR, given, f"sensor.{name}.", base, problems)).complete
    ]
    if not tracks:
        return None
    config = _assemble(root, tuple(tracks), tuple(s for s in sensors if s is not None))
    config = _with_ignition(config)
    built = {sensor.name for sensor in config.sensors}
    unread = tuple(name for name in root.values["sensors"] if name not in built)
    check_configuration(config, problems, unread)
    return config


def _block_names(
    root: Block, given: Mapping[str, Any], problems: Problems
) -> dict[str, list[str]]:
    """Names of tracks and sensors, each once; a missing or an unnamed block is a problem."""
    names: dict[str, list[str]] = {}
    for kind, listed in (("track", root.values["tracks"]), ("sensor", root.values["sensors"])):
        names[kind] = list(dict.fromkeys(listed))
        for name in names[kind]:
            if listed.count(name) > 1:
                problems.add(
                    f"{kind}s", f"'{name}' is named {listed.count(name)} times; names are unique"
                )
        blocks = {
            key.split(".")[1] for key in given if key.startswith(f"{kind}.") and key.count(".") > 1
        }
        for name in sorted(blocks - set(names[kind])):
            problems.add(
                f"{kind}.{name}",
                f"has a block but is not in '{kind}s'; add it there or remove the block",
            )
        if kind == "sensor":
            for name in (n for n in names[kind] if n not in blocks):
                problems.add(
                    f"sensor.{name}",
                    "is in 'sensors' but has no block; give at least type and topic",
                )
            names[kind] = [n for n in names[kind] if n in blocks]
        if not listed and f"{kind}s" not in root.wrong:
            problems.add(f"{kind}s", f"is empty; name at least one {kind}")
    return names


def _report_unknown(
    given: Mapping[str, Any], names: Mapping[str, list[str]], problems: Problems
) -> None:
    """One problem per name that is in no row, with the nearest that is."""
    rows = {row.name for row in NODE}
    blocks = {"track": [row.name for row in TRACK], "sensor": [row.name for row in SENSOR]}
    valid = rows | {
        f"{k}.{name}.{row}" for k, of in blocks.items() for name in names[k] for row in of
    }
    for name, value in given.items():
        head, _, rest = name.partition(".")
        if value == {} and (name in blocks or any(v.startswith(f"{name}.") for v in valid)):
            continue  # a group or a block of which nothing is given
        if name in valid or head in ROS_OWN:
            continue
        if head in blocks and "." in rest and rest.split(".")[0] not in names[head]:
            continue  # reported as a block that is not named
        problems.add(name, unknown_name(name, valid))


def _assemble(
    root: Block, tracks: tuple[TrackConfig, ...], sensors: tuple[SensorConfig, ...]
) -> EstimatorConfig:
    """Puts the blocks together."""
    v = root.values
    if "solver.time_budget" not in root.given:
        v = {**v, "solver.time_budget": min(v["solver.time_budget"], 1.0 / v["solver.rate"])}
    if "tf.cache" not in root.given:
        v = {**v, "tf.cache": max(v["tf.cache"], v["window.duration"] + 1.0)}
    root = Block(v, root.given, root.wrong, root.prefix)
    plain: dict[str, Any] = {row.name: v[row.name] for row in NODE if "." not in row.name}
    plain |= {"sensors": sensors, "tracks": tracks}
    return EstimatorConfig(
        **plain,
        **{name: group(**root.group(name)) for name, group in GROUPS.items()},
    )


def _with_ignition(config: EstimatorConfig) -> EstimatorConfig:
    """Marks the sensors that may start a track: the declared, else every absolute pose sensor."""
    declared_for = {s.track for s in config.sensors if s.ignition}
    sensors = tuple(
        s.with_ignition(
            s.ignition if s.track in declared_for else s.measures_pose(config.track(s.track))
        )
        for s in config.sensors
    )
    return config.with_sensors(sensors)


@dataclass(frozen=True)
class Declaration:
    """A parameter of this configuration: full name, value as ROS holds it, and its row."""

    name: str
    value: Any
    row: Row


def declared(config: EstimatorConfig) -> tuple[Declaration, ...]:
    """Every parameter of a configuration: the node's, then each track's, then each sensor's."""
    return tuple(_declarations(config))


def flat(config: EstimatorConfig) -> dict[str, Any]:
    """Dotted names and plain values; ``load_parameters`` reads them back to an equal one."""
    return {d.name: d.value for d in declared(config)}


def config_hash(config: EstimatorConfig) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all parameters in canonical form.

    A file counts by its content: the same configuration has the same hash on every machine.
    """
    values = {d.name: _content(d.value) if _is_file(d) else d.value for d in declared(config)}
    text = json.dumps(values, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_file(declaration: Declaration) -> bool:
    """Whether the value is the path of a file that was found."""
    return declaration.row.name in PATH_ROWS and bool(declaration.value)


def _content(path: str) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _declarations(config: EstimatorConfig) -> Iterator[Declaration]:
    """Rows and values of the node, then of each track and each sensor."""
    for row in NODE:
        if row.name in ("sensors", "tracks"):
            names = [item.name for item in getattr(config, row.name)]
            yield Declaration(row.name, names, row)
        else:
            yield Declaration(row.name, _plain(attribute(config, row.name)), row)
    blocks = [("track", TRACK, config.tracks), ("sensor", SENSOR, config.sensors)]
    for kind, rows, items in blocks:
        for item in items:
            for row in rows:
                yield Declaration(
                    f"{kind}.{item.name}.{row.name}", _plain(attribute(item, row.name)), row
                )


def _plain(value: Value) -> bool | int | float | str | list[float] | list[str]:
    """Lists instead of tuples."""
    return list(value) if isinstance(value, tuple) else value  # type: ignore[return-value]
