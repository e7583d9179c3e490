"""Settings in nested mappings, as YAML and JSON hold them: merged, checked by name, and converted into dataclasses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from os.path import commonprefix
from typing import TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from hetacumn.common.errors import HetacumnError

Settings = TypeVar("Settings")
MOST_LISTED = 12  # names in a hint
SEED_BITS = 63


def merged(layers: Mapping[str, object]) -> dict:
    """Merge mappings, later ones over earlier ones, nested mappings too; None is an empty mapping.

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
            both = isinstance(value, Mapping | None) and isinstance(found.get(key), Mapping)
            found[key] = merged({"": found[key], key: value}) if both else value
    return found


def check_fields(settings: object, **rules: tuple[bool, str]) -> None:
    """Raise :class:`HetacumnError` for the first field whose rule ``(holds, what was expected)`` does not hold."""
    for name, (holds, expected) in rules.items():
        if not holds:
            raise HetacumnError(f"{name} is {getattr(settings, name)!r}; expected {expected}")


def check_names(values: Mapping, known: Sequence[str], source: str = "", prefix: str = "") -> None:
    """Raise :class:`HetacumnError` for the first name that is not ``known``, with the nearest known name.

    ``known`` holds dotted names, such as ``train`` and ``train.rate``. Where ``known`` has names below the name of a value, the
    value is a nested mapping, which is checked too, a dataclass or None; any other value is refused. ``source`` begins the
    message; ``prefix``, such as ``stack.``, goes before the names of ``values``.
    """
    begin = f"{source}: " if source else ""
    for name, value in values.items():
        name = f"{prefix}{name}"
        if name not in known:
            raise HetacumnError(f"{begin}unknown setting {name}; {suggestion(name, known)}")
        if value is None or is_dataclass(value) or not any(other.startswith(f"{name}.") for other in known):
            continue
        if not isinstance(value, Mapping):
            raise HetacumnError(f"{begin}{name} is {value!r}; expected names and values")
        check_names(value, known, source, f"{name}.")


def check_seed(seed: object) -> None:
    """Raise :class:`HetacumnError` for a seed that the generators of random numbers do not take."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**SEED_BITS:
        raise HetacumnError(f"seed is {seed!r}; expected a whole number from 0 to 2^{SEED_BITS} - 1")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a hint at the nearest of some known dotted names.

    The nearest name has the same or a similar last part, beside the name or elsewhere. Where there is none, the hint lists
    the names beside it.
    """
    *above, last = name.split(".")
    names = sorted(known, key=lambda other: -len(commonprefix([above, other.split(".")])))  # the same section first
    by_last = {other.split(".")[-1]: other for other in reversed(names)}  # of equal ones the first, which is the outermost
    beside = {other.split(".")[-1]: other for other in names if other.split(".")[:-1] == above}
    for choices, similarity in ((by_last, 1.0), (beside, 0.6), (by_last, 0.7)):
        if near := get_close_matches(last, choices, 1, similarity):
            return f"did you mean {choices[near[0]]}?"
    listed = [*list(beside)[:MOST_LISTED], *(["…"] if len(beside) > MOST_LISTED else [])]
    return f"expected one of {', '.join(listed)}" if listed else "there is none"


def setting_names(kind: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings of a dataclass, the outer ones first."""
    hints = get_type_hints(kind)
    yield from (f"{prefix}{name}" for name in hints)
    for name, inner in hints.items():
        if isinstance(inner, type) and is_dataclass(inner):
            yield from setting_names(inner, f"{prefix}{name}.")


def read_settings(kind: type[Settings], values: Mapping, prefix: str = "") -> Settings:
    """Make an instance of the dataclass ``kind``; its fields, dataclasses among them, come from nested mappings and lists.

    A nested mapping changes only the fields that it names. ``prefix``, such as ``stack.``, goes before the names in
    messages.

    Raises:
        HetacumnError: an unknown name, a value of a wrong type or out of range, a number that is not finite.
    """
    check_names(values, list(setting_names(kind, prefix)), prefix=prefix)
    return _read(kind, {}, values, prefix)


def with_settings(settings: Settings, values: Mapping, prefix: str = "") -> Settings:
    """Return a copy of a dataclass instance with nested ``values`` replaced; see :func:`read_settings`."""
    check_names(values, list(setting_names(type(settings), prefix)), prefix=prefix)
    return _read(type(settings), _fields_of(settings), values, prefix)


def nested(values: Mapping[str, object]) -> dict:
    """Return settings by dotted names as nested mappings; later ones lie over earlier ones."""
    layers: dict[str, object] = {}
    for name, value in values.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        layers[name] = value
    return merged(layers)


def flattened(values: Mapping, prefix: str = "") -> dict[str, object]:
    """Return a nested mapping as one level, its keys joined by dots; the inverse of :func:`nested`."""
    found: dict[str, object] = {}
    for name, value in values.items():
        found |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _read(kind: type[Settings], base: Mapping, values: Mapping, prefix: str) -> Settings:
    """Make an instance of ``kind`` from the fields ``base`` and nested ``values`` over them."""
    hints, defaults = get_type_hints(kind), {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # any dataclass
    found = {**base, **values}
    for name, value in values.items():
        if is_dataclass(hints[name]) and not isinstance(value, hints[name]):
            inner = merged({f"{prefix}{name}": value})
            below = _fields_of(base[name]) if name in base else _fields_of(_default(defaults[name]))
            found[name] = _read(hints[name], below, inner, f"{prefix}{name}.")
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
