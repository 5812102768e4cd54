"""Files that are whole or absent, and YAML with errors that a user can act on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from dnls_ros.errors import DnlsError, UnreadableInputError


@contextmanager
def atomic_path(path: Path | str) -> Generator[Path]:
    """Give a temporary path beside ``path`` and rename it to ``path`` when the block ends well.

    On any error the temporary file is removed and what was at ``path`` before stays. Missing
    folders are created.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def prepare_folder(path: Path | str) -> Path:
    """Make a folder (``~`` is the user's home) and see that files can be written into it.

    Raises:
        DnlsError: They cannot.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DnlsError(
            f"output_dir '{folder}' cannot be written: {error}; name another one or its owner"
        ) from error
    return folder


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file at once."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path | str) -> str:
    """Read a UTF-8 text file, or say why it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableInputError(f"cannot read {path}: {error}") from error


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping."""
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UnreadableInputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UnreadableInputError(f"{path}: expected a mapping at the top level, got {kind}")
    return content


def _umask() -> int:
    """Return the process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
