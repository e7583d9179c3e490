"""The project folder around the working directory, its settings file, and the default settings outside a project."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from hetacumn.common.errors import HetacumnError
from hetacumn.common.settings import check_names, merged

PIPELINE_SETTINGS = "params.yaml"
#: The sections of settings files.
SECTIONS = (
    "seed", "stack", "classes", "initial", "train", "methods", "datasets",  # of params.yaml
    "molecules", "realistic", "peers", "peer_seconds", "peers_environment",  # of benchmark/params.yaml
    "entry", "count", "leading",  # of real/params.yaml
)  # fmt: skip
BOX = 32  # default pixels per side after Fourier cropping
TRAINED_SHARE = 0.7  # default fraction of the particles to train on; the others are only predicted
#: The settings without a settings file. Every other setting has the default of its dataclass.
DEFAULTS = {"seed": 0, "stack": {"box": BOX, "trained_share": TRAINED_SHARE}, "methods": {"hetacumn": {}, "em": {}}}


def project_root() -> Path:
    """Return the project folder: the nearest folder, from the working directory upwards, with dvc.yaml and params.yaml.

    The search starts in the working directory, not at this source file, because DVC runs queued experiments in a copy of the
    project.

    Raises:
        HetacumnError: neither the working directory nor a parent folder contains both files.
    """
    folder = find_project()
    if folder is None:
        raise HetacumnError(
            f"{Path.cwd()}: no dvc.yaml and params.yaml here or in a parent folder; expected a folder inside a project"
        )
    return folder


def find_project() -> Path | None:
    """Return the project folder as :func:`project_root` finds it, or None outside a project."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / PIPELINE_SETTINGS).is_file():
            return folder
    return None


def read_params(over: str | os.PathLike | Mapping = "", settings: str | os.PathLike = PIPELINE_SETTINGS) -> dict:
    """Read base settings as nested dicts and merge overriding settings into them.

    Args:
        over: the overriding settings: a YAML file or a mapping; an empty name overrides nothing.
        settings: the file of the base settings. The default, ``params.yaml``, is the file of this name in the project folder
            around the working directory; outside a project it means :data:`DEFAULTS`. An empty name means :data:`DEFAULTS`.

    Raises:
        HetacumnError: a file is missing or is not valid YAML, or a section is unknown.
    """
    if str(settings) == PIPELINE_SETTINGS:
        folder = find_project()
        settings = folder / PIPELINE_SETTINGS if folder else ""
    base = read_overrides(settings) if settings else DEFAULTS
    name = "overrides" if isinstance(over, Mapping) else str(over)
    return merged({str(settings) or "defaults": base, name: read_overrides(over)})


def read_overrides(over: str | os.PathLike | Mapping = "") -> dict:
    """Read settings from a YAML file or a mapping, and check their sections; an empty name returns no settings.

    Raises:
        HetacumnError: the file is missing or is not valid YAML, or a section is unknown.
    """
    settings = dict(over) if isinstance(over, Mapping) else read_yaml(over) if over else {}
    check_names(settings, SECTIONS, "overrides" if isinstance(over, Mapping) else str(over))
    return settings


def read_yaml(path: str | os.PathLike) -> dict:
    """Read a mapping of names to values from a YAML file; an empty file is an empty mapping.

    Raises:
        HetacumnError: the file is missing, cannot be read, is not valid YAML, or contains no mapping.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text()) or {}
    except FileNotFoundError:
        raise HetacumnError(f"{path}: no such file; expected settings in YAML") from None
    except OSError as error:
        raise HetacumnError(f"{path}: cannot be read ({error.strerror}); expected settings in YAML") from None
    except (yaml.YAMLError, ValueError) as error:
        raise HetacumnError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise HetacumnError(f"{path}: holds a {type(settings).__name__}; expected a mapping of names to values")
    return settings
