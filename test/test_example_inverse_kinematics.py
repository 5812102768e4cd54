"""The example of inverse kinematics: poses are reached, a posture is learned and drawn."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("urdf_parser_py", reason="urdfdom-py is not installed: extra 'kinematics'")
SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "inverse_kinematics.py"


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("example_inverse_kinematics", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_pose_is_reached_and_the_posture_is_learned(example, tmp_path, capsys):
    figures = example.main(["--out", str(tmp_path)])
    assert figures["starts that end in a solution [%]"] > 50
    assert figures["poses reached [%]"] == 100
    assert figures["worst position error [m]"] < 1e-6
    assert figures["worst rotation error [rad]"] < 1e-6
    assert figures["furthest outside of limits [rad]"] < 1e-6
    assert figures["joints off before, unseen poses [deg]"] > 10
    assert figures["joints off learned, unseen poses [deg]"] < 2
    assert (tmp_path / "inverse_kinematics.png").stat().st_size > 50_000
    assert capsys.readouterr().out.count("\n") == len(figures)


def test_another_robot_is_read_from_its_file(example, tmp_path, monkeypatch):
    for name, value in {"TARGETS": 8, "TRIES": 6, "TRAINING": 4, "STEPS": 1}.items():
        monkeypatch.setattr(example, name, value)
    lamp = (
        '<link name="lamp"/><joint name="bracket" type="fixed"><parent link="link2"/>'
        '<child link="lamp"/></joint></robot>'
    )
    path = tmp_path / "arm.urdf"
    text = example.generated().replace("</robot>", lamp)
    path.write_text(
        text.replace('name="joint7" type="revolute"', 'name="joint7" type="continuous"')
    )
    figures = example.main(["--out", str(tmp_path), "--urdf", str(path), "--tip", "hand"])
    assert figures["poses reached [%]"] == 100
