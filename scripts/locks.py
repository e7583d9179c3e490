"""Repair of DVC's files after a kill. DVC writes dvc.lock and its list of running stages in place: a kill may truncate them.

While stages run, :func:`keep` copies each intact dvc.lock. Before the next run, :func:`mend` replaces a truncated dvc.lock by
its copy. DVC then reruns the stages that are missing in the copy.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from voluptuous import Invalid

from hetacumn.common.files import atomic_path

KEPT, RUNNING = Path(".dvc/tmp/kept"), Path(".dvc/tmp/rwlock")


def keep(lock: Path) -> None:
    """Copy a dvc.lock, if it is intact at this moment."""
    content = lock.read_bytes() if lock.exists() else b""
    if is_whole(content):
        with atomic_path(KEPT / lock) as temporary:
            temporary.write_bytes(content)


def mend(locks: list[Path]) -> None:
    """Replace each truncated dvc.lock by its copy, or move it away; delete a truncated list of running stages."""
    for lock in locks:
        if not lock.exists() or is_whole(lock.read_bytes()):
            continue
        copy = KEPT / lock
        if copy.exists():
            os.replace(copy, lock)
            print(f"{lock}: truncated by a kill; replaced by the last intact copy")
        else:
            os.replace(lock, lock.with_suffix(".cut"))
            print(f"{lock}: truncated by a kill; moved to {lock.with_suffix('.cut')}; no intact copy, its stages run again")
    try:
        json.loads(RUNNING.read_text())
    except FileNotFoundError:
        pass
    except ValueError:
        RUNNING.unlink()


def is_whole(content: bytes) -> bool:
    """Return whether ``content`` is a complete dvc.lock."""
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(content))
    except (yaml.YAMLError, UnicodeDecodeError, Invalid):
        return False
    return True
