"""Settings of YAML and JSON become dataclasses, or are refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from hetacumn.errors import HetacumnError
from hetacumn.settings import merged, read_settings


@dataclass(frozen=True)
class Inner:
    steps: int = 3


@dataclass(frozen=True)
class Outer:
    rate: float = 0.5
    name: str | None = None
    switch: bool | str = "auto"
    rounds: tuple[tuple[int, float], ...] = ()
    inner: Inner = field(default_factory=Inner)


def test_values_are_taken_as_the_fields_say():
    found = read_settings(Outer, {"rate": 1, "rounds": [[4, 0.1], [2, 0.2]], "inner": {"steps": 5}, "switch": True})
    assert found == Outer(1.0, None, True, ((4, 0.1), (2, 0.2)), Inner(5))
    assert read_settings(Outer, {"inner": None}) == Outer()


@pytest.mark.parametrize("values, message", [
    ({"speed": 1}, "unknown parameter run.speed; expected one of rate, name, switch, rounds, inner"),
    ({"rate": "fast"}, "run.rate is 'fast'; expected a valid number"),
    ({"rate": float("nan")}, "run.rate is nan; expected a finite number"),
    ({"switch": 7}, "run.switch is 7; expected"),
    ({"rounds": [[4, 0.1], [2]]}, r"run.rounds\[1\]\[1\] is \[2\]"),
    ({"inner": {"steps": 1.5}}, "run.inner.steps is 1.5; expected a valid integer"),
    ({"inner": {"step": 1}}, "unknown parameter run.inner.step; expected one of steps"),
    ({"inner": [1]}, r"run.inner is \[1\]; expected names and values"),
])
def test_others_are_refused_by_name(values, message):
    with pytest.raises(HetacumnError, match=message) as caught:
        read_settings(Outer, values, "run.")
    assert "\n" not in str(caught.value)


def test_later_layers_lie_over_earlier_ones_and_none_is_empty():
    assert merged({"a": {"x": 1, "y": 1}, "b": None, "c": {"y": 2}}) == {"x": 1, "y": 2}
    nested = merged({"a": {"x": {"u": 1, "v": 1}, "y": {"u": 1}}, "b": {"x": {"v": 2}, "y": 3}})
    assert nested == {"x": {"u": 1, "v": 2}, "y": 3}
    with pytest.raises(HetacumnError, match="b is 3; expected names and values"):
        merged({"a": {}, "b": 3})
