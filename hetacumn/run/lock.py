"""A lock file that allows one run at a time in a folder.

The file is ``<folder>/.lock``. It contains the host, the process id and the start time of the process as JSON. A killed process
cannot remove its lock; the next run on this host therefore replaces the lock of a dead process. A run cannot check processes on
other hosts. It respects their locks, and the error message states how to remove such a lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

import psutil

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import make_folder

LOCK = ".lock"
SAME_START_SECONDS = 60.0  # tolerance of start times; a later process may reuse the process id


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock: its ``host``, its id ``process``, and its start time ``began`` in seconds since 1970."""

    host: str
    process: int
    began: float

    @classmethod
    def here(cls) -> Holder:
        """Return a holder for the running process."""
        return cls(platform.node(), os.getpid(), psutil.Process().create_time())

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended. The result is False for a process on another host, which cannot be checked."""
        if self.host != platform.node():
            return False
        try:
            process = psutil.Process(self.process)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return not alive or abs(process.create_time() - self.began) > SAME_START_SECONDS
        except psutil.NoSuchProcess:
            return True

    @property
    def is_own(self) -> bool:
        """Whether the holder is the running process or an ancestor, such as the command that started a notebook kernel."""
        family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        return self.host == platform.node() and self.process in family


@contextmanager
def hold(folder: Path | str) -> Iterator[None]:
    """Create the folder if it is missing, and lock it against other runs within the block.

    Child processes of the holder, such as the kernel of its notebook, may also use the folder.

    Raises:
        HetacumnError: another run uses the folder, or the folder cannot be created or written.
    """
    path = Path(folder) / LOCK
    make_folder(folder)
    if not _take(path):
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(path: Path) -> bool:
    """Write this process into a lock file and return True; return False if this process or an ancestor holds the lock."""
    while True:
        with _open(path) as file:
            with suppress(OSError):  # some network file systems do not support flock; a race is then possible, but unlikely
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, path):  # the holder has removed the file in the meantime
                continue
            holder = _read(file)
            if holder is not None and not holder.is_dead:
                if holder.is_own:
                    return False
                raise HetacumnError(_refusal(path, holder))
            file.seek(0)
            file.truncate()
            json.dump(asdict(Holder.here()), file)
            return True


def _open(path: Path) -> TextIO:
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
    except OSError as error:
        raise HetacumnError(
            f"{path}: cannot be written ({os.strerror(error.errno or 0)}); expected a folder to write into"
        ) from None


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _read(file: TextIO) -> Holder | None:
    """Read which process holds the lock; return None for an empty or damaged file, which a killed process may leave."""
    try:
        content = json.load(file)
        holder = Holder(str(content["host"]), int(content["process"]), float(content["began"]))
        datetime.fromtimestamp(holder.began)
        return holder
    except (ValueError, TypeError, KeyError, OverflowError, OSError):
        return None


def _refusal(path: Path, holder: Holder) -> str:
    began = datetime.fromtimestamp(holder.began).strftime("%Y-%m-%d %H:%M")
    where = "" if holder.host == platform.node() else f" on {holder.host}"
    return (
        f"{path.parent}: in use by process {holder.process}{where}, started {began}; expected one run per folder: "
        f"wait until that run ends, choose another folder, or remove {path} if the process no longer exists"
    )
