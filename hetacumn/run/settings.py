"""Settings of a command from a YAML file, ``--set`` assignments and options, checked before the command runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import yaml

from hetacumn.common.errors import HetacumnError
from hetacumn.common.project import DEFAULTS, SECTIONS, read_yaml
from hetacumn.common.settings import check_names, check_seed, merged, nested, setting_names
from hetacumn.network.config import TrainConfig, check_share, method_config, requested_classes
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.search.initial import SECTION, InitialSettings


def collect(config: Path | None, assignments: Sequence[str], options: Mapping, sections: Sequence[str]) -> dict:
    """Merge the user's settings into nested dicts. Options override assignments, and assignments override the file.

    Args:
        config: a YAML file; None for no file.
        assignments: texts such as ``train.alone_steps=600``; the values are YAML.
        options: nested dicts of command-line options; None stands for an option that the user did not give.
        sections: sections that the command reads, or parts of sections such as ``methods.hetacumn``. Assignments to other
            sections are errors.

    Raises:
        HetacumnError: the file does not exist, an assignment is invalid, or a setting is unknown.
    """
    layers = {str(config): read_yaml(config) if config else {}}
    layers |= {f"--set {text}": parse_assignment(text) for text in assignments}
    known = known_settings(layers.values())
    for source, layer in layers.items():
        check_names(layer, known, source)
        datasets = merged({f"{source}: datasets": layer.get("datasets")})  # raises HetacumnError if the value is not a mapping
        merged({f"{source}: datasets.{name}": value for name, value in datasets.items()})
    for text in assignments:
        name = text.partition("=")[0]
        if not any(name == section or name.startswith(f"{section}.") for section in sections):
            raise HetacumnError(
                f"--set {text}: this command does not read this setting; expected a setting of {', '.join(sections)}"
            )
    return merged({**layers, "options": without_none(options)})


def parse_assignment(text: str) -> dict:
    """Return ``train.alone_steps=600`` as ``{"train": {"alone_steps": 600}}``.

    Raises:
        HetacumnError: the name or the equals sign is missing, or the value is not YAML.
    """
    name, sign, value = text.partition("=")
    if not sign or not all(name.split(".")):
        raise HetacumnError(f"--set {text}: expected name=value, such as train.alone_steps=600")
    try:
        return nested({name: yaml.safe_load(value)})
    except yaml.YAMLError:
        raise HetacumnError(f"--set {text}: {value!r} is not a YAML value; expected a value such as 600 or [1, 2]") from None


def known_settings(layers: Collection[Mapping]) -> list[str]:
    """Return the dotted names of all settings. Each method named in ``layers`` has the settings of ``train``."""
    groups = [layer["methods"] for layer in layers if isinstance(layer.get("methods"), Mapping)]
    methods = sorted({str(name) for group in (*groups, DEFAULTS["methods"]) for name in group})
    return [
        *SECTIONS,
        *setting_names(TrainConfig, "train."),
        *setting_names(Preprocessing, "stack."),
        "stack.trained_share",
        *setting_names(InitialSettings, f"{SECTION}."),
        *(f"methods.{name}" for name in methods),
        *(full for name in methods for full in setting_names(TrainConfig, f"methods.{name}.")),
    ]


def without_none(settings: Mapping) -> dict:
    """Return nested dicts without the entries whose value is None."""
    inner = {name: without_none(value) if isinstance(value, Mapping) else value for name, value in settings.items()}
    return {name: value for name, value in inner.items() if value is not None}


def check_values(settings: Mapping) -> None:
    """Check the values of the complete settings of a command with the checks of training.

    Raises:
        HetacumnError: a value has the wrong type or is out of range.
    """
    Preprocessing.from_params(settings["stack"])
    InitialSettings.from_params(settings)
    check_seed(settings["seed"])
    method_config(settings, "hetacumn", classes=requested_classes(settings), seed=settings["seed"])
    check_share(settings["stack"]["trained_share"])
