"""The launch files, executed by the real launch where it is installed.

Where it is not (Python wheels have no launch), only what can be said without it is tested: that
the files parse, and that the parameter files and modules they name exist.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))


@pytest.fixture
def launch_ros() -> Any:
    """Real launch; our own folder launch/ would satisfy an import of ``launch`` alone."""
    return pytest.importorskip("launch_ros", reason="launch_ros is not installed")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_a_launch_file_defines_a_description_and_documents_itself(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert "ros2 launch dnls_ros " + file.name in (ast.get_docstring(tree) or "")
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert "generate_launch_description" in names


def test_there_are_launch_files():
    assert [f.name for f in FILES] == ["demo.launch.py", "estimator.launch.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_the_default_parameter_file_exists(file):
    names = [
        node.value
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and str(node.value).endswith(".yaml")
    ]
    assert any((ROOT / "config" / name).is_file() for name in names)


def test_the_modules_that_the_demo_starts_exist():
    tree = ast.parse((ROOT / "launch" / "demo.launch.py").read_text(encoding="utf-8"))
    constants = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    modules = [c for c in constants if isinstance(c, str) and c.startswith("dnls_ros.")]
    assert modules
    assert all(importlib.util.find_spec(name) for name in modules)


@pytest.mark.ros
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_a_launch_file_gives_its_arguments_to_real_launch(launch_ros, file):
    from launch.actions import DeclareLaunchArgument

    description = runpy.run_path(str(file))["generate_launch_description"]()
    entities = [e for e in description.entities if isinstance(e, DeclareLaunchArgument)]
    assert "params_file" in [argument.name for argument in entities]
    assert all(argument.description for argument in entities)


@pytest.mark.ros
def test_a_missing_parameter_file_ends_the_launch(launch_ros):
    file = ROOT / "launch" / "estimator.launch.py"
    ended = launch(file, "params_file:=nowhere.yaml", timeout=30.0)
    assert ended.returncode != 0
    assert "params_file 'nowhere.yaml' does not exist" in ended.stdout


@pytest.mark.ros
def test_the_demo_plays_a_recording_to_the_node_and_ends(launch_ros):
    ended = launch(ROOT / "launch" / "demo.launch.py", "duration:=3", timeout=120.0)
    assert ended.returncode == 0, ended.stdout
    assert "sensor 'odometry': received" in ended.stdout
    assert "process has finished cleanly" in ended.stdout


def launch(file: Path, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Runs a launch file as ``ros2 launch`` does, in a process of its own."""
    from dnls_ros.ros.live import free_domain, local_environment

    given = [argument.split(":=", 1) for argument in arguments]
    code = (
        "import sys\n"
        "from launch import LaunchDescription, LaunchService\n"
        "from launch.actions import IncludeLaunchDescription as Include\n"
        "from launch.launch_description_sources import PythonLaunchDescriptionSource as Source\n"
        "service = LaunchService()\n"
        f"include = Include(Source({str(file)!r}), launch_arguments={given!r})\n"
        "service.include_launch_description(LaunchDescription([include]))\n"
        "sys.exit(service.run())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **local_environment(free_domain())},
    )
