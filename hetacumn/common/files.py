"""Files that are complete or absent: folders, atomic writing, JSON and CSV tables."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hetacumn.common.errors import HetacumnError

if TYPE_CHECKING:
    import pandas as pd

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk or a quota is full, or a file is larger than allowed


def make_folder(path: str | os.PathLike) -> Path:
    """Make a folder for output, with its parents, unless it exists; return its path.

    Raises:
        HetacumnError: the path or one of its parents is a file, or the folder cannot be made or written into.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(place for place in (path, *path.parents) if place.exists() and not place.is_dir())
        raise HetacumnError(f"{file}: is a file; expected a folder to write into") from None
    except OSError as error:
        raise HetacumnError(f"{path}: cannot be made ({error.strerror}); expected a folder to write into") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise HetacumnError(f"{path}: is read-only; expected a folder to write into")
    return path


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` at the end, or remove it after an error.

    A reader sees the old file or the whole new file, never a part. The temporary name keeps the suffix, by which writers choose
    their format, and names the process: files that a killed process of this machine left are removed. Missing parent folders
    are made.

    Raises:
        HetacumnError: the disk or a quota is full, the folder cannot be written into, see :func:`make_folder`, or `path` is a
            folder.
    """
    path = Path(path)
    make_folder(path.parent)
    machine = re.sub(r"\W", "_", platform.node())
    _remove_orphans(path, machine)
    temporary = path.with_name(f".{path.stem}.{machine}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in FULL and str(error.filename) != str(temporary):
            raise
        before = "the earlier file is unchanged" if path.exists() else "no file was made"
        raise HetacumnError(f"{path}: cannot be written ({error.strerror}); {before}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _remove_orphans(path: Path, machine: str) -> None:
    """Remove temporary files of a path whose processes have ended."""
    written = re.compile(rf"{re.escape(f'.{path.stem}.{machine}-')}(\d+)-[0-9a-f]+{re.escape(path.suffix)}")
    for file in path.parent.iterdir():
        found = written.fullmatch(file.name)
        if found and not _is_alive(int(found[1])):
            file.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Tell whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the process of another user
        pass
    return True


def write_json(path: str | os.PathLike, content: object) -> None:
    """Write `content` as indented JSON, atomically; keys stay in their order."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_table(path: Path | str, table: pd.DataFrame, digits: int = 6) -> None:
    """Write a table as CSV without its index, atomically; fractions have ``digits`` significant digits."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format=f"%.{digits}g")
