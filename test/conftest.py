"""What all tests share: a quiet ROS domain of their own, one thread, the real recordings."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Before anything starts a ROS context: traffic stays on this machine, and two runs at once do not
# hear each other.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
# Child processes take the checkout's Python files too, wherever they run.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)

import pytest  # noqa: E402 - after the environment is set
import torch  # noqa: E402 - ″

with suppress(ImportError):  # the tests of the package alone go without it
    import hypothesis

    # The same examples on every machine: what fails for one fails for all.
    hypothesis.settings.register_profile("repeatable", derandomize=True)
    hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small matrices are faster so, and results do not depend on the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dnls_data() -> Callable[[str], Path]:
    """Gives the path of a real recording, or skips with the name of what is missing.

    The recordings lie in the folder that DNLS_DATA names (default: ../shared/data beside the
    repository).
    """
    folder = Path(os.environ.get("DNLS_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"{name} is not in {folder}: DNLS_DATA names the folder of recordings")
        return path

    return find
