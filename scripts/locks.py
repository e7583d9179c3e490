"""DVC's own files after a kill. It writes dvc.lock and its list of running stages in place: a kill may cut them off.

While stages run, :func:`keep` copies each dvc.lock that is whole; before the next run :func:`mend` puts the copy in the place
of one that is not. What the copy lacks is run again.
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
    """Copy a dvc.lock, if it is whole at this moment."""
    content = lock.read_bytes() if lock.exists() else b""
    if is_whole(content):
        with atomic_path(KEPT / lock) as temporary:
            temporary.write_bytes(content)


def mend(locks: list[Path]) -> None:
    """Replace every dvc.lock that was cut off by its copy, or do without it; forget a list of stages that was. Says so."""
    for lock in locks:
        if not lock.exists() or is_whole(lock.read_bytes()):
            continue
        copy = KEPT / lock
        if copy.exists():
            os.replace(copy, lock)
            print(f"{lock}: cut off by a kill; the copy from before is in its place")
        else:
            os.replace(lock, lock.with_suffix(".cut"))
            print(f"{lock}: cut off by a kill; moved to {lock.with_suffix('.cut')}, and what it said is found out again")
    try:
        json.loads(RUNNING.read_text())
    except FileNotFoundError:
        pass
    except ValueError:
        RUNNING.unlink()


def is_whole(content: bytes) -> bool:
    """Whether this is what DVC writes into dvc.lock."""
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(content))
    except (yaml.YAMLError, UnicodeDecodeError, Invalid):
        return False
    return True
