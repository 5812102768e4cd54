"""The command line: its files, figures and exit codes, on a short simulated recording."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dnls_ros.cli import main
from dnls_ros.cli.main import build_parser
from dnls_ros.io.bag import BagReader
from dnls_ros.io.convert import covariance_from_ros, pose_from_fields, stamp_to_ns
from dnls_ros.io.trajectory import Trajectory, read_covariances, read_tum, write_tum
from dnls_ros.window.parameter_table import NODE, SENSOR, TRACK

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "config" / "localization_2d.yaml"
DURATION = 4.0


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a simulated recording."""
    folder = tmp_path_factory.mktemp("recording")
    assert main(["sim", "--seed", "3", "--duration", str(DURATION), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def replayed(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a replay with full smoothing, by a process of its own."""
    out = tmp_path_factory.mktemp("replayed")
    done = dnls(
        "replay", recording / "bag", "--params", PARAMS, "--out", out, "--full", "--bag-out"
    )
    assert done.returncode == 0, done.stderr
    return out


def dnls(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own."""
    command = [sys.executable, "-m", "dnls_ros.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def last_json(text: str) -> dict[str, Any]:
    content = json.loads(text.strip().splitlines()[-1])
    assert isinstance(content, dict)
    return content


def parameters_with(tmp_path: Path, changes: Mapping[str, Any]) -> Path:
    """A copy of the demo's parameters with some sensors' rows changed: ``sensor.row`` → value."""
    content = yaml.safe_load(PARAMS.read_text())
    block = content["dnls_estimator"]["ros__parameters"]
    for name, value in changes.items():
        sensor, _, row = name.partition(".")
        if row:
            block["sensor"][sensor][row] = value
        else:
            block[sensor] = value
    map_file = block["sensor"].get("tags", {}).get("landmarks")
    if map_file:
        map_file["map_file"] = str(PARAMS.parent / map_file["map_file"])
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


# --- sim -----------------------------------------------------------------------------------------


def test_a_fault_changes_the_recording_but_not_the_truth(recording: Path, tmp_path: Path) -> None:
    call = ["sim", "--seed", "3", "--duration", str(DURATION), "--out"]
    assert main([*call, str(tmp_path), "--fault", "drop:odom:p=1.0"]) == 0
    assert (tmp_path / "truth.tum").read_bytes() == (recording / "truth.tum").read_bytes()
    with BagReader(tmp_path / "bag") as spoiled, BagReader(recording / "bag") as whole:
        assert spoiled.topics["odom"].count == 0
        assert whole.topics["odom"].count > 50
        others = {name: t.count for name, t in whole.topics.items() if name != "odom"}
        assert {name: t.count for name, t in spoiled.topics.items() if name != "odom"} == others


def test_a_bare_file_can_be_written_and_replaced(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = tmp_path / "run.mcap"
    for _ in range(2):
        call = ["sim", "--seed", "3", "--duration", str(DURATION), "--out", str(bag), "--json"]
        assert main(call) == 0
        assert last_json(capsys.readouterr().out)["bag"] == str(bag)
    assert (tmp_path / "run_truth.tum").read_bytes() == (recording / "truth.tum").read_bytes()
    with BagReader(bag) as one, BagReader(recording / "bag") as other:
        assert one.topics == other.topics


# --- replay --------------------------------------------------------------------------------------


def test_a_replay_is_byte_identical_for_any_rate_and_number_of_threads(
    recording: Path, replayed: Path, tmp_path: Path
) -> None:
    call = ["replay", recording / "bag", "--params", PARAMS, "--full", "--bag-out"]
    expected = files_of(replayed)
    assert {"robot.tum", "robot_smoothed.tum", "robot_cov.csv", "solver_stats.csv"} < set(expected)
    assert {"measurements.csv", "status.json", "out.mcap", "robot_causal.tum"} < set(expected)
    for out, options in (("a", ["--threads", 2]), ("b", ["--rate", 4])):
        done = dnls(*call, "--out", tmp_path / out, *options)
        assert done.returncode == 0, done.stderr
        assert files_of(tmp_path / out) == expected


def test_every_message_of_the_recording_is_accounted_for(recording: Path, replayed: Path) -> None:
    status = json.loads((replayed / "status.json").read_text())
    rows = (replayed / "measurements.csv").read_text().splitlines()[1:]
    topics = {"odometry": "odom", "tags": "camera/tag_detections", "absolute": "gps_pose"}
    topics["imu"] = "imu"
    with BagReader(recording / "bag") as bag:
        sent = {sensor: bag.topics[topic].count for sensor, topic in topics.items()}
    for sensor, account in status["sensors"].items():
        rejected = sum(account["rejected"].values())
        assert account["received"] == sent[sensor]
        assert account["received"] == account["accepted"] + rejected + account["waiting"]
        settled = [row for row in rows if row.startswith(sensor + ",")]
        assert len(settled) == account["accepted"] + rejected
    assert status["coverage"] > 0.95
    assert (
        status["steps"]["count"]
        == len((replayed / "solver_stats.csv").read_text().splitlines()) - 1
    )


def test_the_hashes_are_those_of_the_trajectories(replayed: Path) -> None:
    status = json.loads((replayed / "status.json").read_text())
    assert set(status["sha256"]) == {"robot.tum", "robot_causal.tum", "robot_smoothed.tum"}
    for name, digest in status["sha256"].items():
        assert hashlib.sha256((replayed / name).read_bytes()).hexdigest() == digest


def test_no_file_names_a_place_of_this_machine(replayed: Path) -> None:
    for name, data in files_of(replayed).items():
        assert str(ROOT).encode() not in data, name
        assert b"/tmp" not in data, name


def test_the_result_bag_holds_the_causal_estimate_with_its_covariances(replayed: Path) -> None:
    causal = read_covariances(replayed / "robot_cov.csv", read_tum(replayed / "robot_causal.tum"))
    with BagReader(replayed / "out.mcap") as bag:
        messages = [r.message for r in bag.records(["odometry/filtered"])]
    stamps = [stamp_to_ns(m.header.stamp.sec, m.header.stamp.nanosec) for m in messages]
    poses = np.array([pose_from_fields(m.pose.pose) for m in messages])
    ros = np.array([m.pose.covariance for m in messages]).reshape(-1, 6, 6)
    assert stamps == causal.stamps.tolist()
    np.testing.assert_array_equal(poses, causal.poses)
    assert causal.covariances is not None
    np.testing.assert_allclose(
        covariance_from_ros(ros, poses), causal.covariances, rtol=1e-9, atol=1e-15
    )
    assert {m.header.frame_id for m in messages} == {"map"}
    assert {m.child_frame_id for m in messages} == {"base_link"}


def test_the_corner_statistics_are_those_of_the_simulated_pixel_noise(
    recording: Path, replayed: Path
) -> None:
    with BagReader(recording / "bag") as bag:
        images = [r.message for r in bag.records(["camera/tag_detections"])]
    seen = 4 * sum(len(image.detections) for image in images)
    pixels = json.loads((replayed / "status.json").read_text())["reprojection_px"]
    assert 0.95 * seen <= pixels["corners"] <= seen
    # Rayleigh's law for a standard deviation of 0.4 px in u and v: quantiles 0.4 √(−2 ln(1 − p)).
    assert pixels["median"] == pytest.approx(0.4 * np.sqrt(2 * np.log(2)), rel=0.1)
    assert pixels["p90"] == pytest.approx(0.4 * np.sqrt(2 * np.log(10)), rel=0.1)


def test_a_replay_passes_or_fails_its_gates(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["replay", str(recording / "bag"), "--params", str(PARAMS), "--out", str(tmp_path)]
    call += ["--duration", "2", "--check", str(recording / "truth.tum"), "--json"]
    assert main([*call, "--tol-ate", "0.2", "--tol-are", "0.1"]) == 0
    figures = last_json(capsys.readouterr().out)
    assert figures["failures"] == []
    assert figures["check"]["robot"]["ate_rmse_m"] < 0.2
    assert main([*call, "--tol-ate", "1e-6", "--min-coverage", "1.0"]) == 1
    printed = capsys.readouterr()
    assert "coverage" in printed.err
    assert "ATE" in printed.err
    assert len(last_json(printed.out)["failures"]) == 2


def test_an_absent_topic_is_a_warning_and_none_present_an_error(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["replay", str(recording / "bag"), "--out", str(tmp_path / "out"), "--duration", "1"]
    some = parameters_with(tmp_path, {"tags.topic": "nowhere"})
    assert main([*call, "--params", str(some), "--min-coverage", "0"]) == 0
    assert "has no topic nowhere" in capsys.readouterr().err
    none = {f"{s}.topic": f"nowhere_{s}" for s in ("odometry", "imu", "tags", "absolute")}
    nothing = parameters_with(tmp_path, {**none, "tags.camera_info_topic": "nowhere_info"})
    assert main([*call, "--params", str(nothing)]) == 3
    assert_one_line(capsys.readouterr().err, "has none of the topics")


def test_a_track_that_never_starts_is_a_failed_replay(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = parameters_with(tmp_path, {"absolute.topic": "nowhere", "tags.topic": "nowhere_too"})
    call = ["replay", str(recording / "bag"), "--out", str(tmp_path / "out"), "--duration", "1"]
    assert main([*call, "--params", str(silent), "--min-coverage", "0", "--bag-out"]) == 1
    assert "never started" in capsys.readouterr().err
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert status["coverage"] == 0.0
    assert (tmp_path / "out" / "robot.tum").read_text() == ""


def test_faults_are_part_of_a_replay(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["replay", str(recording / "bag"), "--params", str(PARAMS), "--out", str(tmp_path)]
    call += ["--duration", "1.5", "--min-coverage", "0", "--json"]
    assert main([*call, "--fault", "nan:tags:p=1.0", "--fault", "duplicate:odometry:p=1"]) == 0
    sensors = last_json(capsys.readouterr().out)["sensors"]
    assert sensors["tags"]["rejected"]["NOT_FINITE"] == sensors["tags"]["received"]
    assert sensors["odometry"]["rejected"]["DUPLICATE"] == sensors["odometry"]["received"] / 2


# --- errors --------------------------------------------------------------------------------------


def assert_one_line(text: str, part: str) -> None:
    """One line that begins with the program's name and holds what matters; no traceback."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("dnls: ")
    assert part in lines[0]


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ([], 2, "COMMAND"),
        (["fly"], 2, "'fly'"),
        (["replay"], 2, "--params"),
        (["sim", "--out", "x", "--duration", "-1"], 2, "--duration"),
        (["sim", "--out", "x", "--fault", "explode:odom:p=1"], 2, "explode"),
        (["sim", "--out", "x", "--scene", "missing.yaml"], 3, "missing.yaml"),
        (["replay", "missing", "--params", str(PARAMS), "--out", "x"], 3, "missing"),
        (["replay", "missing", "--params", "missing.yaml", "--out", "x"], 2, "missing.yaml"),
        (["replay", "m", "--params", str(PARAMS), "--out", "x", "--threads", "0"], 2, "--threads"),
        (["replay", "m", "--params", str(PARAMS), "--out", "x", "--device", "tpu"], 2, "tpu"),
        (["eval", "m", "m", "--device", "cuda:99"], 2, "cuda:99"),
        (["demo", "--out", "x", "--device", "cuda:99"], 2, "cuda:99"),
        (["eval", "missing.tum", "other.tum"], 3, "missing.tum"),
        (["convert", "mrclam", "missing", "--out", "x"], 3, "missing"),
        (["convert", "slamcore", "missing", "--out", "x"], 3, "missing"),
        (["doctor"], 2, "bag"),
        (["doctor", "missing"], 3, "missing"),
        (["doctor", "missing", "--params", "missing.yaml"], 2, "missing.yaml"),
        (["doctor", "missing", "--duration", "0"], 2, "--duration"),
        (["convert", "mrclam", "missing", "--out", "x", "--robot", "9"], 2, "--robot"),
        (["params"], 2, "--check"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    arguments: list[str],
    code: int,
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    assert_one_line(capsys.readouterr().err, part)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_recording_is_unreadable(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = next((recording / "bag").glob("*.mcap")).read_bytes()
    for name, data in (("cut.mcap", whole[: len(whole) // 3]), ("empty.mcap", b"")):
        (tmp_path / name).write_bytes(data)
        call = ["replay", str(tmp_path / name), "--params", str(PARAMS), "--out", str(tmp_path)]
        assert main(call) == 3
        assert_one_line(capsys.readouterr().err, name)


def test_an_unknown_parameter_is_named_with_its_neighbour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = parameters_with(tmp_path, {"absolute.gate_probabilty": 0.9})
    assert main(["params", "--check", str(wrong)]) == 2
    text = capsys.readouterr().err
    assert "sensor.absolute.gate_probabilty" in text
    assert "sensor.absolute.gate_probability" in text


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (RuntimeError, 4)])
def test_interruptions_and_our_own_mistakes_have_codes_of_their_own(
    error: type[BaseException],
    code: int,
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error("on purpose")

    monkeypatch.setattr("dnls_ros.cli.replay.replay", fail)
    call = [
        "replay",
        str(recording / "bag"),
        "--params",
        str(PARAMS),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(call) == code
    assert ("Traceback" in capsys.readouterr().err) == (code == 4)
    assert not (tmp_path / "o").exists()


def test_the_command_line_needs_no_ros() -> None:
    code = "import sys, dnls_ros.cli; print({'rclpy', 'dnls_ros.ros'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- eval, params --------------------------------------------------------------------------------


def shifted(path: Path, out: Path, by: float) -> Path:
    """A trajectory moved along x, as a file."""
    trajectory = read_tum(path)
    poses = trajectory.poses.copy()
    poses[:, 0] += by
    write_tum(out, Trajectory(trajectory.stamps, poses))
    return out


def test_a_shift_is_an_error_until_it_is_aligned_away(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = recording / "truth.tum"
    moved = shifted(truth, tmp_path / "moved.tum", 0.3)
    assert main(["eval", str(moved), str(truth), "--json"]) == 0
    assert last_json(capsys.readouterr().out)["ate_rmse_m"] == pytest.approx(0.3, abs=1e-12)
    assert main(["eval", str(moved), str(truth), "--json", "--align", "se3"]) == 0
    assert last_json(capsys.readouterr().out)["ate_rmse_m"] == pytest.approx(0.0, abs=1e-9)


def test_a_baseline_bounds_the_figures(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = recording / "truth.tum"
    assert main(["eval", str(shifted(truth, tmp_path / "a", 0.30)), str(truth), "--json"]) == 0
    baseline = tmp_path / "baseline.txt"
    baseline.write_text(capsys.readouterr().out)  # the table before the JSON does no harm
    call = ["eval", str(shifted(truth, tmp_path / "b", 0.32)), str(truth)]
    assert main([*call, "--baseline", str(baseline)]) == 0
    assert main([*call, "--baseline", str(baseline), "--threshold", "5%"]) == 1
    assert "ate_rmse_m is 0.32, was 0.3" in capsys.readouterr().err
    (tmp_path / "no").write_text("{}")
    assert main([*call, "--baseline", str(tmp_path / "no")]) == 3


def test_the_covariances_of_a_replay_give_a_nees_and_a_picture(
    recording: Path, replayed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["eval", str(replayed / "robot_causal.tum"), str(recording / "truth.tum"), "--json"]
    call += ["--cov", str(replayed / "robot_cov.csv"), "--planar", "--interpolate"]
    assert main([*call, "--plot", str(tmp_path / "p.png")]) == 0
    assert 0.2 < last_json(capsys.readouterr().out)["nees_per_dof"] < 3.0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_parameters_are_documented_from_their_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    every = [r.name for r in NODE] + [f"track.NAME.{r.name}" for r in TRACK]
    every += [f"sensor.NAME.{r.name}" for r in SENSOR]
    for option in ("--list", "--markdown"):
        assert main(["params", option]) == 0
        text = capsys.readouterr().out
        assert all(name in text for name in every)


def test_the_exhaustive_parameter_file_is_a_valid_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["params", "--yaml"]) == 0
    file = tmp_path / "all.yaml"
    file.write_text(capsys.readouterr().out)
    assert main(["params", "--check", str(file)]) == 0
    assert "is valid: tracks object (se2); sensors gps (pose)" in capsys.readouterr().out


def test_a_parameter_file_with_problems_lists_them_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("{windw.duration: 1.0, solver.rate: 1000.0, sensors: gps}")
    assert main(["params", "--check", str(file)]) == 2
    said = capsys.readouterr().err
    assert (
        "windw.duration: is not a parameter; the nearest valid name is 'window.duration'" in said
    )
    assert "solver.rate: got 1000; expected 0.5..500 Hz" in said
    assert "sensors: got 'gps'; expected a list of texts" in said


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sim", "replay", "doctor", "eval", "convert", "params", "demo"):
        with pytest.raises(SystemExit) as done:
            build_parser().parse_args([name, "--help"])
        assert done.value.code == 0
        assert name in capsys.readouterr().out


# --- demo ----------------------------------------------------------------------------------------


def assert_demo_files(out: Path) -> None:
    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert (out / "trajectory.png").read_bytes().startswith(b"\x89PNG")
    assert len(read_tum(out / "trajectory.tum")) > 50


def test_the_demo_beats_odometry_and_nearly_reaches_full_smoothing(tmp_path: Path) -> None:
    done = dnls("demo", "--out", tmp_path, "--duration", 6, "--no-live", "--json")
    assert done.returncode == 0, done.stderr
    figures = last_json(done.stdout)
    ate = {name: one["ate_rmse_m"] for name, one in figures["evaluations"].items()}
    assert ate["fixed lag"] < 0.2 * ate["odometry alone"]
    assert ate["fixed lag"] < 1.2 * ate["full smoothing"]
    assert figures["live"] is None
    assert_demo_files(tmp_path)


@pytest.mark.ros
def test_the_demo_runs_the_live_node_to_the_same_poses(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    done = dnls("demo", "--out", tmp_path, "--duration", 4, "--json")
    assert done.returncode == 0, done.stderr
    live = last_json(done.stdout)["live"]
    assert live["poses"] >= 0.9 * live["expected"]
    assert live["max_m"] <= 1e-3
    assert live["max_rad"] <= 1e-3
    assert len(read_tum(tmp_path / "live.tum")) >= live["poses"]
    assert_demo_files(tmp_path)


def test_without_ros_the_demo_says_so_and_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "dnls_ros.ros.live", None)  # importing it fails
    assert main(["demo", "--out", str(tmp_path), "--duration", "4"]) in (0, 1)
    assert "ROS 2 is not installed here" in capsys.readouterr().out
    assert_demo_files(tmp_path)


def test_warmup_says_where_kernels_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("numba")
    assert main(["warmup", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["kernels"] is True
    assert set(figures["seconds"]) == {"SE(2) windows", "SE(3) windows"}
    assert Path(figures["folder"]).name.startswith("kernels-")


def test_warmup_without_numba_is_no_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnls_ros.linear.has_kernels", lambda: False)
    assert main(["warmup"]) == 0
    assert "numba is not installed" in capsys.readouterr().out
