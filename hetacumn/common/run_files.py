"""The files ``run.json`` and ``config.json`` in the folder of a run.

``config.json`` contains the settings, the fingerprint of the stack and its preprocessing. ``run.json`` contains the values
that differ between identical runs: seconds, memory, device.
"""

from __future__ import annotations

import json
from pathlib import Path

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import write_json
from hetacumn.common.provenance import provenance


def read_run(out: Path | str) -> dict:
    """Read ``run.json`` (seconds, memory, device); return an empty dict where the file is missing."""
    path = Path(out) / "run.json"
    return read_json(path, "the seconds, memory and device of a run") if path.exists() else {}


def write_facts(out: Path, facts: dict) -> None:
    """Write ``facts`` (the settings and the stack of a run) and the provenance to ``config.json``.

    Call this function after the new model is saved, because ``config.json`` describes the model in the folder.
    """
    write_json(out / "config.json", {**facts, **provenance()})


def read_config(out: Path | str) -> dict:
    """Read a run's ``config.json``: method, ``config``, box, pixel size, stack, versions. See :func:`read_json` for errors."""
    return read_json(Path(out) / "config.json", "the settings of a run")


def read_json(path: Path, what: str) -> dict:
    """Read a mapping of names to values from a JSON file; ``what`` names the expected content in error messages.

    Raises:
        HetacumnError: the file is missing, is not JSON, or contains no mapping.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HetacumnError(f"{path}: cannot be read ({error}); expected {what}") from error
    if not isinstance(content, dict):
        raise HetacumnError(f"{path}: holds a {type(content).__name__}; expected {what}")
    return content
