"""The documentation says what the code does: codes, topics, services, parameters, commands."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dnls_ros.cli.main import build_parser
from dnls_ros.runtime.types import EstimatorState, SensorState
from dnls_ros.window.measurements import Reason
from dnls_ros.window.parameter_table import NODE, SENSOR, TRACK

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
WRITTEN = [page for page in PAGES if page.name not in ("parameters.md", "doctor.md")]
CODE = re.compile(r"[a-z_]+(\.[a-z_]+)?:?")
TOKEN = re.compile(r"[a-z]+\.[a-z_]+:?")
FILES = (".rviz", ".log", ".xml", ".yaml", ".tum", ".csv", ".json")
# Calls whose string names a code, and where it stands among the strings.
SAYING = ("_say", "_tell", "Event", "Trouble")
SINCE_STARTED = 60.0


def section(page: str, title: str) -> list[list[str]]:
    """The rows of the first table below a heading; the text of each cell."""
    text = (DOCS / page).read_text()
    below = text.split(f"\n## {title}\n", 1)[1].split("\n## ")[0]
    rows = [line for line in below.splitlines() if line.startswith("|")]
    assert len(rows) > 2, f"{page} has no table below '{title}'"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def names(page: str, title: str) -> list[str]:
    return [row[0].strip("`") for row in section(page, title)]


def constants(file: str, part: int = 0) -> set[str]:
    """The constants of a message or of one part of a service."""
    text = (ROOT / file).read_text().split("---")[part]
    return set(re.findall(r"^uint8 (\w+)=\d+", text, re.MULTILINE))


def test_every_reason_state_and_constant_has_an_entry():
    page = "troubleshooting.md"
    assert names(page, "Measurements") == [reason.name for reason in Reason]
    assert names(page, "States") == [
        state.name for state in sorted(EstimatorState, key=lambda s: _order(s.name))
    ]
    assert names(page, "Sensors") == [state.name for state in SensorState]
    assert set(names(page, "Ends of a solve")) == constants("msg/SolverStats.msg")
    assert set(names(page, "`get_pose_at` says no")) == constants("srv/GetPoseAt.srv", 1)


def _order(name: str) -> int:
    return names("troubleshooting.md", "States").index(name)


def codes_of(path: Path) -> Iterator[str]:
    """Codes of events and reasons in a module: dotted words, and what is said by a plain one."""
    rows = {row.name for row in (*NODE, *TRACK, *SENSOR)}
    for node in ast.walk(ast.parse(path.read_text())):
        word = node.value if isinstance(node, ast.Constant) else None
        if isinstance(word, str) and TOKEN.fullmatch(word) and not word.endswith(FILES):
            yield from {word} - rows
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            said = [a.value for a in node.args if isinstance(a, ast.Constant)]
            said = [one for one in said if isinstance(one, str)]
            if name in SAYING and said and CODE.fullmatch(said[0]):
                yield said[0]


def test_every_code_in_the_source_has_an_entry_and_every_entry_a_code():
    sources = [
        *(ROOT / "dnls_ros" / "runtime").glob("*.py"),
        *(ROOT / "dnls_ros/ros").glob("*.py"),
    ]
    found = {code for path in sources for code in codes_of(path)}
    page = "troubleshooting.md"
    documented = {*names(page, "Reasons of a state"), *names(page, "Events")}
    assert found - documented == set(), "describe these in docs/troubleshooting.md"
    words = {
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert documented - words == set(), "nothing says these any more"


@pytest.mark.parametrize("title", ["Measurements", "Reasons of a state", "Events"])
def test_every_entry_says_what_to_do(title):
    for row in section("troubleshooting.md", title):
        assert len(row) == 3
        assert all(row), f"{row[0]} is not described"


def test_parameters_that_the_pages_name_exist():
    groups = {row.name.split(".")[0] for row in (*NODE, *SENSOR) if "." in row.name} - {"camera"}
    rows = {row.name for row in (*NODE, *TRACK, *SENSOR)}
    for page in WRITTEN:
        for name in re.findall(r"`([a-z]+\.[a-z_]+)(?::[^`]*)?`", page.read_text()):
            if name.split(".")[0] not in groups:
                continue
            known = name in rows or name in _codes()
            assert known, f"{page.name}: '{name}' is neither a parameter nor a code"


def _codes() -> set[str]:
    page = "troubleshooting.md"
    return {c.rstrip(":") for c in (*names(page, "Reasons of a state"), *names(page, "Events"))}


def test_commands_that_the_pages_name_exist():
    parser = build_parser()
    (commands,) = (a.choices for a in parser._actions if a.dest is not None and a.choices)
    for page in PAGES:
        for name in re.findall(r"(?:`|^|\s)dnls ([a-z]+)\b", page.read_text()):
            assert name in commands, f"{page.name}: there is no `dnls {name}`"
    listed = re.findall(r"^\| `dnls ([a-z]+)", (DOCS / "cli.md").read_text(), re.MULTILINE)
    assert set(listed) == set(commands)


def test_launch_files_and_configurations_that_the_pages_name_exist():
    for page in [*WRITTEN, ROOT / "README.md"]:
        text = page.read_text()
        for name in re.findall(r"([a-z0-9_]+\.launch\.py)", text):
            assert (ROOT / "launch" / name).is_file(), f"{page.name}: {name}"
        for name in re.findall(r"config/([a-z0-9_/]+\.(?:yaml|rviz|json))", text):
            assert (ROOT / "config" / name).is_file(), f"{page.name}: config/{name}"
    for row in re.findall(
        r"^   \| `(\w+\.yaml)`", (DOCS / "getting_started.md").read_text(), re.M
    ):
        assert (ROOT / "config" / row).is_file(), row


def configurations() -> list[Path]:
    """The parameter files of an estimator that are shipped."""
    files = sorted((ROOT / "config").glob("*.yaml"))
    return [path for path in files if "dnls_estimator" in yaml.safe_load(path.read_text())]


@pytest.mark.parametrize("path", configurations(), ids=lambda path: path.stem)
def test_every_shipped_configuration_loads_and_starts(path):
    from dnls_ros.runtime.session import Session
    from dnls_ros.window.parameters import load_parameters

    session = Session(load_parameters(path))
    assert session.status().state is EstimatorState.UNINITIALIZED


def test_the_files_of_the_design_are_shipped():
    shipped = {path.stem for path in configurations()}
    design = {"minimal_pose", "localization_2d", "mocap_object_se3", "all_parameters"}
    design |= {"tactile_pushing_rect", "tactile_pushing_disc"}
    assert design <= shipped
    assert len((ROOT / "config" / "minimal_pose.yaml").read_text().splitlines()) <= 10


def published() -> dict[str, list[str]]:
    """Topics that the page says are published, with their cells."""
    return {row[0].strip("`"): row for row in section("topics.md", "Published")}


def resolved(topic: str) -> str:
    """A topic of a node in the root namespace."""
    return "/" + topic.replace("~", "dnls_estimator").lstrip("/")


def layout_topics() -> Iterator[tuple[str, str]]:
    """File and topic of every layout."""

    def values(item: Any, key: str = "") -> Iterator[tuple[str, str]]:
        if isinstance(item, dict):
            for name, value in item.items():
                yield from values(value, name)
        elif isinstance(item, list):
            for value in item:
                yield from values(value, key)
        elif isinstance(item, str):
            yield key, item

    rviz = yaml.safe_load((ROOT / "config" / "rviz" / "estimator.rviz").read_text())
    for display in (*rviz["Visualization Manager"]["Displays"], *_tools(rviz)):
        if "Topic" in display:
            yield "estimator.rviz", display["Topic"]["Value"]
    foxglove = json.loads((ROOT / "config" / "foxglove" / "estimator.json").read_text())
    for panel in foxglove["configById"].values():
        for topic in panel.get("topics", {}):
            yield "estimator.json", topic
        for key, value in values(panel):
            if key in ("topicPath", "topicToRender", "poseEstimateTopic", "value"):
                yield "estimator.json", re.split(r"[.\[]", value)[0]


def _tools(rviz: dict[str, Any]) -> list[dict[str, Any]]:
    return rviz["Visualization Manager"]["Tools"]


def test_layouts_name_only_topics_that_there_are():
    known = {resolved(topic) for topic in published()} | {"/initialpose"}
    found = list(layout_topics())
    assert {file for file, _ in found} == {"estimator.rviz", "estimator.json"}
    for file, topic in found:
        assert resolved(topic) in known, f"{file}: {topic}"


def test_a_foxglove_panel_is_laid_out_once_and_fields_exist():
    layout = json.loads((ROOT / "config" / "foxglove" / "estimator.json").read_text())
    placed: list[str] = []

    def place(item: Any) -> None:
        if isinstance(item, str):
            placed.append(item)
        else:
            place(item["first"])
            place(item["second"])

    place(layout["layout"])
    assert sorted(placed) == sorted(layout["configById"])
    stats = (ROOT / "msg" / "SolverStats.msg").read_text()
    for field in re.findall(r"solver_stats\.(\w+)", json.dumps(layout)):
        assert re.search(rf"^\S+ {field}\b", stats, re.MULTILINE), field


def test_types_in_the_tables_are_ours_or_standard():
    from dnls_ros.io.definitions import typestore

    known = typestore().fielddefs
    for title in ("Published", "Subscribed"):
        for row in section("topics.md", title):
            for name in re.findall(r"\b([a-z0-9_]+_msgs|dnls_ros)/([A-Z]\w+)", row[1]):
                assert "/msg/".join(name) in known, row
    services = {row[1] for row in section("topics.md", "Services")}
    ours = {f"dnls_ros/{path.stem}" for path in (ROOT / "srv").glob("*.srv")}
    assert ours <= services
    assert services - ours <= {"std_srvs/Trigger", "std_srvs/SetBool"}


def own_endpoints(observer: Any) -> tuple[set[str], dict[str, str]]:
    """The topics that the node publishes and its own services, as far as they are discovered."""
    from rclpy.node import NodeNameNonExistentError

    node = ("dnls_estimator", "/")
    private = {"/parameter_events", "/rosout", "/dnls_estimator/transition_event"}
    try:
        topics = dict(observer.get_publisher_names_and_types_by_node(*node))
        services = dict(observer.get_service_names_and_types_by_node(*node))
    except NodeNameNonExistentError:
        return set(), {}
    ours = ("dnls_ros/", "std_srvs/")
    own = {n: k.replace("/srv/", "/") for n, (k, *_) in services.items() if k.startswith(ours)}
    return set(topics) - private, own


@pytest.mark.ros
@pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")  # lark, used by rclpy
def test_the_node_publishes_and_serves_what_the_page_says(tmp_path):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from node_rig import write_params
    from rclpy.context import Context
    from rclpy.node import Node
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

    from dnls_ros.ros.live import NodeProcess, free_domain

    parameters = {
        "sensors": ["fix"],
        "sensor": {"fix": {"type": "pose", "topic": "fix"}},
        "publish": {"tf": True, "predicted_rate": 10.0},
        "output_dir": str(tmp_path),
    }
    domain = free_domain()
    context = Context()
    context.init(domain_id=domain)
    observer = Node("observer", context=context, enable_rosout=False)
    process = NodeProcess(write_params(tmp_path / "p.yaml", parameters), domain)
    try:
        expected = {resolved(topic): row for topic, row in published().items()}
        services = {
            resolved(row[0].strip("`")): row[1] for row in section("topics.md", "Services")
        }
        deadline = time.monotonic() + SINCE_STARTED
        while (found := own_endpoints(observer)) != (set(expected), services):
            assert process.running, process.log()
            assert time.monotonic() < deadline, f"found {found}\n{process.log()}"
            time.sleep(0.1)
        for topic, row in expected.items():
            (info,) = observer.get_publishers_info_by_topic(topic)
            assert info.topic_type.replace("/msg/", "/") == row[1], topic
            reliable = info.qos_profile.reliability is ReliabilityPolicy.RELIABLE
            latched = info.qos_profile.durability is DurabilityPolicy.TRANSIENT_LOCAL
            reliability, durability, _ = row[2].split()
            assert (reliable, latched) == (reliability == "R", durability == "TL"), topic
    finally:
        process.stop()
        observer.destroy_node()
        context.try_shutdown()


def test_the_site_builds_without_a_warning(tmp_path):
    for name in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install '.[docs]')")
    options = ("-W", "--keep-going", "-n", "-q", "-b", "html", "-d", str(tmp_path / "doctrees"))
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "troubleshooting.html").is_file()
