"""What the README says runs: its Python in one namespace, its commands through the parser."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dnls_ros.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def default_dtype() -> Iterator[None]:
    """The README sets torch's default type; other tests do not expect that."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def executed(default_dtype: None, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The namespace after all Python blocks, and what they printed."""
    namespace: dict[str, Any] = {"__name__": "readme"}
    first, *others = blocks("python")
    exec(compile(first, "README.md, first block", "exec", dont_inherit=True), namespace)
    namespace["first_solution"], namespace["printed"] = (
        namespace["solution"],
        capsys.readouterr().out,
    )
    for number, code in enumerate(others, start=2):
        exec(compile(code, f"README.md, block {number}", "exec", dont_inherit=True), namespace)
    return namespace


def test_the_first_example_converges_and_closes_the_square(executed: dict[str, Any]) -> None:
    assert executed["printed"].startswith("converged")
    xyt = executed["first_solution"].values["pose"].xyt()[0].detach()
    torch.testing.assert_close(xyt[16], torch.zeros(3), atol=0.01, rtol=0)
    dead_reckoned = executed["initial"]["pose"].xyt()[0, 16]
    assert dead_reckoned[:2].norm() > 0.2  # there was something to mend
    assert (xyt[8, :2] - torch.tensor([4.0, 4.0])).norm() < 0.2
    assert executed["covariance"].shape == (1, 3, 3)
    assert torch.isfinite(executed["slope"])


def test_the_example_is_short_and_needs_no_ros() -> None:
    code = blocks("python")[0]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 45
    assert "rclpy" not in code


def test_the_cost_of_ten_lines_pulls_the_poses_to_their_distances(
    executed: dict[str, Any],
) -> None:
    x = executed["solution"].values["pose"].xyt()[0, [2, 4], 0].detach()
    torch.testing.assert_close(x, torch.tensor([2.0, 4.0]), atol=0.03, rtol=0)
    before = executed["first_solution"].values["pose"].xyt()[0, [2, 4], 0].detach()
    assert (x - torch.tensor([2.0, 4.0])).norm() < (before - torch.tensor([2.0, 4.0])).norm()


def test_the_sensor_makes_a_factor_on_its_state(executed: dict[str, Any]) -> None:
    from types import SimpleNamespace

    from dnls_ros.window.bodies import Body

    config = SimpleNamespace(name="wall", sigma=(0.02,))
    sensor = executed["WallSensor"](config, Body("robot", planar=True, moving=False))
    m = executed["WallMeasurement"](sensor="wall", stamp=7, frame="map", distance=2.5)
    group = sensor.factors(m, (7,))["wall"]
    at = executed["Variables"]("robot", executed["SE2"]).values(
        [7], executed["SE2"].from_xyt(torch.tensor([[[3.0, 1.0, 0.4]]]))
    )
    # (6 − 3 − 2.5) m at 0.02 m standard deviation
    torch.testing.assert_close(group.whitened(at), torch.tensor([[[25.0]]]))


def test_the_sensor_is_one_that_the_parameter_cost_may_name(
    executed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    from types import ModuleType, SimpleNamespace

    from dnls_ros.io.messages import adapt_for
    from dnls_ros.window.parameters import load_parameters

    module = ModuleType("readme_walls")
    vars(module).update(executed)
    monkeypatch.setitem(sys.modules, "readme_walls", module)
    block = yaml.safe_load(blocks("yaml")[0])["sensor"]["wall"]
    block["cost"] = block["cost"].replace("my_robot.walls", "readme_walls")
    track = {"init": {"mode": "params"}, "child_frame": "base_link"}
    settings = {"tracks": ["robot"], "track": {"robot": track}}
    config = load_parameters({**settings, "sensors": ["wall"], "sensor": {"wall": block}})
    head = SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=2), frame_id="wall_sensor")
    message = SimpleNamespace(header=head, range=2.5)
    m = adapt_for(config.sensor("wall"), "sensor_msgs/msg/Range", message)
    assert isinstance(m, executed["WallMeasurement"])
    assert (m.distance, m.stamp) == (2.5, 1_000_000_002)


def commands() -> list[str]:
    lines = "\n".join(blocks("bash")).splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.startswith("dnls ")]


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_is_understood(command: str) -> None:
    _, *arguments = shlex.split(command)
    chosen = build_parser().parse_args(arguments)
    for path in (getattr(chosen, name, None) for name in ("params", "check")):
        if isinstance(path, Path) and path.parts[0] == "config":
            assert (ROOT / path).is_file(), f"{path} is named in the README but absent"


def test_every_file_that_the_documents_name_exists() -> None:
    for document in (ROOT / "README.md", ROOT / "docs" / "conventions.md"):
        text = document.read_text()
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (document.parent / target).is_file(), f"{document.name} links to {target}"
        for name in re.findall(r"`((?:config|docs|dnls_ros|launch|msg)/[\w/.]+\.\w+)`", text):
            assert (ROOT / name).is_file(), f"{document.name} names {name}"
        for name in re.findall(r"`((?:io|window)/\w+\.py)`", text):
            assert (ROOT / "dnls_ros" / name).is_file(), f"{document.name} names {name}"


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
