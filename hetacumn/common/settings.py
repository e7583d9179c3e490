"""Settings as users write them (YAML, JSON, ``a.b=value``), checked and converted into dataclasses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from typing import TypeVar, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from hetacumn.common.errors import HetacumnError

Settings = TypeVar("Settings")

SECTIONS = (
    "seed", "datasets", "stack", "classes", "train", "methods",  # of params.yaml
    "molecules", "peers", "peer_seconds", "peers_environment",  # of benchmark/params.yaml
    "entry", "count", "leading",  # of real/params.yaml
)  # fmt: skip


def merged(layers: Mapping[str, object]) -> dict:
    """Several mappings as one, later ones over earlier ones; nested mappings are merged too, and None is empty.

    ``layers`` are named as error messages name them.

    Raises:
        HetacumnError: a layer is no mapping.
    """
    for name, layer in layers.items():
        if not isinstance(layer, Mapping | None):
            raise HetacumnError(f"{name} is {layer!r}; expected names and values")
    found: dict = {}
    for layer in layers.values():
        for key, value in (layer if isinstance(layer, Mapping) else {}).items():
            nested = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = merged({"": found[key], key: value}) if nested else value
    return found


def check_fields(settings: object, **rules: tuple[bool, str]) -> None:
    """Raise :class:`HetacumnError` for the first field whose rule ``(holds, what was expected)`` does not hold."""
    for name, (holds, expected) in rules.items():
        if not holds:
            raise HetacumnError(f"{name} is {getattr(settings, name)!r}; expected {expected}")


def check_sections(settings: Mapping, source: str, known: Sequence[str] = SECTIONS) -> None:
    """Raise :class:`HetacumnError` where a settings file ``source`` has a top-level name that is not ``known``."""
    for name in settings:
        if name not in known:
            raise HetacumnError(f"{source}: unknown section {name}; {_suggestion(str(name), known)}")


def apply_overrides(settings: Mapping, overrides: Iterable[str]) -> dict:
    """``settings`` with overrides such as ``train.alone_steps=600`` laid over, in order; values are read as YAML.

    Raises:
        HetacumnError: an override without a name or an equals sign, or with a value that is not valid YAML.
    """
    found = dict(settings)
    for override in overrides:
        path, equals, text = override.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names):
            raise HetacumnError(f"setting '{override}'; expected name=value, such as train.alone_steps=600")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise HetacumnError(f"setting '{override}': not valid YAML: {' '.join(str(error).split())}") from None
        for name in reversed(names):
            value = {name: value}
        found = merged({"": found, path: value})
    return found


def read_settings(kind: type[Settings], values: Mapping, prefix: str = "") -> Settings:
    """An instance of the dataclass ``kind``, its fields (dataclasses among them) from nested mappings and lists.

    A nested mapping changes only the fields that it names. ``prefix``, such as ``stack.``, goes before the names in
    messages.

    Raises:
        HetacumnError: an unknown name, a value of a wrong type or out of range, a number that is not finite.
    """
    return _read(kind, {}, values, prefix, list(_names(kind, prefix)))


def with_settings(settings: Settings, values: Mapping, prefix: str = "") -> Settings:
    """A dataclass instance with nested ``values`` laid over; see :func:`read_settings`."""
    return _read(type(settings), _fields_of(settings), values, prefix, list(_names(type(settings), prefix)))


def flattened(values: Mapping, prefix: str = "") -> dict[str, object]:
    """A nested mapping as one level, its keys joined by dots."""
    found: dict[str, object] = {}
    for name, value in values.items():
        found |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _read(kind: type[Settings], base: Mapping, values: Mapping, prefix: str, known: list[str]) -> Settings:
    """An instance of ``kind`` from fields ``base`` and nested ``values`` over them; ``known`` are all dotted names."""
    hints, defaults = get_type_hints(kind), {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # any dataclass
    found = {**base, **values}
    for name, value in values.items():
        if name not in hints:
            raise HetacumnError(f"unknown setting {prefix}{name}; {_suggestion(f'{prefix}{name}', known)}")
        if is_dataclass(hints[name]) and not isinstance(value, hints[name]):
            inner = merged({f"{prefix}{name}": value})
            below = _fields_of(base[name]) if name in base else _fields_of(_default(defaults[name]))
            found[name] = _read(hints[name], below, inner, f"{prefix}{name}.", known)
    try:
        return TypeAdapter(with_config(ConfigDict(allow_inf_nan=False))(kind)).validate_python(found)
    except HetacumnError as error:
        raise HetacumnError(f"{prefix}{error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        name, *parts = first["loc"]
        place = "".join(f"[{part}]" for part in parts if isinstance(part, int))
        expected = first["msg"].replace("Input should be", "expected")
        raise HetacumnError(f"{prefix}{name}{place} is {first['input']!r}; {expected}") from None


def _fields_of(settings: object) -> dict[str, object]:
    return {field.name: getattr(settings, field.name) for field in fields(settings)}  # type: ignore[arg-type]


def _default(field: Field) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _names(kind: type, prefix: str) -> Iterator[str]:
    """The dotted names of all settings of a dataclass, the outer ones first."""
    hints = get_type_hints(kind)
    yield from (f"{prefix}{name}" for name in hints)
    for name, inner in hints.items():
        if isinstance(inner, type) and is_dataclass(inner):
            yield from _names(inner, f"{prefix}{name}.")


def _suggestion(name: str, known: Sequence[str]) -> str:
    """A hint at the nearest known name: the same or a similar last part, beside the name or elsewhere; or what is beside it."""
    *above, last = name.split(".")
    by_last = {other.split(".")[-1]: other for other in reversed(known)}  # of equal ones the first, which is the outermost
    beside = {other.split(".")[-1]: other for other in known if other.split(".")[:-1] == above}
    for names, similarity in ((by_last, 1.0), (beside, 0.6), (by_last, 0.7)):
        if near := get_close_matches(last, names, 1, similarity):
            return f"did you mean {names[near[0]]}?"
    return f"expected one of {', '.join(beside)}"


MOST_LISTED = 12


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a name, or None where none is like it."""
    return next(iter(get_close_matches(name, list(known), n=1)), None)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, or, where none is near, the known names."""
    names = list(known)
    near = nearest(name, names)
    if near:
        return f"did you mean {near}?"
    listed = ", ".join(names[:MOST_LISTED]) + (", …" if len(names) > MOST_LISTED else "")
    return f"expected one of {listed}" if names else "there is none"
