"""Build for pip: runs CMakeLists.txt and puts what it installs into the wheel.

That is the messages, the node, launch and config files. Where no ROS message generators are
importable, the wheel has the core alone and the build says so. ``pip install -e .`` does not work,
because generated files cannot be linked: after a change in msg/ run ``pip install .`` once, then
work in the checkout.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
GENERATORS = ("ament_package", "rosidl_adapter", "rosidl_generator_py", "rosidl_generator_c")
PURE_CORE = """
dnls_ros: the ROS 2 message generators are absent, so this wheel has the library and its command
line, but no messages and no node. For those use colcon in a sourced ROS 2 workspace, or pip on
Linux with Python 3.11 to 3.13.
"""


def generators_prefix() -> Path | None:
    """The environment that holds the message generators; None if one of them is absent."""
    specs = [importlib.util.find_spec(name) for name in GENERATORS]
    if not all(specs):
        return None
    # <prefix>/lib/python3.x/site-packages/ament_package/__init__.py
    return Path(str(specs[0].origin)).parents[4]


class BuildWithMessages(build_py):
    """Copies the Python packages, then lays over them what CMake generated and installed."""

    def run(self) -> None:
        """Builds the library, then the messages where their generators are."""
        shutil.rmtree(self.build_lib, ignore_errors=True)  # else modules deleted since live on
        super().run()
        prefix = generators_prefix()
        if prefix is None:
            print(PURE_CORE, file=sys.stderr)
            self.copy_plain_files()
        else:
            self.lay_over(self.run_cmake(prefix))

    def copy_plain_files(self) -> None:
        """Puts definitions, launch and config files where CMake would have put them."""
        definitions = Path(self.build_lib) / "dnls_ros" / "definitions"
        for kind in ("msg", "srv", "action"):
            shutil.copytree(ROOT / kind, definitions / "dnls_ros" / kind)
        for folder in (ROOT / "interfaces").iterdir():
            shutil.copytree(folder / "msg", definitions / folder.name / "msg")
        for kind in ("launch", "config"):
            for folder, _, names in os.walk(ROOT / kind):
                place = Path("share", "dnls_ros", Path(folder).relative_to(ROOT))
                files = [str(Path(folder, name)) for name in sorted(names)]
                self.distribution.data_files.append((str(place), files))

    def run_cmake(self, prefix: Path) -> Path:
        """Configures, builds and installs into a staging folder, which is returned."""
        work = ROOT / "build" / "pip"
        shutil.rmtree(work, ignore_errors=True)  # a cache names an environment that is gone
        environment = {
            **os.environ,
            "AMENT_PREFIX_PATH": os.environ.get("AMENT_PREFIX_PATH") or str(prefix),
            "CMAKE_PREFIX_PATH": os.environ.get("CMAKE_PREFIX_PATH") or str(prefix),
        }
        configure = [
            *("-S", str(ROOT), "-B", str(work), "-G", "Ninja"),
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DCMAKE_INSTALL_PREFIX={work / 'staging'}",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DBUILD_TESTING=OFF",
        ]
        for arguments in (configure, ["--build", str(work)], ["--install", str(work)]):
            subprocess.run(["cmake", *arguments], check=True, env=environment)
        return work / "staging"

    def lay_over(self, staging: Path) -> None:
        """Puts Python files into the packages, the rest as data under the environment's prefix."""
        libraries = next(staging.glob("lib/python3*/site-packages"))
        shutil.copytree(
            libraries,
            self.build_lib,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"),
        )
        for folder, _, names in os.walk(staging):
            path = Path(folder)
            if libraries not in (path, *path.parents) and "include" not in path.parts:
                data = (str(path.relative_to(staging)), [str(path / name) for name in names])
                self.distribution.data_files.append(data)


class PlatformDistribution(Distribution):
    """A wheel with generated libraries is for one platform and Python, the core alone for any."""

    def has_ext_modules(self) -> bool:
        """Whether compiled message libraries are part of the wheel."""
        return generators_prefix() is not None


setup(
    packages=find_packages(include=["dnls_ros", "dnls_ros.*"]),
    package_data={"dnls_ros.linear": ["*.cu"]},
    data_files=[],
    cmdclass={"build_py": BuildWithMessages},
    distclass=PlatformDistribution,
)
