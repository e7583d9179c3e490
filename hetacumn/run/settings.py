"""Settings as users give them to a command: a YAML file, ``--set`` assignments and options, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_type_hints

import yaml

from hetacumn.common.errors import HetacumnError
from hetacumn.common.project import DEFAULTS, read_overrides
from hetacumn.common.settings import merged, nearest, suggestion

FREE = ("datasets", "classes")  # whose inner names are the user's, or the molecule's


def collect(config: Path | None, assignments: Sequence[str], options: Mapping, sections: Sequence[str] = ()) -> dict:
    """The user's settings as nested dicts: those of the file, then the assignments, then the options, later ones first.

    Args:
        config: a YAML file; None for no file.
        assignments: such as ``train.alone_steps=600``; values are YAML.
        options: nested dicts of single options; None stands for an option that was not given.
        sections: the only ones that an assignment may name; empty for all.

    Raises:
        HetacumnError: no such file, not an assignment, a setting that is unknown.
    """
    layers = {str(config): read_overrides(config or "")}
    layers |= {f"--set {text}": parse_assignment(text) for text in assignments}
    for source, layer in layers.items():
        check_names(layer, source)
    for text in assignments:
        if sections and text.partition(".")[0] not in sections:
            raise HetacumnError(f"--set {text}: this command reads nothing of it; expected a setting of {', '.join(sections)}")
    return merged({**layers, "options": without_none(options)})


def parse_assignment(text: str) -> dict:
    """``train.alone_steps=600`` as ``{"train": {"alone_steps": 600}}``. Raises :class:`HetacumnError` for anything else."""
    name, sign, value = text.partition("=")
    if not sign or not all(name.split(".")):
        raise HetacumnError(f"--set {text}: expected name=value, such as train.alone_steps=600")
    try:
        return nested({name: yaml.safe_load(value)})
    except yaml.YAMLError:
        raise HetacumnError(f"--set {text}: {value!r} is not a YAML value; expected one, such as 600 or [1, 2]") from None


def nested(settings: Mapping[str, object]) -> dict:
    """Settings by dotted names as nested dicts."""
    layers: dict[str, object] = {}
    for name, value in settings.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        layers[name] = value
    return merged(layers)


def without_none(settings: Mapping) -> dict:
    """Nested dicts without the names whose value is None."""
    inner = {name: without_none(value) if isinstance(value, Mapping) else value for name, value in settings.items()}
    return {name: value for name, value in inner.items() if value is not None}


def check_names(settings: Mapping, source: str) -> None:
    """Refuse, with the nearest known name, a setting that nothing reads; ``source`` begins the message.

    Raises:
        HetacumnError: the setting is unknown.
    """
    sections = [*DEFAULTS, *FREE, "train"]
    for section, values in settings.items():
        if section not in sections:
            inner = [] if isinstance(values, Mapping) else [f"{of}.{name}" for of in ("stack", "train") for name in _dotted(of)]
            full = {name.rpartition(".")[2]: name for name in reversed(inner)}
            near = nearest(section, [*sections, *full])
            meant = f"did you mean {full.get(near, near)}?" if near else f"expected one of {', '.join(sections)}"
            raise HetacumnError(f"{source}: unknown setting {section}; {meant}")
        if section in FREE or not isinstance(values, Mapping):
            continue
        known = _dotted("train" if section == "methods" else section)
        for before, group in values.items() if section == "methods" else [("", values)]:
            before = f"{section}.{before}." if before else f"{section}."
            for name in _leaves(group, known) if isinstance(group, Mapping) else ():
                meant = suggestion(before + name, [before + other for other in known])
                raise HetacumnError(f"{source}: unknown setting {before}{name}; {meant}")


def check_training(settings: Mapping) -> None:
    """Refuse values of a command's complete settings that training would refuse.

    Raises:
        HetacumnError: a value of a wrong type or out of its range.
    """
    from hetacumn.network.config import method_config, requested_classes
    from hetacumn.network.training import training_share
    from hetacumn.particles.preprocessing import Preprocessing

    Preprocessing.from_params(settings["stack"])
    method_config(settings, "hetacumn", classes=requested_classes(settings), seed=settings["seed"])
    training_share(1, settings["stack"]["trained_share"])


def _leaves(settings: Mapping, known: Sequence[str], before: str = "") -> Iterator[str]:
    """Dotted names within nested settings that are neither known nor lead to a known one."""
    for name, value in settings.items():
        name = f"{before}{name}"
        if name in known:
            continue
        if isinstance(value, Mapping) and any(other.startswith(f"{name}.") for other in known):
            yield from _leaves(value, known, f"{name}.")
        else:
            yield name


def _dotted(section: str) -> list[str]:
    """The dotted names of all settings of a section, without the section."""
    from hetacumn.network.config import TrainConfig
    from hetacumn.particles.preprocessing import Preprocessing

    kinds = {"train": TrainConfig, "stack": Preprocessing}
    more = ["trained_share"] if section == "stack" else []
    return [*_fields(kinds[section]), *more] if section in kinds else []


def _fields(kind: type, before: str = "") -> Iterator[str]:
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from _fields(hint, f"{before}{name}.")
        else:
            yield f"{before}{name}"
