"""The files ``run.json`` and ``config.json`` in the folder of a run.

``config.json`` holds the settings, the fingerprint of the stack and its preprocessing; ``run.json`` holds the facts that differ
from run to run: seconds, memory, device.
"""

from __future__ import annotations

import json
from pathlib import Path

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import write_json
from hetacumn.common.provenance import provenance


def read_run(out: Path | str) -> dict:
    """Read the facts that differ from run to run (seconds, memory, device), which are kept apart from the results."""
    path = Path(out) / "run.json"
    return read_json(path, "the facts of a run") if path.exists() else {}


def write_facts(out: Path, facts: dict) -> None:
    """Write ``config.json``, once the model exists: until then the file of an earlier model stays beside this model."""
    write_json(out / "config.json", {**facts, **provenance()})


def read_config(out: Path | str) -> dict:
    """Read a run's ``config.json``: method, ``config``, box, pixel size, stack and versions."""
    return read_json(Path(out) / "config.json", "the settings of a run")


def read_json(path: Path, what: str) -> dict:
    """Read names and values from a JSON file; ``what`` says what they should be.

    Raises:
        HetacumnError: no such file, not JSON, or no names.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HetacumnError(f"{path}: cannot be read ({error}); expected {what}") from error
    if not isinstance(content, dict):
        raise HetacumnError(f"{path}: holds a {type(content).__name__}; expected {what}")
    return content
