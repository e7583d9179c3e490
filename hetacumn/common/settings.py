"""Settings as nested mappings (from YAML or JSON): merging, checks of names, and conversion to dataclasses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from os.path import commonprefix
from typing import TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from hetacumn.common.errors import HetacumnError

Settings = TypeVar("Settings")
MOST_LISTED = 12  # the most names that a hint lists
SEED_BITS = 63


def merged(layers: Mapping[str, object]) -> dict:
    """Merge the mappings in ``layers``, nested mappings too: a later value replaces an earlier one.

    None counts as an empty mapping. The keys of ``layers`` name the layers in error messages.

    Raises:
        HetacumnError: a layer is not a mapping.
    """
    for name, layer in layers.items():
        if not isinstance(layer, Mapping | None):
            raise HetacumnError(f"{name} is {layer!r}; expected a mapping of names to values")
    found: dict = {}
    for layer in layers.values():
        for key, value in (layer if isinstance(layer, Mapping) else {}).items():
            both = isinstance(value, Mapping | None) and isinstance(found.get(key), Mapping)
            found[key] = merged({"": found[key], key: value}) if both else value
    return found


def check_fields(settings: object, **rules: tuple[bool, str]) -> None:
    """Raise :class:`HetacumnError` for the first field whose rule fails; a rule is ``(holds, expected value in words)``."""
    for name, (holds, expected) in rules.items():
        if not holds:
            raise HetacumnError(f"{name} is {getattr(settings, name)!r}; expected {expected}")


def check_names(values: Mapping, known: Sequence[str], source: str = "", prefix: str = "") -> None:
    """Raise :class:`HetacumnError` for the first name in ``values`` that is not ``known``, and suggest the nearest known name.

    Args:
        values: settings by name. A section is a name such as ``train`` with further names below it in ``known``. Its value
            must be a nested mapping, a dataclass or None. The function also checks the names in nested mappings.
        known: dotted names, such as ``train`` and ``train.rate``.
        source: the origin of the settings (a file, an option), which begins the message.
        prefix: the section of ``values``, such as ``stack.``, which precedes their names.
    """
    begin = f"{source}: " if source else ""
    for name, value in values.items():
        name = f"{prefix}{name}"
        if name not in known:
            raise HetacumnError(f"{begin}unknown setting {name}; {suggestion(name, known)}")
        if value is None or is_dataclass(value) or not any(other.startswith(f"{name}.") for other in known):
            continue
        if not isinstance(value, Mapping):
            raise HetacumnError(f"{begin}{name} is {value!r}; expected a mapping of names to values")
        check_names(value, known, source, f"{name}.")


def check_seed(seed: object) -> None:
    """Raise :class:`HetacumnError` unless ``seed`` is a whole number that all random number generators accept."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**SEED_BITS:
        raise HetacumnError(f"seed is {seed!r}; expected a whole number from 0 to 2^{SEED_BITS} - 1")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown dotted name: the nearest known name, or else the known names of its section.

    The nearest name is, in this order of preference: a name whose last part is equal, in any section; a name of the same
    section whose last part is similar; a name of another section whose last part is very similar.
    """
    *above, last = name.split(".")
    names = sorted(known, key=lambda other: -len(commonprefix([above, other.split(".")])))  # the same section first
    by_last = {other.split(".")[-1]: other for other in reversed(names)}  # the first name in `names` wins
    beside = {other.split(".")[-1]: other for other in names if other.split(".")[:-1] == above}
    for choices, similarity in ((by_last, 1.0), (beside, 0.6), (by_last, 0.7)):
        if near := get_close_matches(last, choices, 1, similarity):
            return f"did you mean {choices[near[0]]}?"
    listed = [*list(beside)[:MOST_LISTED], *(["…"] if len(beside) > MOST_LISTED else [])]
    return f"expected one of {', '.join(listed)}" if listed else "expected none"


def setting_names(kind: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings of a dataclass: first its own fields, then those of nested dataclasses."""
    hints = get_type_hints(kind)
    yield from (f"{prefix}{name}" for name in hints)
    for name, inner in hints.items():
        if isinstance(inner, type) and is_dataclass(inner):
            yield from setting_names(inner, f"{prefix}{name}.")


def read_settings(kind: type[Settings], values: Mapping, prefix: str = "") -> Settings:
    """Build an instance of the dataclass ``kind`` from nested mappings and lists.

    A nested mapping sets the fields of a nested dataclass; fields that it does not name keep their defaults. ``prefix``, such
    as ``stack.``, precedes the names in messages.

    Raises:
        HetacumnError: an unknown name, a value of a wrong type or out of range, or a number that is not finite.
    """
    check_names(values, list(setting_names(kind, prefix)), prefix=prefix)
    return _read(kind, {}, values, prefix)


def with_settings(settings: Settings, values: Mapping, prefix: str = "") -> Settings:
    """Return a copy of a dataclass instance with ``values`` replaced; see :func:`read_settings` for nesting and errors."""
    check_names(values, list(setting_names(type(settings), prefix)), prefix=prefix)
    return _read(type(settings), _fields_of(settings), values, prefix)


def nested(values: Mapping[str, object]) -> dict:
    """Convert a mapping with dotted names to nested mappings; later values replace earlier ones."""
    layers: dict[str, object] = {}
    for name, value in values.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        layers[name] = value
    return merged(layers)


def flattened(values: Mapping, prefix: str = "") -> dict[str, object]:
    """Convert nested mappings to one mapping with dotted names; the inverse of :func:`nested`."""
    found: dict[str, object] = {}
    for name, value in values.items():
        found |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _read(kind: type[Settings], base: Mapping, values: Mapping, prefix: str) -> Settings:
    """Build an instance of ``kind`` from the fields ``base``, which nested ``values`` override."""
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
