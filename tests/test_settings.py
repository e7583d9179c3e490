"""Settings of YAML and JSON become dataclasses, or are refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from hetacumn.common.errors import HetacumnError
from hetacumn.common.settings import (
    apply_overrides,
    check_fields,
    check_sections,
    flattened,
    merged,
    read_settings,
    with_settings,
)


@dataclass(frozen=True)
class Inner:
    steps: int = 3
    name: str = "inner"

    def __post_init__(self):
        check_fields(self, steps=(self.steps >= 0, "a number from 0 on"))


@dataclass(frozen=True)
class Outer:
    rate: float = 0.5
    name: str | None = None
    switch: bool | str = "auto"
    rounds: tuple[tuple[int, float], ...] = ()
    inner: Inner = field(default_factory=Inner)
    other: Inner = Inner(7, "other")


def test_values_are_taken_as_the_fields_say():
    found = read_settings(Outer, {"rate": 1, "rounds": [[4, 0.1], [2, 0.2]], "inner": {"steps": 5}, "switch": True})
    assert found == Outer(1.0, None, True, ((4, 0.1), (2, 0.2)), Inner(5))
    assert read_settings(Outer, {"inner": None}) == Outer()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"speed": 1}, "unknown setting run.speed; expected one of rate, name, switch, rounds, inner, other"),
        ({"rate": "fast"}, "run.rate is 'fast'; expected a valid number"),
        ({"rate": float("nan")}, "run.rate is nan; expected a finite number"),
        ({"switch": 7}, "run.switch is 7; expected"),
        ({"rounds": [[4, 0.1], [2]]}, r"run.rounds\[1\]\[1\] is \[2\]"),
        ({"inner": {"steps": 1.5}}, "run.inner.steps is 1.5; expected a valid integer"),
        ({"inner": {"step": 1}}, "unknown setting run.inner.step; did you mean run.inner.steps"),
        ({"steps": 1}, "unknown setting run.steps; did you mean run.inner.steps"),
        ({"ratte": 1}, "unknown setting run.ratte; did you mean run.rate"),
        ({"other": {"steps": -1}}, "^run.other.steps is -1; expected a number from 0 on"),
        ({"inner": [1]}, r"run.inner is \[1\]; expected names and values"),
    ],
)
def test_others_are_refused_by_name(values, message):
    with pytest.raises(HetacumnError, match=message) as caught:
        read_settings(Outer, values, "run.")
    assert "\n" not in str(caught.value)


def test_a_nested_mapping_changes_only_what_it_names():
    found = read_settings(Outer, {"other": {"steps": 8}})
    assert found.other == Inner(8, "other") and found.inner == Inner()
    assert with_settings(found, {"other": {"name": "new"}, "rate": 2}) == Outer(rate=2.0, other=Inner(8, "new"))
    assert read_settings(Outer, {"other": Inner(1)}).other == Inner(1)


def test_overrides_lie_over_the_settings_in_order():
    given = {"train": {"rate": 1, "network": {"width": 8}}, "seed": 1}
    found = apply_overrides(given, ["train.network.width=16", "train.steps=600", "seed=", "stack.box=[1, 2]", "train.steps=7"])
    network = {"rate": 1, "network": {"width": 16}, "steps": 7}
    assert found == {"train": network, "seed": None, "stack": {"box": [1, 2]}}
    assert given == {"train": {"rate": 1, "network": {"width": 8}}, "seed": 1}
    assert apply_overrides({}, ["a.b=x=y"]) == {"a": {"b": "x=y"}}


@pytest.mark.parametrize("override, message", [
    ("train.steps", "setting 'train.steps'; expected name=value, such as train.alone_steps=600"),
    ("=3", "expected name=value"), ("a..b=3", "expected name=value"), ("a=[1", "setting 'a=.1': not valid YAML"),
])  # fmt: skip
def test_an_override_that_cannot_be_read_is_refused(override, message):
    with pytest.raises(HetacumnError, match=message) as caught:
        apply_overrides({}, [override])
    assert "\n" not in str(caught.value)


def test_an_unknown_section_is_refused_with_the_nearest_known_one():
    check_sections({"train": {}, "seed": 0}, "my.yaml")
    with pytest.raises(HetacumnError, match="my.yaml: unknown section trian; did you mean train?"):
        check_sections({"seed": 0, "trian": {}}, "my.yaml")
    with pytest.raises(HetacumnError, match="my.yaml: unknown section 7; expected one of a, b"):
        check_sections({7: 0}, "my.yaml", ("a", "b"))


def test_nested_settings_become_one_level():
    assert flattened({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_later_layers_lie_over_earlier_ones_and_none_is_empty():
    assert merged({"a": {"x": 1, "y": 1}, "b": None, "c": {"y": 2}}) == {"x": 1, "y": 2}
    nested = merged({"a": {"x": {"u": 1, "v": 1}, "y": {"u": 1}}, "b": {"x": {"v": 2}, "y": 3}})
    assert nested == {"x": {"u": 1, "v": 2}, "y": 3}
    with pytest.raises(HetacumnError, match="b is 3; expected names and values"):
        merged({"a": {}, "b": 3})
