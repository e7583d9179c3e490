"""The project around the working directory, its settings file, and the defaults without one."""

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
    "seed", "stack", "classes", "train", "methods", "datasets",  # of params.yaml
    "molecules", "peers", "peer_seconds", "peers_environment",  # of benchmark/params.yaml
    "entry", "count", "leading",  # of real/params.yaml
)  # fmt: skip
#: The settings without a file. Every other setting has the default of its dataclass.
BOX = 32  # pixels after Fourier cropping
TRAINED_SHARE = 0.7  # of the particles; the rest is only predicted
DEFAULTS = {"seed": 0, "stack": {"box": BOX, "trained_share": TRAINED_SHARE}, "methods": {"hetacumn": {}, "em": {}}}


def project_root() -> Path:
    """Return the project's folder: the nearest one, from the working directory up, with dvc.yaml and params.yaml.

    The search begins in the working directory, not beside this file: DVC runs queued experiments in a copy of the project.

    Raises:
        HetacumnError: no such folder.
    """
    folder = find_project()
    if folder is None:
        raise HetacumnError(
            f"{Path.cwd()}: no dvc.yaml and params.yaml here or in a parent folder; expected a folder of the project"
        )
    return folder


def find_project() -> Path | None:
    """Return the folder of :func:`project_root`; None outside a project."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / PIPELINE_SETTINGS).is_file():
            return folder
    return None


def read_params(over: str | os.PathLike | Mapping = "", settings: str | os.PathLike = PIPELINE_SETTINGS) -> dict:
    """Read the settings of the paper's pipeline, or the defaults, as nested dicts, and merge other settings into them.

    ``settings``: params.yaml stands for the file of the project around the working directory, and for the defaults where
    there is no project; any other name for that file; an empty one for the defaults. ``over``: a YAML file or a mapping.

    Raises:
        HetacumnError: no such file, not valid YAML, or an unknown section.
    """
    if str(settings) == PIPELINE_SETTINGS:
        folder = find_project()
        settings = folder / PIPELINE_SETTINGS if folder else ""
    base = read_overrides(settings) if settings else DEFAULTS
    name = "overrides" if isinstance(over, Mapping) else str(over)
    return merged({str(settings) or "defaults": base, name: read_overrides(over)})


def read_overrides(over: str | os.PathLike | Mapping = "") -> dict:
    """Read the settings of a YAML file, none if none is named, or of a mapping.

    Raises:
        HetacumnError: no such file, not valid YAML, or an unknown section.
    """
    settings = dict(over) if isinstance(over, Mapping) else read_yaml(over) if over else {}
    check_names(settings, SECTIONS, "overrides" if isinstance(over, Mapping) else str(over))
    return settings


def read_yaml(path: str | os.PathLike) -> dict:
    """Read names and values from a YAML file. Raises :class:`HetacumnError` where there is no file, or no names."""
    try:
        settings = yaml.safe_load(Path(path).read_text()) or {}
    except FileNotFoundError:
        raise HetacumnError(f"{path}: no such file; expected settings in YAML") from None
    except OSError as error:
        raise HetacumnError(f"{path}: cannot be read ({error.strerror}); expected settings in YAML") from None
    except (yaml.YAMLError, ValueError) as error:
        raise HetacumnError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise HetacumnError(f"{path}: holds a {type(settings).__name__}; expected names and values")
    return settings
