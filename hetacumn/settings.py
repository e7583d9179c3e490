"""Settings as users write them, in YAML or JSON, checked and made into the dataclasses that the package works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from hetacumn.errors import HetacumnError

Settings = TypeVar("Settings")


def merged(layers: Mapping[str, object]) -> dict:
    """Several mappings as one, later ones over earlier ones, nothing for None; by the names that messages give them. Of
    mappings within them likewise.

    Raises:
        HetacumnError: one of them is no mapping.
    """
    for name, layer in layers.items():
        if not isinstance(layer, Mapping | None):
            raise HetacumnError(f"{name} is {layer!r}; expected names and values")
    found: dict = {}
    for layer in layers.values():
        for key, value in (layer or {}).items():
            nested = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = merged({"": found[key], key: value}) if nested else value
    return found


def read_settings(kind: type[Settings], values: Mapping, prefix: str = "") -> Settings:
    """An instance of the dataclass ``kind``, its fields (dataclasses among them) from nested mappings and lists.

    ``prefix`` goes before the names in messages, such as ``stack.``.

    Raises:
        HetacumnError: an unknown name, a value of a wrong type, a number that is not finite.
    """
    known = get_type_hints(kind)
    for name in values:
        if name not in known:
            raise HetacumnError(f"unknown parameter {prefix}{name}; expected one of {', '.join(known)}")
    for name in [name for name in values if is_dataclass(known[name])]:
        inner = merged({f"{prefix}{name}": values[name]})
        values = {**values, name: read_settings(known[name], inner, f"{prefix}{name}.")}
    try:
        return TypeAdapter(with_config(ConfigDict(allow_inf_nan=False))(kind)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name, *inner = first["loc"]
        place = "".join(f"[{part}]" for part in inner if isinstance(part, int))
        expected = first["msg"].replace("Input should be", "expected")
        raise HetacumnError(f"{prefix}{name}{place} is {first['input']!r}; {expected}") from None
