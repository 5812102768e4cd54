"""The package keeps its own rules: layers, sizes, light imports, matching versions, messages."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import dnls_ros

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dnls_ros"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
BY_NAME = pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))

# A module may import from its own layer and from lower ones.
LAYERS = {
    "errors": -1,
    "lie": 0,
    "kernels": 2.5,
    "problem": 1,
    "costs": 2,
    "linear": 3,
    "optim": 4,
    "diff": 5,
    "named": 5,
    "learned": 5,
    "window": 6,
    "runtime": 6.5,
    "io": 7,
    "learning": 8,
    "ros": 9,
    "cli": 9,
}
# Libraries that only some layers may name at all …
ONLY_IN = {
    "rclpy": {"ros"},
    "launch": {"ros"},
    "launch_ros": {"ros"},
    **{f"{name}_msgs": {"ros"} for name in ("geometry", "nav", "sensor", "std", "diagnostic")},
    **{f"{name}_msgs": {"ros"} for name in ("visualization", "lifecycle", "apriltag", "tf2")},
    "builtin_interfaces": {"ros"},
    "action_msgs": {"ros"},
    "rosgraph_msgs": {"ros"},
    "std_srvs": {"ros"},
    "rcl_interfaces": {"ros"},
    "dnls_ros.msg": {"ros"},
    "dnls_ros.srv": {"ros"},
    "dnls_ros.action": {"ros"},
    "sksparse": {"linear"},
    "cupy": {"linear"},
    "numba": {"kernels"},
    "llvmlite": {"kernels"},
    "urdf_parser_py": {"io"},
}
# … and libraries too heavy or too rare to be imported while a module loads, except by the modules
# that exist for their sake and are themselves imported where they are used.
OWN_MODULES = {
    "sksparse": {"linear/cholmod.py"},
    "cupy": set(),
    "cv2": {"window/pnp.py", "window/reprojection.py"},
    "matplotlib": {"io/plots.py"},
    "urdf_parser_py": set(),
}


def imports(tree: ast.AST) -> Iterator[str]:
    """Yields the full name of every module imported in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the layer"
            module = str(node.module)
            yield module
            if module == "dnls_ros":
                names = {alias.name for alias in node.names} - {"__version__"}
                yield from (f"dnls_ros.{name}" for name in names)


def at_load_time(tree: ast.Module) -> Iterator[str]:
    """Yields the modules imported when the module itself is imported, type checking aside."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            waiting += node.body
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            waiting += node.body + node.orelse


def part_of(path: Path) -> str:
    """Names the layer that a file belongs to: the first folder, or the module itself."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@BY_NAME
def test_modules_import_downwards_only(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    assert part in LAYERS, f"{part} is in no layer: add it to the table of architecture"
    for name in imports(ast.parse(path.read_text())):
        if name.startswith("dnls_ros."):
            other = name.split(".")[1]
            if other in {"msg", "srv", "action"}:
                continue  # generated, see the next test
            assert other in LAYERS, f"{name} is in no layer"
            assert LAYERS[other] <= LAYERS[part], f"{part} imports {name}, which lies above it"


@BY_NAME
def test_ros_and_cholmod_are_named_only_in_their_layers(path: Path) -> None:
    part = part_of(path)
    for name in imports(ast.parse(path.read_text())):
        for library, allowed in ONLY_IN.items():
            if name == library or name.startswith(library + "."):
                assert part in allowed, f"{part} imports {name}; only {allowed} may"


@BY_NAME
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    loaded = {name.split(".")[0] for name in at_load_time(ast.parse(path.read_text()))}
    module = path.relative_to(PACKAGE).as_posix()
    heavy = {name for name in loaded & OWN_MODULES.keys() if module not in OWN_MODULES[name]}
    assert not heavy, f"{heavy} imported at module level: import inside the function that needs it"


@BY_NAME
def test_kernels_are_imported_where_they_are_used(path: Path) -> None:
    """numba is optional, and what is imported with a kernel is compiled or loaded."""
    if part_of(path) == "kernels":
        return
    loaded = set(at_load_time(ast.parse(path.read_text())))
    assert not {name for name in loaded if name.startswith("dnls_ros.kernels")}


@BY_NAME
def test_modules_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = int(node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if path.name == "__init__.py"],
    ids=lambda p: str(p.parent.relative_to(ROOT)),
)
def test_an_init_file_only_re_exports(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "say in a docstring what the package is"
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names = [ast.unparse(target) for target in node.targets]
            assert all(re.fullmatch(r"__\w+__", name) for name in names), names
        else:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert docstring or isinstance(node, ast.Import | ast.ImportFrom), ast.unparse(node)


def test_importing_the_package_loads_neither_ros_nor_cholmod_nor_opencv() -> None:
    heavy = ["rclpy", "sksparse", "cv2", "matplotlib", "rosbags", "dnls_ros.msg", "dnls_ros.ros"]
    code = f"import sys, dnls_ros; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_wheels_carry_the_files_that_are_not_python() -> None:
    """CMake installs whole folders; a wheel of the core alone has what setup.py names."""
    call = ast.parse((ROOT / "setup.py").read_text()).body[-1]
    (named,) = (k.value for k in call.value.keywords if k.arg == "package_data")  # type: ignore[attr-defined]
    carried = {
        path
        for package, globs in ast.literal_eval(named).items()
        for glob in globs
        for path in (ROOT / package.replace(".", "/")).glob(glob)
    }
    ours = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".py"}
    assert {path for path in ours if "__pycache__" not in path.parts} == carried


def test_all_files_state_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert project["version"] == dnls_ros.__version__
    assert project["version"] == manifest.findtext("version")
    assert project["version"] == newest.group(1)
    assert project["name"] == manifest.findtext("name")


def test_every_definition_parses_without_ros() -> None:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    ours = {}
    folders = {
        "dnls_ros": ROOT,
        **{folder.name: folder for folder in (ROOT / "interfaces").iterdir()},
    }
    for package, folder in folders.items():
        for path in (folder / "msg").glob("*.msg"):
            ours |= get_types_from_msg(path.read_text(), f"{package}/msg/{path.stem}")
    for path in (*ROOT.glob("srv/*.srv"), *ROOT.glob("action/*.action")):
        for number, part in enumerate(path.read_text().split("\n---\n")):
            ours |= get_types_from_msg(part, f"dnls_ros/msg/{path.stem}{number}")
    known = store.fielddefs.keys() | ours.keys()
    for _, fields in ours.values():
        for _, descriptor in fields:
            for name in re.findall(r"'(\w+/msg/\w+)'", str(descriptor)):
                assert name in known, f"{name} is neither ours nor a standard message"
    assert "dnls_ros/msg/EstimatorStatus" in ours
    assert ours["tf2_msgs/msg/TFMessage"] == store.fielddefs["tf2_msgs/msg/TFMessage"]


def test_the_installed_copy_carries_every_definition() -> None:
    installed = [Path(folder) / "definitions" for folder in dnls_ros.__path__[1:]]
    installed = [folder for folder in installed if folder.is_dir()]
    if not installed:
        pytest.skip("no installed copy beside the checkout")
    sources = {
        f"dnls_ros/{path.relative_to(ROOT)}": path
        for kind in ("msg", "srv", "action")
        for path in (ROOT / kind).glob(f"*.{kind}")
    }
    for path in (ROOT / "interfaces").glob("*/msg/*.msg"):
        sources[str(path.relative_to(ROOT / "interfaces"))] = path
    assert {"dnls_ros/srv/GetPoseAt.srv", "dnls_ros/action/ReplayBag.action"} <= sources.keys()
    for name, path in sources.items():
        copy = installed[0] / name
        assert copy.read_text() == path.read_text(), f"{name} is old: run `make setup`"


def test_pip_puts_the_node_where_ros2_run_looks_and_the_files_where_launch_looks() -> None:
    prefix = Path(sys.prefix)
    if not (prefix / "share" / "dnls_ros" / "package.xml").exists():
        pytest.skip("the package is not installed by pip in this environment")
    scripts = {path.name for path in (ROOT / "scripts").glob("*_node")} | {"dnls"}
    assert "estimator_node" in scripts
    for name in scripts:
        assert os.access(prefix / "lib" / "dnls_ros" / name, os.X_OK), f"{name}: run `make setup`"
    for kind in ("launch", "config"):
        assert any((prefix / "share" / "dnls_ros" / kind).iterdir())
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    assert {"apriltag_msgs", "dnls_ros", "tf2_msgs"} <= {path.name for path in index.iterdir()}


def test_reasons_are_the_constants_of_the_message() -> None:
    from dnls_ros.window.measurements import Reason

    text = (ROOT / "msg" / "MeasurementStatus.msg").read_text()
    constants = {name: int(value) for name, value in re.findall(r"^uint8 (\w+)=(\d+)", text, re.M)}
    assert constants == {reason.name: reason.value for reason in Reason}


@pytest.mark.ros
def test_the_generated_messages_match_the_definitions() -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    import apriltag_msgs.msg
    import tf2_msgs.msg

    import dnls_ros.action
    import dnls_ros.msg
    import dnls_ros.srv

    parts = {
        "msg": lambda kind: [kind],
        "srv": lambda kind: [kind.Request, kind.Response],
        "action": lambda kind: [kind.Goal, kind.Result, kind.Feedback],
    }
    for folder, parts_of in parts.items():
        for path in (ROOT / folder).glob(f"*.{folder}"):
            kind = getattr(getattr(dnls_ros, folder), path.stem)
            texts = re.sub(r"#.*", "", path.read_text()).split("---")
            for part, text in zip(parts_of(kind), texts, strict=True):
                generated = part.get_fields_and_field_types()
                fields = re.findall(r"^[\w/\[\]]+[ ]+(\w+)[ ]*$", text, re.MULTILINE)
                assert list(generated) == fields, f"run `make setup` after a change in {path.name}"
    assert dnls_ros.srv.GetPoseAt.Response.TOO_FAR_AHEAD == 2
    corners = apriltag_msgs.msg.AprilTagDetection.get_fields_and_field_types()["corners"]
    assert corners == "apriltag_msgs/Point[4]"
    assert "transforms" in tf2_msgs.msg.TFMessage.get_fields_and_field_types()


def test_no_tracked_file_names_a_place_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    place = re.compile(r"(?<![\w.$}/])/(?:home|root|work|Users|mnt)/\w")
    for name in filter(None, listed.stdout.split("\0")):
        try:
            text = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # a picture, or deleted and not yet committed
        found = place.search(text)
        assert not found, f"{name}: {text[found.start() : found.end() + 30]!r}"
