"""One run a folder at a time: a lock file that names the process which works there.

The file is ``<folder>/.lock`` (JSON: host, process, when it began). A process that was killed cannot remove its lock, and so
the next run on the same host takes over the lock of a dead process. Whether a process of another host lives cannot be known
here: such a lock is respected, and the message says how to remove it.
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
SAME_START_SECONDS = 60.0  # a later process of the same number began at another time


@dataclass(frozen=True)
class Holder:
    """A process that works in a folder: its ``host``, its number, and its start in seconds since 1970."""

    host: str
    process: int
    began: float

    @classmethod
    def here(cls) -> Holder:
        """Describe the running process."""
        return cls(platform.node(), os.getpid(), psutil.Process().create_time())

    @property
    def is_dead(self) -> bool:
        """Tell whether the process is known to have ended; this is never known of a process on another host."""
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
        """Tell whether it is the running process or an ancestor, such as the command that started a notebook's kernel."""
        family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        return self.host == platform.node() and self.process in family


@contextmanager
def hold(folder: Path | str) -> Iterator[None]:
    """Make the folder if it is missing, and keep other runs out of it within the block.

    A run that the holder itself starts, such as the kernel of its notebook, may work in the folder too.

    Raises:
        HetacumnError: another run works there; the folder cannot be made or written.
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
    """Write this process into a lock file; False where an ancestor holds the lock."""
    while True:
        with _open(path) as file:
            with suppress(OSError):  # some network file systems have no such locks; the window is short
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, path):  # the holder removed it in the meantime
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
    """Read the holder; None for an empty or damaged file, which a killed process left."""
    try:
        content = json.load(file)
        holder = Holder(str(content["host"]), int(content["process"]), float(content["began"]))
        datetime.fromtimestamp(holder.began)
        return holder
    except (ValueError, TypeError, KeyError, OverflowError, OSError):
        return None


def _refusal(path: Path, holder: Holder) -> str:
    began = datetime.fromtimestamp(holder.began).strftime("%Y-%m-%d %H:%M")
    where = "" if holder.host == platform.node() else f" of {holder.host}"
    return (
        f"{path.parent}: in use by process {holder.process}{where}, which began {began}; expected one run per folder: "
        f"wait for the end of that run, choose another folder, or remove {path} if that run is gone"
    )
