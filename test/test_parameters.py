"""The parameter table: what it accepts, what it refuses and with which words."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.scene import load_scene
from dnls_ros.window.landmark_file import read_landmark_map
from dnls_ros.window.parameter_checks import own_outputs, warnings_of
from dnls_ros.window.parameter_file import read_file, write_yaml
from dnls_ros.window.parameter_table import NODE, SENSOR, TRACK
from dnls_ros.window.parameters import config_hash, declared, flat, load_parameters

CONFIG = Path(__file__).parents[1] / "config"
SHIPPED = ("minimal_pose", "localization_2d", "mocap_object_se3")


def minimal(**changes: Any) -> dict[str, Any]:
    """One absolute pose sensor, and whatever a test changes (dotted names with __ for the dot)."""
    base = {"sensors": ["gps"], "sensor.gps.type": "pose", "sensor.gps.topic": "fix"}
    return base | {name.replace("__", "."): value for name, value in changes.items()}


def problems_of(parameters: dict[str, Any]) -> list[str]:
    with pytest.raises(DnlsError) as caught:
        load_parameters(parameters)
    heading, *lines = str(caught.value).split("\n  - ")
    assert f"{len(lines)} problem" in heading
    return lines


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_configuration_loads_and_survives_the_round_trip(name):
    config = load_parameters(CONFIG / f"{name}.yaml")
    assert load_parameters(flat(config)) == config
    assert config_hash(load_parameters(flat(config))) == config_hash(config)


def test_every_row_is_declared_once_with_a_value_of_its_type():
    config = load_parameters(minimal())
    names = [d.name for d in declared(config)]
    assert len(names) == len(set(names)) == len(NODE) + len(TRACK) + len(SENSOR)
    kinds = {"bool": bool, "int": int, "double": float, "string": str}
    for declaration in declared(config):
        kind = declaration.row.type
        values = declaration.value if kind.endswith("[]") else [declaration.value]
        assert all(type(value) is kinds[kind.removesuffix("[]")] for value in values), declaration


def test_every_row_of_the_table_is_a_field_of_the_configuration():
    config = load_parameters(minimal())
    for rows, item in ((NODE, config), (TRACK, config.tracks[0]), (SENSOR, config.sensors[0])):
        fields = {row.name.split(".")[0] for row in rows}
        names = {field.name for field in dataclasses.fields(item)}
        assert names - {"name"} == fields - {"name"}


def test_defaults_are_those_of_the_table():
    values = flat(load_parameters(minimal()))
    for row in NODE:
        if row.name not in ("sensors", "tracks"):
            expected = list(row.default) if isinstance(row.default, tuple) else row.default
            assert values[row.name] == expected, row.name


def test_nested_and_dotted_names_mean_the_same():
    nested = {"sensors": ["gps"], "sensor": {"gps": {"type": "pose", "topic": "fix"}}}
    assert load_parameters(nested) == load_parameters(minimal())


def test_sections_for_every_node_and_for_this_one_are_merged(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(
        "/**:\n  ros__parameters: {solver.rate: 3.0, num_threads: 1}\n"
        "robot:\n  dnls_estimator:\n    ros__parameters:\n"
        "      solver.rate: 4.0\n      sensors: [gps]\n"
        "      sensor.gps: {type: pose, topic: fix}\n"
        "other:\n  ros__parameters: {solver.rate: 5.0, nonsense: 1}\n"
    )
    config = load_parameters(file)
    assert (config.solver.rate, config.num_threads) == (4.0, 1)


def test_a_file_without_a_section_for_the_node_names_those_it_has(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("ekf:\n  ros__parameters: {num_threads: 3}\n")
    with pytest.raises(DnlsError, match=r"no section for node 'dnls_estimator'.*'/ekf'"):
        load_parameters(file)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "a: {b: 1, b: 2}"])
def test_a_broken_file_is_one_error_with_its_path(tmp_path, text):
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(DnlsError, match=str(file)):
        load_parameters(file)


def test_a_missing_file_is_unreadable_input():
    with pytest.raises(UnreadableInputError, match=r"nowhere\.yaml"):
        load_parameters("nowhere.yaml")


def test_numbers_are_read_as_ros_reads_them(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(minimal(window__duration=2)) + "solver.lambda_init: 1e-4\n")
    config = load_parameters(file)
    assert config.solver.lambda_init == 1e-4
    assert config.window.duration == 2.0
    assert isinstance(config.window.duration, float)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"windw__duration": 1.0}, "nearest valid name is 'window.duration'"),
        ({"sensor__gps__sigmaa": [1.0]}, "nearest valid name is 'sensor.gps.sigma'"),
        ({"publish__markers": True}, "publish.markers: is not a parameter"),
        ({"solver__rate": 1000.0}, "got 1000; expected 0.5..500 Hz"),
        ({"solver__rate": float("nan")}, "numbers must be finite"),
        ({"solver__rate": "fast"}, "got 'fast' (str); expected a number"),
        ({"solver__rate": True}, "got True (bool); expected a number"),
        ({"num_threads": 1.5}, "expected an integer"),
        ({"autostart": 1}, "expected true or false"),
        ({"world_frame": "/map"}, "no leading '/'"),
        ({"world_frame": ""}, "a frame name"),
        ({"device": "gpu"}, "auto, cpu, cuda or cuda:N"),
        ({"tracks": ["Robot"]}, "lower-case letters"),
        ({"tracks": ["object", "object"]}, "named 2 times"),
        ({"tracks": []}, "tracks: is empty"),
        ({"sensors": []}, "sensors: is empty"),
        ({"sensors": ["gps", "imu"]}, "sensor.imu: is in 'sensors' but has no block"),
        ({"sensors": "gps"}, "expected a list of texts"),
        ({"sensor__odo__type": "odometry"}, "sensor.odo: has a block but is not in 'sensors'"),
        ({"track__robot__motion": "none"}, "track.robot: has a block but is not in 'tracks'"),
        ({"solver__lambda_init": 1e8}, "expected less than solver.lambda_max"),
        ({"solver__rate": 100.0, "solver__time_budget": 0.02}, "at most 1/solver.rate = 0.01 s"),
        ({"track__object__motion_sigma": [1.0]}, "has 1 numbers; manifold se2 needs 3"),
        ({"track__object__init__pose": [1.0, 2.0]}, "has 2 numbers; expected 3 (x y yaw)"),
        ({"init__pose": [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]}, "has no z, roll, pitch"),
        ({"init__sigma": [0.0] * 6}, "got 0; expected > 0"),
        ({"track__object__child_frame": "world"}, "equals its parent_frame"),
        ({"sensor__gps__type": "gps"}, "expected one of pose, pose_stamped"),
        ({"sensor__gps__type": "pose_stamped"}, "sensor.gps.sigma: is required (its messages"),
        ({"sensor__gps__covariance": "fixed"}, "sensor.gps.sigma: is required (covariance is"),
        ({"sensor__gps__sigma": [0.1]}, "has 1 numbers; expected 3 (x y yaw)"),
        ({"sensor__gps__sigma_floor": [0.1, 0.1]}, "expected 1 or 3"),
        ({"sensor__gps__on_zero_covariance": "use_fixed"}, "but sigma is not set"),
        ({"sensor__gps__gate_probability": 0.3}, "expected 0 (off) or 0.5..0.999999"),
        ({"sensor__gps__axes": ["x", "y", "z", "yaw"]}, "'z' is not an axis of a pose sensor"),
        ({"sensor__gps__axes": ["x", "y", "yaw", "yaw"]}, "names an axis twice"),
        ({"sensor__gps__robust": "hubert"}, "did you mean 'huber'?"),
        ({"sensor__gps__track": "arm"}, "got 'arm'; expected one of ['object']"),
        ({"sensor__gps__extrinsic": [0.0, 0.0]}, "expected 6 (x y z roll pitch yaw)"),
        ({"sensor__gps__topic": "pose"}, "one of the estimator's own outputs"),
        ({"sensor__gps__topic": "a topic"}, "sensor.gps.topic: got 'a topic'"),
        ({"sensor__gps__camera_info_topic": "c"}, "does not apply to type 'pose'"),
        ({"sensor__gps__landmarks__map_file": "no.yaml"}, "file 'no.yaml' not found; looked for"),
        ({"sensor__gps__stamp_offset": 7.0}, "expected -5..5 s"),
        ({"sensor__gps__qos__depth": 0}, "expected 1..5000"),
        ({"odom_frame": "map"}, "odom_frame: equals map_frame 'map'; they must differ"),
        ({"tf__cache": 2.5}, "got 2.5 s; expected at least window.duration + 1 = 3 s"),
        ({"health__required_sensors": ["imu"]}, "got 'imu'; expected some of ['gps']"),
        ({"init__mode": "params", "init__sigma": [0.1] * 3}, "init.sigma: has 3 numbers, ini"),
        ({"output_dir": ""}, "a path: not empty"),
        ({"sensor__gps__topic": ""}, "sensor.gps.topic: is required for type 'pose'"),
        ({"sensor__gps__topic": "odometry/predicted"}, "one of the estimator's own outputs"),
        ({"sensor__gps__cost": "a.b"}, "a class as pkg.module:Class"),
        ({"sensor__gps__cost": "a.b:C"}, "does not apply to type 'pose'; only to custom"),
        ({"sensor__gps__type": "custom"}, "sensor.gps.cost: is required for type 'custom'"),
        ({"sensor__gps__type": "twist", "sensor__gps__target_frame": "b"}, "target_frame: does"),
        ({"sensor__gps__type": "tf_pose"}, "sensor.gps.topic: does not apply to type 'tf_pose'"),
        ({"sensor__gps__type": "tf_pose"}, "sensor.gps.target_frame: is required for type 'tf_p"),
        ({"sensor__gps__type": "tf_pose"}, "sensor.gps.sigma: is required (its messages carry no"),
        ({"sensor__gps__type": "imu", "sensor__gps__axes": ["x"]}, "'x' is not an axis of a imu"),
        ({"colour": {}}, "colour: is not a parameter"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_was_expected(changes, expected):
    assert any(expected in line for line in problems_of(minimal(**changes)))


def test_all_problems_are_reported_at_once():
    lines = problems_of(
        minimal(solver__rate=0.0, num_threads=0, sensor__gps__robust="x", colour="red", device=3)
    )
    assert len(lines) == 5


def test_a_name_given_nested_and_dotted_is_a_problem():
    lines = problems_of(minimal(window__duration=1.0) | {"window": {"duration": 2.0}})
    assert lines == ["window.duration: is given twice (nested and dotted); keep one"]


def test_a_required_parameter_is_asked_for():
    parameters = minimal()
    del parameters["sensor.gps.topic"]
    assert problems_of(parameters)[0].startswith("sensor.gps.topic: is required")


def test_a_track_without_any_absolute_source_is_named():
    lines = problems_of(minimal(sensor__gps__type="odometry", sensor__gps__differential=True))
    assert len(lines) == 1
    assert lines[0].startswith("track.object: nothing absolute starts this track")
    assert "gps (odometry, differential)" in lines[0]
    started = minimal(
        sensor__gps__type="odometry", sensor__gps__differential=True, init__mode="params"
    )
    assert load_parameters(started).tracks[0].init.mode == "params"


def test_a_position_only_sensor_does_not_start_a_track():
    lines = problems_of(minimal(sensor__gps__axes=["x", "y"]))
    assert "nothing absolute starts this track" in lines[0]


def test_absolute_sensors_start_their_track_unless_one_is_named():
    two = minimal(sensors=["gps", "slam"], sensor__slam__type="pose", sensor__slam__topic="s")
    assert [s.ignition for s in load_parameters(two).sensors] == [True, True]
    named = two | {"sensor.slam.ignition": True}
    assert [s.ignition for s in load_parameters(named).sensors] == [False, True]


def test_a_camera_needs_intrinsics_and_gets_one_pixel_of_noise():
    camera = minimal(
        sensors=["gps", "camera"], sensor__camera__type="landmarks", sensor__camera__topic="tags"
    )
    assert "needs intrinsics" in problems_of(camera)[0]
    config = load_parameters(camera | {"sensor.camera.camera_info_topic": "info"})
    assert config.sensor("camera").sigma == (1.0,)
    assert config.sensor("camera").axes == ()


def test_noise_defaults_follow_the_axes_and_the_manifold():
    config = load_parameters(minimal(track__object__manifold="se3"))
    assert config.sensors[0].axes == ("x", "y", "z", "roll", "pitch", "yaw")
    assert len(config.sensors[0].sigma_floor) == len(config.tracks[0].motion_sigma) == 6
    assert len(config.tracks[0].init.pose) == 6
    plane = load_parameters(minimal(init__pose=[1.0, 2.0, 0.0, 0.0, 0.0, 3.0]))
    assert plane.tracks[0].init.pose == (1.0, 2.0, 3.0)


def test_an_unset_cache_of_transforms_follows_the_window():
    assert load_parameters(minimal(window__duration=50.0)).tf.cache == 51.0
    assert load_parameters(minimal()).tf.cache == 30.0


def test_a_queue_is_as_deep_as_its_type_needs_unless_it_is_told():
    imu = {"sensors": ["gps", "i"], "sensor.i.type": "imu", "sensor.i.topic": "imu"}
    config = load_parameters(minimal() | imu)
    assert [s.qos.depth for s in config.sensors] == [10, 200]
    assert load_parameters(minimal() | imu | {"sensor.i.qos.depth": 7}).sensor("i").qos.depth == 7


def test_an_imu_s_heading_is_used_only_where_it_is_asked_for():
    imu = {"sensors": ["gps", "i"], "sensor.i.type": "imu", "sensor.i.topic": "imu"}
    space = minimal(track__object__manifold="se3") | imu
    rates = ("vroll", "vpitch", "vyaw")
    assert load_parameters(minimal() | imu).sensor("i").axes == ("vyaw",)
    assert load_parameters(space).sensor("i").axes == ("roll", "pitch", *rates)
    asked = minimal() | imu | {"sensor.i.axes": ["yaw", "vyaw"]}
    assert load_parameters(asked).sensor("i").axes == ("yaw", "vyaw")


def test_a_pose_from_tf_starts_its_track_and_needs_no_topic():
    tool = {"type": "tf_pose", "target_frame": "tool", "sigma": [0.1, 0.1, 0.1]}
    config = load_parameters({"sensors": ["t"], "sensor.t": tool})
    assert (config.sensors[0].ignition, config.sensors[0].covariance) == (True, "fixed")


def test_a_custom_sensor_knows_itself_what_its_numbers_are(monkeypatch):
    monkeypatch.setattr("dnls_ros.window.custom.load_custom", lambda cost: object)
    own = {"type": "custom", "topic": "own", "cost": "a.b:C"}
    two = {"sensors": ["gps", "own"]}
    config = load_parameters(minimal() | two | {"sensor.own": own})
    assert (config.sensor("own").axes, config.sensor("own").sigma) == ((), ())
    config = load_parameters(minimal() | two | {"sensor.own": own | {"sigma": [0.1, 0.2]}})
    assert config.sensor("own").sigma_floor == (1e-4, 1e-4)
    assert load_parameters(flat(config)) == config
    named = own | {"axes": ["x", "y"], "sigma": [0.1]}
    (line,) = problems_of(minimal() | two | {"sensor.own": named})
    assert line == "sensor.own.sigma: has 1 numbers; expected 2 (x y)"


def test_a_mount_that_is_not_given_is_left_to_tf():
    (sensor,) = load_parameters(minimal()).sensors
    assert (sensor.extrinsic, sensor.mount) == ((), (0.0,) * 6)
    given = [0.1, 0.0, 0.0, 0.0, 0.0, 0.5]
    (sensor,) = load_parameters(minimal(sensor__gps__extrinsic=given)).sensors
    assert sensor.extrinsic == sensor.mount == tuple(given)


def test_a_sensor_is_stale_after_its_own_time_or_that_of_all():
    config = load_parameters(minimal(health__stale_after=0.7))
    assert config.stale_after(config.sensors[0]) == 0.7
    config = load_parameters(minimal(sensor__gps__stale_after=2.0))
    assert config.stale_after(config.sensors[0]) == 2.0


@pytest.mark.parametrize("mode", ["params", "set_pose", "tf"])
def test_a_track_that_is_started_otherwise_needs_no_absolute_sensor(mode):
    differential = minimal(sensor__gps__type="odometry", sensor__gps__differential=True)
    assert load_parameters(differential | {"init.mode": mode}).tracks[0].init.mode == mode
    own = load_parameters(differential | {"track.object.init.mode": mode})
    assert own.tracks[0].init.sigma == (0.01, 0.01, 0.02)  # inherited, cut to the plane


def test_a_sensor_that_cannot_be_read_is_one_problem_only():
    (line,) = problems_of(minimal(sensor__gps__type="gps", health__required_sensors=["gps"]))
    assert line.startswith("sensor.gps.type: got 'gps'")


def test_a_track_whose_sensors_are_switched_off_is_warned_about():
    (found,) = warnings_of(load_parameters(minimal(sensor__gps__enabled=False)))
    assert found == "track.object: nothing starts it until one of its sensors is enabled: gps"


def test_loading_does_not_touch_the_disk(tmp_path):
    config = load_parameters(minimal(output_dir=str(tmp_path / "not" / "there")))
    assert config.output_dir == str(tmp_path / "not" / "there")
    assert list(tmp_path.iterdir()) == []


def test_an_unset_time_budget_follows_the_rate():
    assert load_parameters(minimal(solver__rate=100.0)).solver.time_budget == 0.01


def test_outputs_are_prefixed_when_several_tracks_are_published():
    config = load_parameters(minimal())
    assert own_outputs(config) == ("odometry/filtered", "odometry/predicted", "pose", "path")
    two = minimal(tracks=["a", "b"], init__mode="params")
    assert "b/pose" in own_outputs(load_parameters(two))
    assert "pose" in own_outputs(load_parameters(two | {"track.b.publish": False}))


def test_parameters_that_ros_itself_declares_are_left_alone():
    given = minimal(use_sim_time=True) | {"qos_overrides./fix.subscription.depth": 3}
    assert load_parameters(given) == load_parameters(minimal())


def test_the_hash_changes_with_every_value_and_with_a_file_s_content(tmp_path):
    other = load_parameters(minimal(num_threads=3))
    assert config_hash(load_parameters(minimal())) != config_hash(other)
    file = tmp_path / "map.yaml"
    hashes = set()
    for size in (0.1, 0.2):
        file.write_text(f"default_size: {size}\n")
        parameters = minimal(
            sensors=["gps", "c"], sensor__c__type="landmarks", sensor__c__topic="t",
            sensor__c__camera_info_topic="i", sensor__c__landmarks__map_file="map.yaml",
        )  # fmt: skip
        hashes.add(config_hash(load_parameters(parameters, base=tmp_path)))
    assert len(hashes) == 2


def test_settings_that_are_seldom_wanted_are_warned_about():
    assert warnings_of(load_parameters(minimal())) == ()
    (found,) = warnings_of(load_parameters(minimal(gate__reopen_after=0.0)))
    assert found.startswith("gate.reopen_after")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("window.state_policy", "fixed_rate", "nearest valid name is"),
        ("window.marginalization", "drop", "nearest valid name is"),
        ("solver.covariance", "always", "nearest valid name is 'solver.cost_tolerance'"),
        ("solver.covariance_rate", 5.0, "nearest valid name is"),
        ("dtype", "float32", "nearest valid name is"),
        ("seed", 1, "nearest valid name is"),
        ("track.object.motion", "static", "expected one of none, random_walk, constant_velocity"),
    ],
)
def test_what_is_not_built_is_refused_by_name(name, value, words):
    (line,) = problems_of(minimal() | {name: value})
    assert line.startswith(name)
    assert words in line


def test_the_demo_s_landmark_map_has_the_tags_of_its_scene():
    tags = read_landmark_map(CONFIG / "demo_tags.yaml").tags
    scene = load_scene(CONFIG / "demo_scene.yaml")
    assert len(tags) == len(scene.tags)
    for tag in scene.tags:
        known = tags[tag.id]
        assert known.body.pose is not None
        x, y, z, w = known.body.pose[3:]
        turn = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        corners = known.body.pose[:3] + known.corners @ turn.T
        np.testing.assert_allclose(corners, tag.corners(), atol=1e-9)


def test_a_differential_pose_needs_a_noise_of_its_own():
    odometry = {"sensors": ["gps", "vo"], "sensor.vo.type": "pose", "sensor.vo.topic": "vo"}
    (line,) = problems_of(minimal() | odometry | {"sensor.vo.differential": True})
    assert line.startswith("sensor.vo.covariance: got 'message'")
    fixed = {"sensor.vo.covariance": "fixed", "sensor.vo.sigma": [0.1, 0.1, 0.1]}
    load_parameters(minimal() | odometry | {"sensor.vo.differential": True} | fixed)


def test_a_sensor_of_motion_on_a_plane_is_mounted_level():
    tilted = {"extrinsic": [0.1, 0.0, 0.3, -1.57, 0.0, -1.57]}
    speed = {"sensors": ["gps", "t"], "sensor.t": {"type": "twist", "topic": "t", **tilted}}
    (line,) = problems_of(minimal() | speed)
    assert line.startswith("sensor.t.extrinsic")
    load_parameters(minimal() | speed | {"track.object.manifold": "se3"})
    load_parameters(minimal(sensor__gps__extrinsic=tilted["extrinsic"]))  # absolute: any mount


def test_letters_that_ros_takes_for_truth_values_are_refused_and_written_quoted(tmp_path: Path):
    file = tmp_path / "bare.yaml"
    file.write_text("/**:\n  ros__parameters: {sensor.gps.axes: [x, y]}\n")
    with pytest.raises(DnlsError, match="ROS reads y as a truth value; write 'y'"):
        read_file(file)
    given = {"/**": {"ros__parameters": {"sensor.gps.axes": ["x", "y", "yaw"]}}}
    file.write_text(write_yaml(given))
    assert "'y'" in file.read_text()
    assert read_file(file) == given
