"""The launch files run: by real launch where it is installed, else by ``launch_stand_in``.

The stand-in's docstring says what it does not prove.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dnls_ros.cli.main import main
from dnls_ros.io.trajectory import read_tum
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.parameters import config_hash, load_parameters

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))
NAMES = [
    "demo", "demo_sim_push", "doctor", "estimator", "localization_2d", "replay",
    "tactile_pushing", "train",
]  # fmt: skip
# Our own folder launch/ would satisfy a search for ``launch`` alone.
REAL = importlib.util.find_spec("launch_ros") is not None
COMMON = {
    *("namespace", "params_file", "use_sim_time", "autostart", "use_lifecycle_manager"),
    *("use_respawn", "log_level", "rviz", "rviz_config", "foxglove", "record", "output_dir"),
    "device",
}
EXTRA = {
    "demo": {"bag", "rate", "seed", "duration"},
    "demo_sim_push": {"scene", "model", "fault", "fault_p", "seed", "duration"},
    "doctor": {"duration"},
    "train": {"truth", "threads"},
    "estimator": set[str](),
    "localization_2d": {"tags_file"},
    "replay": {"bag", "rate", "start_offset", "duration", "loop"},
    "tactile_pushing": {"sensor_ns", "model", "object", "ee_source"},
}
LACKING = {
    "doctor": COMMON - {"namespace", "params_file", "use_sim_time", "log_level"},
    "replay": {"autostart", "use_lifecycle_manager", "record", "device"},
    "train": COMMON - {"namespace", "params_file", "use_sim_time", "use_respawn", "log_level"},
}
CONFIG = ROOT / "config" / "localization_2d.yaml"

REAL_LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription as Include
from launch.launch_description_sources import PythonLaunchDescriptionSource as Source
file, *given = sys.argv[1:]
service = LaunchService()
include = Include(Source(file), launch_arguments=[tuple(one.split(":=", 1)) for one in given])
service.include_launch_description(LaunchDescription([include]))
sys.exit(service.run())
"""
DECLARED = """
import json, runpy, sys
if {stand_in}:
    import launch_stand_in
    launch_stand_in.install()
from launch.actions import DeclareLaunchArgument
description = runpy.run_path(sys.argv[1])["generate_launch_description"]()
found = [e for e in description.entities if isinstance(e, DeclareLaunchArgument)]
print(json.dumps([[one.name, one.description] for one in found]))
"""


class Launched:
    """A launch file that runs in a process of its own."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        from dnls_ros.ros.live import free_domain, local_environment

        file = str(ROOT / "launch" / f"{name}.launch.py")
        stand_in = [str(ROOT / "test" / "launch_stand_in.py")]
        self._log = folder / "launch.log"
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(["-c", REAL_LAUNCH] if REAL else stand_in), file, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
                env={**os.environ, **local_environment(free_domain()), "PYTHONPATH": path},
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        """Until it ends by itself."""
        return self.process.wait(seconds)

    def wait_for(self, pattern: str, seconds: float = 60.0) -> re.Match[str]:
        """Until its output has something."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.output)):
            assert time.monotonic() < deadline, f"no '{pattern}' in {self.output}"
            assert self.process.poll() is None, self.output
            time.sleep(0.05)
        return found

    def interrupt(self) -> int:
        """Ctrl-C; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30.0)


@contextmanager
def launched(name: str, *arguments: str) -> Iterator[Launched]:
    """Runs a launch file; whatever it started is gone afterwards."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    with tempfile.TemporaryDirectory() as folder:
        one = Launched(name, arguments, Path(folder))
        try:
            yield one
        finally:
            with suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)  # its session
            one.process.wait()


def declared(name: str) -> dict[str, str]:
    """The arguments of a launch file and their texts."""
    code = DECLARED.format(stand_in=not REAL)
    path = os.pathsep.join([str(ROOT), str(ROOT / "test"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "launch" / f"{name}.launch.py")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_there_are_the_launch_files_of_the_design():
    assert [f.name.removesuffix(".launch.py") for f in FILES] == NAMES


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_a_launch_file_documents_itself(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert "ros2 launch dnls_ros " + file.name in (ast.get_docstring(tree) or "")


@pytest.mark.parametrize("name", NAMES)
def test_a_launch_file_has_nav2s_arguments_and_its_own(name):
    arguments = declared(name)
    assert set(arguments) == COMMON - LACKING.get(name, set()) | EXTRA[name]
    assert all(arguments.values()), "every argument has a text"


@pytest.mark.ros
def test_the_estimator_runs_with_its_defaults_and_ends_cleanly():
    with launched("estimator") as one:
        found = one.wait_for(r"\[dnls_estimator\]: dnls_ros .*, configuration (\w+);")
        # The node decides what 'auto' is; the file is the one that is named by default.
        assert found[1] == config_hash(load_parameters(CONFIG))
        assert one.interrupt() == 0
        assert "process has finished cleanly" in one.output


def write_config(path: Path) -> EstimatorConfig:
    text = (
        "dnls_estimator:\n  ros__parameters:\n    sensors: [fix]\n"
        "    sensor:\n      fix: {type: pose, topic: fix}\n"
    )
    path.write_text(text)
    return load_parameters(path)


@pytest.mark.ros
def test_namespace_and_arguments_win_over_the_file(tmp_path):
    config = write_config(tmp_path / "own.yaml")
    expected = replace(config, device="cpu", output_dir=str(tmp_path / "out"))
    given = (f"params_file:={tmp_path / 'own.yaml'}", "namespace:=robot1", "device:=cpu")
    with launched("estimator", *given, f"output_dir:={tmp_path / 'out'}") as one:
        found = one.wait_for(r"\[robot1\.dnls_estimator\]: dnls_ros .*, configuration (\w+);")
        assert found[1] == config_hash(expected)
        assert one.interrupt() == 0


@pytest.mark.ros
def test_with_a_lifecycle_manager_the_node_waits(tmp_path):
    with launched("estimator", "use_lifecycle_manager:=true", "log_level:=debug") as one:
        one.wait_for("process started")
        one.wait_for("dnls_estimator", 60.0)  # it lives and says so at this level
        time.sleep(1.0)
        assert "configuration" not in one.output
        assert one.interrupt() == 0


@pytest.mark.ros
def test_localization_2d_starts_the_front_end_too():
    with launched("localization_2d", "namespace:=r") as one:
        found = one.wait_for(r"\[r\.dnls_estimator\]: dnls_ros .*, configuration (\w+);")
        config = load_parameters(CONFIG)
        heard = replace(config.sensor("tags"), topic="landmark_frontend/observations")
        sensors = tuple(heard if s.name == "tags" else s for s in config.sensors)
        assert found[1] == config_hash(config.with_sensors(sensors))
        one.wait_for(r"landmark_frontend_node-\d+\]: process started")
        time.sleep(1.0)
        assert "has died" not in one.output
        assert one.interrupt() == 0
        assert one.output.count("process has finished cleanly") == 2


@pytest.mark.ros
@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ((), {}),
        (
            ("object:=disc", "ee_source:=tf", "namespace:=arm1"),
            {
                "type": "tf_pose",
                "topic": "",
                "target_frame": "ee",
                "throttle": 0.0,
                "expected_rate": 30.0,
            },
        ),
    ],
)
def test_tactile_pushing_starts_the_front_end_and_the_estimator_of_the_object(given, changes):
    shape = "disc" if given else "rect"
    config = load_parameters(ROOT / "config" / f"tactile_pushing_{shape}.yaml")
    finger = replace(config.sensor("ee_pose"), **changes)
    sensors = tuple(finger if s.name == "ee_pose" else s for s in config.sensors)
    with launched("tactile_pushing", *given) as one:
        found = one.wait_for(r"dnls_estimator\]: dnls_ros .*, configuration (\w+);")
        assert found[1] == config_hash(config.with_sensors(sensors))
        one.wait_for(r"tactile_frontend_node-\d+\]: process started")
        time.sleep(2.0)
        assert "has died" not in one.output
        assert one.interrupt() == 0
        assert one.output.count("process has finished cleanly") == 2, one.output


@pytest.mark.ros
def test_the_simulated_finger_is_followed_until_it_ends():
    with launched("demo_sim_push", "duration:=5", "fault:=drop", "fault_p:=0.2") as one:
        found = one.wait_for(r"sim_push\]: digit/image_raw (\d+)", 90.0)
        assert 90 < int(found[1]) < 150  # some are dropped
        assert one.wait(30.0) == 0, one.output
        assert "has died" not in one.output
        assert one.output.count("process has finished cleanly") == 3, one.output


@pytest.mark.ros
def test_the_trainer_waits_for_goals_and_ends_cleanly():
    with launched("train", "namespace:=arm") as one:
        one.wait_for(r"trainer_node-\d+\]: process started")
        time.sleep(6.0)  # it imports, and offers its action
        assert one.interrupt() == 0
        assert one.output.count("process has finished cleanly") == 1, one.output


@pytest.mark.ros
def test_the_demo_plays_a_recording_to_the_node_and_ends():
    with launched("demo", "duration:=3") as one:
        assert one.wait(120.0) == 0, one.output
        account = re.search(r"sensor 'odometry': received (\d+), accepted (\d+)", one.output)
        assert account, one.output
        assert int(account[2]) > 50
        assert one.output.count("process has finished cleanly") == 3


@pytest.mark.ros
def test_a_run_is_recorded_when_that_is_asked_for(tmp_path):
    given = ("duration:=3", "record:=true", f"output_dir:={tmp_path}")
    with launched("demo", *given) as one:
        assert one.wait(120.0) == 0, one.output
        assert one.output.count("process has finished cleanly") == 4, one.output
    (folder,) = {path.parent for path in tmp_path.rglob("odometry_filtered.tum")}
    poses = read_tum(folder / "odometry_filtered.tum")
    assert len(poses.stamps) > 30
    head, *rows = (folder / "solver_stats.csv").read_text().splitlines()
    assert "t_total" in head.split(",")
    assert len(rows) > 30
    assert "TRACKING" in (folder / "events.log").read_text()


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bag")
    assert main(["sim", "--seed", "1", "--duration", "3", "--out", str(folder)]) == 0
    return folder / "bag"


@pytest.mark.ros
def test_a_replay_writes_its_results_and_ends(bag, tmp_path):
    with launched("replay", f"bag:={bag}", f"output_dir:={tmp_path}", "duration:=2") as one:
        assert one.wait(90.0) == 0, one.output
        assert "has died" not in one.output
    assert len(list(tmp_path.rglob("robot.tum"))) == 1
    call = ["replay", str(bag), "--params", str(CONFIG), "--out", str(tmp_path / "same")]
    assert main([*call, "--duration", "2", "--min-coverage", "0"]) == 0
    first, second = sorted(tmp_path.rglob("robot.tum"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.ros
def test_the_doctor_looks_for_so_long_and_ends():
    with launched("doctor", "duration:=1") as one:
        one.wait(90.0)
        assert "odom" in one.output  # nobody publishes it, and the table says so
        assert "Traceback" not in one.output


REFUSED = [
    ("estimator", "params_file:=nowhere.yaml", "params_file 'nowhere.yaml' does not exist"),
    ("estimator", "params_file:=", "params_file is empty; give params_file:=/path/to/it"),
    ("estimator", "use_sim_time:=maybe", 'provided value "maybe" is not valid'),
    ("estimator", "log_level:=loud", 'provided value "loud" is not valid'),
    ("estimator", "parms_file:=x.yaml", "the nearest valid name is 'params_file'"),
    ("localization_2d", "tags_file:=none.yaml", "tags_file 'none.yaml' does not exist"),
    ("tactile_pushing", "object:=cube", "object is 'cube'; expected one of rect, disc"),
    ("tactile_pushing", "ee_source:=arm", 'provided value "arm" is not valid'),
    ("tactile_pushing", "model:=none.pt", "model 'none.pt' does not exist"),
    ("replay", "rate:=1", "bag is empty; give bag:=/path/to/it"),
    ("replay", "loop:=often", 'provided value "often" is not valid'),
    ("demo", "rate:=fast", "rate is 'fast'; expected a number of at least 0.01"),
    ("doctor", "duration:=-1", "duration is '-1'; expected a number of at least 0.1"),
]


@pytest.mark.ros
@pytest.mark.parametrize(("name", "argument", "text"), REFUSED, ids=lambda v: str(v)[:24])
def test_a_wrong_argument_ends_the_launch_before_anything_starts(name, argument, text):
    with launched(name, argument) as one:
        assert one.wait(30.0) != 0
        assert text in one.output
        assert "process started" not in one.output
