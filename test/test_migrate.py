"""Parameters of robot_localization become ours: values, units, what is lost, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dnls_ros.cli.main import main
from dnls_ros.io.migrate import CONTROL, NO_EQUIVALENT, SILENT, Kind, migrate
from dnls_ros.io.robot_localization import STATE, read_filters
from dnls_ros.window.parameters import load_parameters

ROOT = Path(__file__).resolve().parents[1]


def config(*axes: str) -> list[bool]:
    """The 15 truth values that switch some axes on."""
    return [axis in axes for axis in STATE]


WHEELS = {"odom0": "wheels", "odom0_config": config("vx", "vy", "vyaw")}
GYRO = {"imu0": "imu", "imu0_config": config("vyaw")}
RECEIVER = {"pose0": "fix", "pose0_config": config("x", "y", "yaw")}


def write(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def migrated(tmp_path: Path, values: dict[str, Any]) -> tuple[Any, dict[str, Any], list[Any]]:
    """The configuration that comes of a ROS 2 file with one filter, the YAML, and the notes."""
    source = write(tmp_path / "ekf.yaml", {"ekf_node": {"ros__parameters": values}})
    out = tmp_path / "est.yaml"
    assert main(["migrate", str(source), "--out", str(out)]) in (0, 1)
    parameters = yaml.safe_load(out.read_text())["dnls_estimator"]["ros__parameters"]
    filters, _ = read_filters(source)
    return load_parameters(out), parameters, migrate(filters[0]).notes


def notes_of(notes: list[Any], kind: Kind) -> set[str]:
    return {note.parameter for note in notes if note.kind is kind}


def test_a_plain_filter_becomes_a_configuration_that_loads(tmp_path, capsys):
    values = {"two_d_mode": True, "frequency": 20.0, "publish_tf": True, **WHEELS, **GYRO}
    ours, _, notes = migrated(tmp_path, values)
    assert [(s.name, s.type, s.topic) for s in ours.sensors] == [
        ("odom0", "odometry", "wheels"),
        ("imu0", "imu", "imu"),
    ]
    assert ours.sensor("odom0").axes == ("vx", "vy", "vyaw")
    assert ours.sensor("odom0").measures_twist
    assert ours.sensor("imu0").axes == ("vyaw",)
    assert ours.tracks[0].manifold == "se2"
    assert ours.tracks[0].child_frame == "base_link"
    assert (ours.world_frame, ours.solver.rate, ours.publish.tf) == ("odom", 20.0, True)
    assert not notes_of(notes, Kind.LOST)
    assert not notes_of(notes, Kind.OPEN)
    assert main(["params", "--check", str(tmp_path / "est.yaml")]) == 0
    assert main(["migrate", str(tmp_path / "ekf.yaml"), "--out", str(tmp_path / "b.yaml")]) == 0


def test_process_noise_of_velocities_becomes_the_noise_of_motion(tmp_path):
    noise = [float(k + 1) / 100.0 for k in range(15)]
    matrix = np.diag(noise).ravel().tolist()
    for given in (noise, matrix):
        values = {"process_noise_covariance": given, "two_d_mode": True, **WHEELS}
        ours, _, notes = migrated(tmp_path, values)
        expected = np.sqrt([noise[6], noise[7], noise[11]])
        assert ours.tracks[0].motion_sigma == pytest.approx(expected, rel=1e-3)
        assert "process_noise_covariance" not in notes_of(notes, Kind.LOST)
    spatial, _, _ = migrated(tmp_path, {"process_noise_covariance": noise, **WHEELS})
    assert spatial.tracks[0].motion_sigma == pytest.approx(np.sqrt(noise[6:12]), rel=1e-3)
    matrix[1] = 0.1
    _, _, notes = migrated(tmp_path, {"process_noise_covariance": matrix, **WHEELS})
    assert "process_noise_covariance" in notes_of(notes, Kind.LOST)


def test_a_rejection_threshold_becomes_a_probability(tmp_path):
    # χ² with two degrees of freedom has the closed form 1 - exp(-d²/2).
    values = {**RECEIVER, "pose0_config": config("x", "y"), "pose0_rejection_threshold": 2.0}
    ours, _, notes = migrated(tmp_path, {"two_d_mode": True, **values})
    assert ours.sensor("pose0").gate_probability == pytest.approx(1 - np.exp(-2.0), abs=1e-6)
    assert not [p for p in notes_of(notes, Kind.CHANGED) if "threshold" in p]
    values["pose0_rejection_threshold"] = 9.0
    ours, _, notes = migrated(tmp_path, {"two_d_mode": True, **values})
    assert ours.sensor("pose0").gate_probability == 0.999999
    assert "pose0_rejection_threshold" in notes_of(notes, Kind.CHANGED)


def test_pose_and_motion_of_one_odometry_have_gates_of_their_own(tmp_path):
    both = {"odom0": "o", "odom0_config": config("x", "y", "yaw", "vx", "vyaw")}
    gates = {"odom0_pose_rejection_threshold": 4.0, "odom0_twist_rejection_threshold": 2.0}
    ours, _, _ = migrated(tmp_path, {"two_d_mode": True, **both, **gates})
    pose, twist = ours.sensor("odom0"), ours.sensor("odom0_twist")
    assert (pose.topic, twist.topic) == ("o", "o")
    assert (pose.measures_twist, twist.measures_twist) == (False, True)
    assert (pose.axes, twist.axes) == (("x", "y", "yaw"), ("vx", "vyaw"))
    assert twist.gate_probability == pytest.approx(1 - np.exp(-2.0), abs=1e-6)
    assert pose.gate_probability > twist.gate_probability
    assert ours.init.mode == "first_measurement"


def test_differences_of_poses_and_velocities_of_one_odometry_stay_two_sensors(tmp_path):
    both = {"odom0": "o", "odom0_config": config("x", "y", "yaw", "vx", "vyaw")}
    ours, _, notes = migrated(tmp_path, {"two_d_mode": True, **both, "odom0_differential": True})
    assert ours.sensor("odom0").differential
    assert ours.sensor("odom0").axes == ("x", "y", "yaw")
    assert ours.sensor("odom0_twist").axes == ("vx", "vyaw")
    assert {"odom0_config", "odom0_differential"} <= notes_of(notes, Kind.CHANGED)


def test_the_plane_takes_out_what_is_not_in_it(tmp_path):
    everything = {"imu0": "imu", "imu0_config": config(*STATE[3:6], *STATE[9:15]), **WHEELS}
    ours, _, notes = migrated(tmp_path, {"two_d_mode": True, **everything})
    assert ours.sensor("imu0").axes == ("yaw", "vyaw")
    lost = [note.why for note in notes if note.parameter == "imu0_config"]
    assert lost == ["accelerations (ax ay) are not fused; orientation and gyro are"]
    spatial, _, _ = migrated(tmp_path, everything)
    assert len(spatial.sensor("imu0").axes) == 6
    assert spatial.tracks[0].manifold == "se3"


def test_the_first_pose_is_the_filters(tmp_path):
    state = [1.0, 2.0, 3.0, 0.1, 0.2, 0.3, *[0.0] * 9]
    variances = [0.04, 0.09, 0.16, 0.01, 0.01, 0.25, *[1.0] * 9]
    values = {"initial_state": state, "initial_estimate_covariance": variances, **WHEELS}
    ours, _, _ = migrated(tmp_path, values)
    assert ours.init.mode == "params"
    assert ours.init.pose == tuple(state[:6])
    assert ours.init.sigma == pytest.approx(np.sqrt(variances[:6]))
    planar, _, notes = migrated(tmp_path, {**values, "two_d_mode": True})
    assert planar.init.pose == (1.0, 2.0, 0.3)
    assert "initial_state" not in notes_of(notes, Kind.LOST)
    _, _, notes = migrated(tmp_path, {**values, "initial_state": [*state[:6], *[1.0] * 9]})
    assert "initial_state" in notes_of(notes, Kind.LOST)


def test_an_axis_that_a_sensor_measures_starts_open(tmp_path):
    compass = {"imu0": "imu", "imu0_config": config("yaw", "vyaw")}
    ours, _, _ = migrated(tmp_path, {"two_d_mode": True, **WHEELS, **compass})
    x, y, yaw = ours.init.sigma
    assert (x, y) == (1e-4, 1e-4)  # nothing else says where
    assert yaw > 3.0


def test_rates_above_what_a_window_is_for_are_met_by_prediction(tmp_path):
    ours, _, _ = migrated(tmp_path, {"frequency": 200.0, **WHEELS})
    assert (ours.solver.rate, ours.publish.predicted_rate) == (30.0, 200.0)
    slow, _, _ = migrated(tmp_path, {"frequency": 10.0, **WHEELS})
    assert (slow.solver.rate, slow.publish.predicted_rate) == (10.0, 0.0)


def test_time_and_tf_are_carried_over(tmp_path):
    values = {
        "transform_time_offset": 0.05,
        "transform_timeout": 0.2,
        "sensor_timeout": 0.4,
        "reset_on_time_jump": True,
        "smooth_lagged_data": True,
        "history_length": 40.0,
        "publish_tf": False,
        "base_link_frame": "base",
        "base_link_frame_output": "footprint",
        "world_frame": "map",
        "disabled_at_startup": True,
        "predict_to_current_time": True,
        "frequency": 25.0,
    }
    ours, _, notes = migrated(tmp_path, {**values, **WHEELS})
    assert (ours.publish.tf_offset, ours.tf.timeout, ours.health.stale_after) == (0.05, 0.2, 0.4)
    assert ours.time.on_jump_back == "reset"
    assert (ours.window.duration, ours.tf.cache) == (40.0, 41.0)
    assert (ours.publish.tf, ours.autostart) == (False, False)
    assert (ours.world_frame, ours.tracks[0].child_frame) == ("map", "footprint")
    assert ours.publish.predicted_rate == 25.0
    assert not notes_of(notes, Kind.LOST)


def test_input_options_are_carried_over_or_named(tmp_path):
    options = {
        "pose0_differential": True,
        "pose0_relative": True,
        "pose0_queue_size": 7,
        "pose0_nodelay": True,
        "imu0_remove_gravitational_acceleration": True,
        "imu0_linear_acceleration_rejection_threshold": 0.8,
    }
    ours, _, notes = migrated(tmp_path, {"two_d_mode": True, **RECEIVER, **GYRO, **options})
    assert ours.sensor("pose0").differential
    assert ours.sensor("pose0").qos.depth == 7
    assert notes_of(notes, Kind.OPEN) == {"pose0_differential"}  # nobody knows its noise
    assert notes_of(notes, Kind.LOST) == {"pose0_relative"}
    assert {"pose0_nodelay", "imu0_remove_gravitational_acceleration"} <= notes_of(
        notes, Kind.SILENT
    )


@pytest.mark.parametrize("name", sorted({*NO_EQUIVALENT, *SILENT}))
def test_what_has_no_equivalent_is_named_with_its_reason(tmp_path, name):
    values = {name: True, "use_control": True, **WHEELS} if name in CONTROL else {name: True}
    _, _, notes = migrated(tmp_path, {**values, **WHEELS})
    (note,) = [note for note in notes if note.parameter == name]
    assert note.kind is (Kind.SILENT if name in SILENT else Kind.LOST)
    assert len(note.why) > 10
    assert f"#   {name}: {note.why}" in (tmp_path / "est.yaml").read_text()


def test_what_is_switched_off_is_not_missed(tmp_path, capsys):
    off = {"use_control": False, "control_config": [True] * 6, "publish_acceleration": False}
    _, _, notes = migrated(tmp_path, {**off, **WHEELS})
    assert not notes_of(notes, Kind.LOST)
    _, _, notes = migrated(tmp_path, {**off, "speling": 1, "odom0_speling": 1, **WHEELS})
    assert notes_of(notes, Kind.LOST) == {"speling", "odom0_speling"}
    source = str(tmp_path / "ekf.yaml")
    assert main(["migrate", source, "--out", str(tmp_path / "c.yaml"), "--json"]) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"kind", "parameter", "why"} == set(last["filters"][0]["notes"][0])


def dual() -> dict[str, dict[str, Any]]:
    return {
        "ekf_odom": {"world_frame": "odom", "two_d_mode": True, **WHEELS, **GYRO},
        "ekf_map": {"world_frame": "map", "two_d_mode": True, **WHEELS, **RECEIVER},
        "navsat_transform": {"zero_altitude": True, "yaw_offset": 0.0},
    }


@pytest.mark.parametrize("ros", [1, 2])
def test_both_filters_of_a_file_become_files(tmp_path, capsys, ros):
    content: dict[str, Any] = dual()
    if ros == 2:
        content = {name: {"ros__parameters": values} for name, values in content.items()}
    source, out = write(tmp_path / "dual.yaml", content), tmp_path / "est.yaml"
    assert main(["migrate", str(source), "--out", str(out)]) == 1  # navsat_transform is lost
    assert "'navsat_transform' is no filter" in capsys.readouterr().err
    odom = load_parameters(tmp_path / "est.ekf_odom.yaml")
    the_map = load_parameters(tmp_path / "est.ekf_map.yaml", node="any_name")
    assert (odom.world_frame, the_map.world_frame) == ("odom", "map")
    assert [s.name for s in the_map.sensors] == ["odom0", "pose0"]
    assert the_map.init.mode == "first_measurement"
    assert not out.exists()
    assert main(["migrate", str(source), "--out", str(out), "--node", "ekf_map"]) == 0
    assert load_parameters(out).world_frame == "map"
    assert main(["migrate", str(source), "--out", str(out), "--node", "no"]) == 2


def test_values_without_any_section_are_read(tmp_path):
    source = write(tmp_path / "flat.yaml", {"two_d_mode": True, **WHEELS})
    assert main(["migrate", str(source), "--out", str(tmp_path / "e.yaml")]) == 0
    assert load_parameters(tmp_path / "e.yaml").sensor("odom0").topic == "wheels"


def test_sections_for_every_node_count_for_each(tmp_path):
    content = {
        "/**": {"ros__parameters": {"two_d_mode": True, "use_sim_time": True}},
        "robot": {"ekf": {"ros__parameters": WHEELS}},
    }
    source = write(tmp_path / "ekf.yaml", content)
    (one,), others = read_filters(source)
    assert (one.node, others) == ("robot/ekf", ())
    assert one.values["two_d_mode"] is True
    assert main(["migrate", str(source), "--out", str(tmp_path / "e.yaml")]) == 0
    assert "use_sim_time: true" in (tmp_path / "e.yaml").read_text()


def test_a_filter_that_reads_what_we_publish_is_written_and_the_clash_named(tmp_path, capsys):
    values = {"odom0": "odometry/filtered", "odom0_config": config("vx", "vyaw")}
    source = write(tmp_path / "ekf.yaml", {"ekf": {"ros__parameters": values}})
    assert main(["migrate", str(source), "--out", str(tmp_path / "e.yaml")]) == 1
    printed = capsys.readouterr().out
    assert "sensor.odom0.topic: 'odometry/filtered' is one of the estimator's own" in printed
    assert (tmp_path / "e.yaml").exists()


WRONG = [
    ({"frequency": "fast"}, "frequency: got 'fast'; expected a number"),
    ({"frequency": 0.0}, "frequency: got 0; expected a number above 0"),
    ({"two_d_mode": "yes"}, "two_d_mode: got 'yes'; expected true or false"),
    ({"odom0_config": [True] * 12}, "expected 15 times true or false"),
    ({"odom0_config": None}, "odom0_config is missing; expected 15 times true or false"),
    ({"odom0": 3}, "odom0: got 3; expected the name of a topic"),
    ({"odom0_queue_size": 2.5}, "odom0_queue_size: got 2.5; expected an integer"),
    ({"odom0_differential": 1}, "odom0_differential: got 1; expected true or false"),
    ({"odom0_twist_rejection_threshold": -1.0}, "expected a positive number"),
    ({"process_noise_covariance": [1.0] * 3}, "expected 15 or 225 finite numbers"),
    ({"process_noise_covariance": [-1.0] * 15}, "has negative numbers"),
    ({"initial_state": [float("nan")] * 15}, "expected 15 finite numbers"),
    ({"initial_estimate_covariance": [-1.0] * 15}, "has negative numbers"),
]


@pytest.mark.parametrize(("values", "text"), WRONG, ids=lambda v: str(v)[:40])
def test_a_wrong_value_is_one_line_and_writes_nothing(tmp_path, capsys, values, text):
    given = {**WHEELS, **values}
    source = write(tmp_path / "ekf.yaml", {"ekf": {"ros__parameters": given}})
    assert main(["migrate", str(source), "--out", str(tmp_path / "e.yaml")]) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "e.yaml").exists()


def test_files_that_are_no_filter_are_refused(tmp_path, capsys):
    out = str(tmp_path / "e.yaml")
    assert main(["migrate", str(tmp_path / "absent.yaml"), "--out", out]) == 3
    other = write(tmp_path / "o.yaml", {"amcl": {"ros__parameters": {"alpha1": 0.2}}})
    assert main(["migrate", str(other), "--out", out]) == 2
    assert "no section names an input" in capsys.readouterr().err
    (tmp_path / "broken.yaml").write_text("a: [1")
    assert main(["migrate", str(tmp_path / "broken.yaml"), "--out", out]) == 2
    useless = {"imu0": "imu", "imu0_config": config("ax")}
    source = write(tmp_path / "u.yaml", {"ekf": {"ros__parameters": useless}})
    assert main(["migrate", str(source), "--out", out]) == 2
    assert "measures anything that can be used" in capsys.readouterr().err
    assert not Path(out).exists()
