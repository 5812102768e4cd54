"""Every row of the parameter table: below, above, wrong type, not finite, wrong word.

The cases are made from the table, so that a new row is tested by being there. What one row refuses
is refused the same way when a file is loaded and when a running estimator is changed.
"""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnls_ros.cli.params import as_yaml, markdown
from dnls_ros.errors import DnlsError
from dnls_ros.window.parameter_changes import apply_changes, read_rows, row_of
from dnls_ros.window.parameter_table import NODE, SENSOR, TRACK, Row
from dnls_ros.window.parameters import declared, flat, load_parameters
from dnls_ros.window.sensors import loss_of

ROOT = Path(__file__).parents[1]
BASE: dict[str, Any] = {
    "sensors": ["gps"],
    "sensor.gps.type": "pose",
    "sensor.gps.topic": "fix",
}
CONFIG = load_parameters(BASE)
ROWS = {
    **{row.name: row for row in NODE},
    **{f"track.object.{row.name}": row for row in TRACK},
    **{f"sensor.gps.{row.name}": row for row in SENSOR},
}
WRONG_TYPES = {
    "bool": (1, 0.0, "true", None, [True], {}),
    "int": (1.5, "1", True, None, [1], math.nan, {}),
    "double": ("1.0", True, None, [1.0], b"1", {}),
    "string": (1, 1.5, True, None, ["text"], b"text", {}),
    "list": (1, 1.5, "text", True, [None], [[]], [{}], {}),
}
LIST_ITEMS = {
    "int[]": (["1"], [True], [1.5]),
    "double[]": (["1.0"], [True]),
    "string[]": ([1], [1.5], [True]),
}
ANOTHER: dict[str, Any] = {
    "sensors": ["other"],
    "tracks": ["other"],
    "window.duration": 3.0,
    "solver.rate": 10.0,
    "solver.time_budget": 0.02,
    "init.pose": [1.0, 2.0, 0.0, 0.0, 0.0, 0.5],
    "init.sigma": [0.3] * 6,
    "health.required_sensors": ["gps"],
    "device": "cpu",
    "motion_sigma": [0.3] * 3,
    "rest_sigma": [0.3] * 3,
    "track": "other",
    "sigma": [0.3] * 3,
    "sigma_floor": [0.3] * 3,
    "gate_probability": 0.9,
    "extrinsic": [0.3] * 6,
    "axes": ["x", "y"],
    "cost": "package.module:Class",
    "landmarks.map_file": str(ROOT / "config" / "demo_tags.yaml"),
    "camera.calibration_file": str(ROOT / "config" / "demo_tags.yaml"),
    "camera.extrinsic_sigma": [0.3] * 6,
    "shape.size": [0.1],
    "shape.sdf_file": str(ROOT / "config" / "demo_tags.yaml"),
    "model": str(ROOT / "config" / "demo_tags.yaml"),
    "pair_offsets": [5],
    "image.crop": [0, 0, 64, 64],
    "image.size": [64, 64],
}
"""Values other than the default, for rows whose type, range and words do not give one."""


def refusals(name: str, value: Any) -> list[str]:
    """What is said about one value of one row: when loading, then as a change."""
    found: list[str] = []
    for attempt in (
        lambda: load_parameters(BASE | {name: value}),
        lambda: apply_changes(CONFIG, {name: value}),
    ):
        with pytest.raises(DnlsError) as caught:
            attempt()
        lines = str(caught.value).split("\n  - ")[1:]
        found.append(next((line for line in lines if line.startswith(name)), str(lines)))
    return found


def ranged(side: str) -> list[Any]:
    ends = {name: getattr(row.range, side) for name, row in ROWS.items() if row.range is not None}
    return [pytest.param(name, end, id=name) for name, end in ends.items() if math.isfinite(end)]


def outside(row: Row, end: float, towards: float) -> Any:
    """The nearest value that is out of range, in the row's type."""
    assert row.range is not None
    if end in row.range:
        step = math.copysign(1.0, towards)
        end = int(end + step) if row.type.startswith("int") else math.nextafter(end, towards)
    return [end] if row.type.endswith("[]") else end


def assert_names_range_and_unit(name: str, value: Any) -> None:
    row = ROWS[name]
    for line in refusals(name, value):
        assert line.startswith(f"{name}: got "), line
        assert line.endswith(f"expected {row.range}{' ' + row.unit if row.unit else ''}"), line


@pytest.mark.parametrize(("name", "end"), ranged("low"))
def test_below_the_range_is_refused_with_range_and_unit(name, end):
    assert_names_range_and_unit(name, outside(ROWS[name], end, -math.inf))


@pytest.mark.parametrize(("name", "end"), ranged("high"))
def test_above_the_range_is_refused_with_range_and_unit(name, end):
    assert_names_range_and_unit(name, outside(ROWS[name], end, math.inf))


@pytest.mark.parametrize("name", ROWS)
def test_a_wrong_type_is_refused_with_what_came_and_what_was_expected(name):
    kind = ROWS[name].type
    wrong = WRONG_TYPES["list" if kind.endswith("[]") else kind] + LIST_ITEMS.get(kind, ())
    for value in wrong:
        for line in refusals(name, value):
            assert re.match(re.escape(name) + r": got .*; expected ", line), (value, line)


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.type.startswith("double")])
def test_what_is_not_finite_is_refused(name):
    for number in (math.nan, math.inf, -math.inf, 10**400):
        value = [number] if ROWS[name].type == "double[]" else number
        for line in refusals(name, value):
            assert line.startswith(f"{name}: got "), line
            assert line.endswith("numbers must be finite"), line


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.choices or row.pattern])
def test_a_wrong_word_is_refused_with_the_words_there_are(name):
    row = ROWS[name]
    for word in (" ", "  x"):
        for line in refusals(name, [word] if row.type == "string[]" else word):
            assert line.startswith(f"{name}: got '{word}'; expected "), line
            if row.choices:
                assert f"one of {', '.join(c for c in row.choices if c)}" in line
            else:
                assert row.pattern not in line  # in words, not as a regular expression


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.range is not None])
def test_the_ends_of_a_range_are_in_it(name):
    row = ROWS[name]
    assert row.range is not None
    for end in (row.range.low, row.range.high):
        if math.isfinite(end) and end in row.range:
            kind = int if row.type.startswith("int") else float
            value = [kind(end)] if row.type.endswith("[]") else kind(end)
            with pytest.raises(DnlsError) as caught:  # something else is always wrong here
                load_parameters(BASE | {name: value, "colour": 1})
            assert f"{name}: got {end:g}; expected {row.range}" not in str(caught.value)


def another(name: str, row: Row) -> Any:
    """An allowed value that is not the one in use."""
    if row.name in ANOTHER:
        return ANOTHER[row.name]
    present = flat(CONFIG)[name]
    if row.type == "bool":
        return not present
    if row.choices:
        return next(word for word in row.choices if word and word != present)
    if row.type == "string":
        return "elsewhere"
    assert row.range is not None, name
    if row.type == "int":
        return present + 1 if present + 1 in row.range else present - 1
    return next(x for x in (present * 1.5, present * 0.5, 0.5) if x in row.range and x != present)


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.dynamic])
def test_a_dynamic_row_changes_and_nothing_else(name):
    value = another(name, ROWS[name])
    before, after = flat(CONFIG), flat(apply_changes(CONFIG, {name: value}))
    assert {n for n in after if before[n] != after[n]} == {name}
    assert after[name] == value
    assert flat(CONFIG) == before


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if not row.dynamic])
def test_a_row_that_is_not_dynamic_is_refused_unless_it_stays_as_it_is(name):
    for line in refusals_of_change(name, another(name, ROWS[name])):
        assert line == f"{name}: set while inactive; a change counts from the next configure"
    assert apply_changes(CONFIG, {name: flat(CONFIG)[name]}) == CONFIG


def refusals_of_change(name: str, value: Any) -> list[str]:
    with pytest.raises(DnlsError) as caught:
        apply_changes(CONFIG, {name: value})
    return str(caught.value).split("\n  - ")[1:]


def test_the_dynamic_rows_are_those_of_the_interface():
    groups = ("gate.", "recovery.", "health.", "publish.", "diagnostics.", "log.")
    fixed = {"publish.tf"}
    for row in NODE:
        if row.name.startswith(groups):
            assert row.dynamic is (row.name not in fixed), row.name
    assert not any(row.dynamic for row in TRACK)
    assert [row.name for row in SENSOR if row.dynamic] == [
        "enabled", "sigma", "sigma_floor", "covariance_scale", "robust", "robust_scale",
        "gate_probability", "stamp_offset", "contact.z_threshold", "contact.area_fraction",
        "contact.hysteresis", "force_threshold_on", "force_threshold_off", "expected_rate",
        "throttle", "stale_after",
    ]  # fmt: skip


def test_every_number_has_a_range_and_every_row_a_meaning():
    free = {"init.pose", "extrinsic", "shape.size"}  # positions and angles
    for row in (*NODE, *TRACK, *SENSOR):
        assert row.meaning, row.name
        assert not row.meaning[0].isspace(), row.name
        if row.type in ("int", "double", "int[]", "double[]"):
            assert (row.range is None) is (row.name in free), row.name


def test_every_row_is_read_somewhere():
    """By its name as an attribute: it cannot tell whether it is obeyed, only that it might be."""
    own = {"config.py", "params.py"}
    files = [p for p in (ROOT / "dnls_ros").rglob("*.py") if p.name not in own]
    code = "\n".join(p.read_text() for p in files if not p.name.startswith("parameter"))
    read = set(re.findall(r"\.([a-z_]+)\b", code))
    assert [name for name, row in ROWS.items() if row.name.split(".")[-1] not in read] == []


def test_every_word_for_a_robust_loss_names_one():
    words = ROWS["sensor.gps.robust"].choices
    losses = {
        word: loss_of(load_parameters(BASE | {"sensor.gps.robust": word}).sensor("gps"))
        for word in words
    }
    assert losses.pop("none") is None
    kinds = {word: type(loss).__name__.lower() for word, loss in losses.items()}
    assert kinds == {word: word.replace("_", "") for word in losses}


def test_all_changes_are_checked_together_or_none_applies():
    lines_of = {"solver.rate": 0.0, "solver.rat": 1.0, "num_threads": 2, "publish": {"tf": True}}
    with pytest.raises(DnlsError) as caught:
        apply_changes(CONFIG, lines_of)
    heading, *lines = str(caught.value).split("\n  - ")
    assert heading == "parameters are not changed: 4 problems"
    assert lines == [
        "solver.rate: got 0; expected 0.5..500 Hz",
        "solver.rat: is not a parameter; the nearest valid name is 'solver.rate'",
        "num_threads: set while inactive; a change counts from the next configure",
        "publish.tf: set while inactive; a change counts from the next configure",
    ]
    with pytest.raises(DnlsError, match=r"solver.time_budget: got 0.035 s; expected at most"):
        apply_changes(CONFIG, {"solver.rate": 50.0})
    assert apply_changes(CONFIG, {"solver.rate": 50.0, "solver.time_budget": 0.02})


def test_what_nobody_gave_follows_a_change():
    free = {"solver.time_budget", "num_threads"}
    changed = apply_changes(CONFIG, {"solver.rate": 50.0}, free)
    assert changed.solver.time_budget == 0.02
    assert apply_changes(changed, {"solver.rate": 20.0}, free) == CONFIG


def test_switching_the_only_absolute_sensor_off_is_no_mistake_of_configuration():
    off = apply_changes(CONFIG, {"sensor.gps.enabled": False})
    assert not off.sensors[0].enabled
    assert off.sensors[0].ignition
    assert load_parameters(flat(off)) == off
    assert apply_changes(off, {"sensor.gps.enabled": True}) == CONFIG


def test_a_name_finds_its_row():
    assert row_of("sensor.any.sigma") is ROWS["sensor.gps.sigma"]
    assert row_of("track.any.init.mode") is ROWS["track.object.init.mode"]
    assert row_of("solver.rate") is ROWS["solver.rate"]
    for name in ("solver", "sensor.gps", "sensor.gps.", "sensor..sigma", "init.mode.x", "", "."):
        assert row_of(name) is None, name


def test_a_node_with_a_part_of_the_table_reads_it_with_the_same_words():
    rows = tuple(row for row in SENSOR if row.name in ("qos.depth", "stamp_offset"))
    given = {"front_end": {"ros__parameters": {"qos": {"depth": 5}}}}
    assert read_rows(rows, given, "front_end") == {"qos.depth": 5, "stamp_offset": 0.0}
    with pytest.raises(DnlsError) as caught:
        read_rows(rows, {"qos.depth": 0, "stamp_ofset": 1.0, "use_sim_time": True}, "front_end")
    assert str(caught.value).split("\n  - ") == [
        "parameters of 'front_end': 2 problems",
        "stamp_ofset: is not a parameter; the nearest valid name is 'stamp_offset'",
        "qos.depth: got 0; expected 1..5000",
    ]


# --- what is generated from the table ------------------------------------------------------------


def test_the_exhaustive_file_is_generated_valid_and_has_every_row_at_its_default():
    file = ROOT / "config" / "all_parameters.yaml"
    text = file.read_text(encoding="utf-8")
    told = "run `dnls params --yaml > config/all_parameters.yaml`"
    assert text == "".join(f"{line}\n" for line in as_yaml()), told
    assert load_parameters(file) == load_parameters(BASE | {"sensor.gps.topic": "gps/pose"})
    names = re.findall(r"^    (?:# )?([a-z_.]+): \S+", text, re.MULTILINE)
    assert [name for name in names if name in ROWS] == list(ROWS)


def test_the_documentation_is_generated_and_has_every_row():
    text = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    told = "run `dnls params --markdown > docs/parameters.md`"
    assert text == "".join(f"{line}\n" for line in markdown()), told
    names = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    assert [n.replace("track.NAME", "track.object").replace("sensor.NAME", "sensor.gps")
            for n in names] == list(ROWS)  # fmt: skip


# --- whatever is given ---------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(-(10**400)),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=7), max_leaves=8)


def values_near(row: Row) -> st.SearchStrategy[Any]:
    """Values that are likely to be allowed by a row."""
    if row.choices:
        words = st.sampled_from(row.choices)
        return st.lists(words, max_size=6) if row.type == "string[]" else words
    if row.type == "bool":
        return st.booleans()
    if row.type.startswith("int"):
        whole = st.integers(0, 300)
        return st.lists(whole, max_size=5) if row.type == "int[]" else whole
    if row.type.startswith("double"):
        numbers = st.sampled_from([0.0, 1e-9, 0.02, 0.3, 0.9, 1.0, 3.0, 40.0, -1.0])
        return st.lists(numbers, max_size=7) if row.type == "double[]" else numbers
    words = st.sampled_from(["", "a", "gps", "object", "map", "pose", "tf", "m:C"])
    return st.lists(words, max_size=3) if row.type == "string[]" else words


@st.composite
def mutations(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(list(ROWS)), max_size=6, unique=True))
    return {name: draw(st.one_of(values_near(ROWS[name]), anything)) for name in names}


@settings(max_examples=300, deadline=None)
@given(mutations())
def test_any_mutation_of_a_valid_file_loads_or_is_one_clear_error(changes):
    with contextlib.suppress(DnlsError):
        config = load_parameters(BASE | changes)
        assert load_parameters(flat(config)) == config


@settings(max_examples=300, deadline=None)
@given(mutations())
def test_any_change_of_a_running_estimator_is_applied_as_a_whole_or_refused(changes):
    try:
        config = apply_changes(CONFIG, changes)
    except DnlsError:
        return
    rows = {d.name: d.row for d in declared(config)}
    before, after = flat(CONFIG), flat(config)
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= set(changes)
    assert all(rows[name].dynamic for name in changed)
