"""Output folders, and atomic writing of files, JSON and CSV tables: an output file is complete or absent."""

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

POINTER = b"version https://git-lfs.github.com/spec/"  # first bytes of a pointer file of Git LFS
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk or the quota is full, or the file exceeds the size limit


def make_folder(path: str | os.PathLike) -> Path:
    """Create an output folder and its parents where they do not exist; return its path.

    Raises:
        HetacumnError: the path or one of its parents is a file, or the folder cannot be created or is read-only.
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


def refuse_pointer(path: str | os.PathLike, what: str) -> None:
    """Raise :class:`HetacumnError` if a file cannot be read, or is a pointer file of Git LFS and not the expected ``what``."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(len(POINTER))
    except OSError as error:
        raise HetacumnError(f"{path}: cannot be read ({error.strerror}); expected {what}") from error
    if head == POINTER:
        raise HetacumnError(f"{path}: a pointer of Git LFS, not {what}; expected the data: run git lfs pull")


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it to ``path`` at the end, or remove it after an error.

    A reader sees the old file or the complete new file, never a part. The temporary name keeps the suffix of ``path``, because
    writers choose their format by the suffix. It also contains the machine and the process number: each call first removes
    the temporary files of ``path`` that killed processes of this machine left. Missing parent folders are created.

    Raises:
        HetacumnError: the disk or a quota is full, the folder cannot be written into (see :func:`make_folder`), or ``path`` is
            a folder.
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
    """Remove the temporary files of ``path`` that ended processes of this machine left."""
    written = re.compile(rf"{re.escape(f'.{path.stem}.{machine}-')}(\d+)-[0-9a-f]+{re.escape(path.suffix)}")
    for file in path.parent.iterdir():
        found = written.fullmatch(file.name)
        if found and not _is_alive(int(found[1])):
            file.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Return whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the process runs, as another user
        pass
    return True


def write_json(path: str | os.PathLike, content: object) -> None:
    """Write ``content`` as indented JSON, atomically; keys keep their order."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_table(path: Path | str, table: pd.DataFrame, digits: int = 6) -> None:
    """Write a table as CSV without its index, atomically; floats have ``digits`` significant digits."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format=f"%.{digits}g")
