"""Settings from YAML and JSON become dataclasses, or are refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from hetacumn.common.errors import HetacumnError
from hetacumn.common.project import read_params
from hetacumn.common.settings import (
    check_fields,
    check_names,
    flattened,
    merged,
    nested,
    read_settings,
    suggestion,
    with_settings,
)
from hetacumn.run.settings import collect, parse_assignment


@dataclass(frozen=True)
class Inner:
    steps: int = 3
    name: str = "inner"

    def __post_init__(self):
        check_fields(self, steps=(self.steps >= 0, "a number of at least 0"))


@dataclass(frozen=True)
class Outer:
    rate: float = 0.5
    name: str | None = None
    switch: bool | str = "auto"
    rounds: tuple[tuple[int, float], ...] = ()
    inner: Inner = field(default_factory=Inner)
    other: Inner = Inner(7, "other")


def test_values_are_converted_to_the_types_of_the_fields():
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
        ({"other": {"steps": -1}}, "^run.other.steps is -1; expected a number of at least 0"),
        ({"inner": [1]}, r"run.inner is \[1\]; expected a mapping of names to values"),
    ],
)
def test_invalid_settings_are_refused_by_name(values, message):
    with pytest.raises(HetacumnError, match=message) as caught:
        read_settings(Outer, values, "run.")
    assert "\n" not in str(caught.value)


def test_a_nested_mapping_changes_only_what_it_names():
    found = read_settings(Outer, {"other": {"steps": 8}})
    assert found.other == Inner(8, "other") and found.inner == Inner()
    assert with_settings(found, {"other": {"name": "new"}, "rate": 2}) == Outer(rate=2.0, other=Inner(8, "new"))
    assert read_settings(Outer, {"other": Inner(1)}).other == Inner(1)


def test_names_are_checked_down_to_the_deepest_known_name():
    known = ["seed", "train", "train.rate", "train.inner", "train.inner.steps", "datasets"]
    check_names({"seed": 0, "train": {"rate": {"free": 1}, "inner": {"steps": 1}}, "datasets": {"any": 1}}, known, "my.yaml")
    for values, message in (
        ({"seed": 0, "trian": {}}, "my.yaml: unknown setting trian; did you mean train?"),
        ({"train": {"inner": {"step": 1}}}, "my.yaml: unknown setting train.inner.step; did you mean train.inner.steps?"),
        ({"train": {"stesp": 1}}, "my.yaml: unknown setting train.stesp; did you mean train.inner.steps?"),
        ({"step": 1}, "my.yaml: unknown setting step; did you mean train.inner.steps?"),
        ({7: 0}, "my.yaml: unknown setting 7; expected one of seed, train, datasets"),
    ):
        with pytest.raises(HetacumnError) as caught:
            check_names(values, known, "my.yaml")
        assert str(caught.value) == message


def test_a_hint_lists_at_most_12_names():
    names = [f"name{i:02d}" for i in range(13)]
    assert suggestion("frequency", names) == f"expected one of {', '.join(names[:12])}, …"
    assert suggestion("frequency", names[:12]) == f"expected one of {', '.join(names[:12])}"
    assert suggestion("frequency", []) == "expected none"


def test_assignments_override_the_settings_in_order():
    given = {"train": {"rate": 1, "network": {"width": 8}}, "seed": 1}
    texts = ["train.network.width=16", "train.steps=600", "seed=", "stack.box=[1, 2]", "train.steps=7"]
    found = merged({"": given} | {text: parse_assignment(text) for text in texts})
    network = {"rate": 1, "network": {"width": 16}, "steps": 7}
    assert found == {"train": network, "seed": None, "stack": {"box": [1, 2]}}
    assert given == {"train": {"rate": 1, "network": {"width": 8}}, "seed": 1}
    assert parse_assignment("a.b=x=y") == {"a": {"b": "x=y"}}


@pytest.mark.parametrize("text, message", [
    ("train.steps", "--set train.steps: expected name=value, such as train.alone_steps=600"),
    ("=3", "expected name=value"), ("a..b=3", "expected name=value"), ("a=[1", "--set a=.1: '.1' is not a YAML value"),
])  # fmt: skip
def test_an_invalid_assignment_is_refused(text, message):
    with pytest.raises(HetacumnError, match=message) as caught:
        parse_assignment(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text, message", [
    ("train.alon_steps=3", "--set train.alon_steps=3: unknown setting train.alon_steps; did you mean train.alone_steps?"),
    ("trian.rate=3", "--set trian.rate=3: unknown setting trian; did you mean train?"),
    ("methods.em.width=3", "unknown setting methods.em.width; did you mean methods.em.network.width?"),
    ("datasets.adk.box=3", "this command does not read this setting; expected a setting of train, methods"),
])  # fmt: skip
def test_an_assignment_of_an_unknown_setting_is_refused_by_its_text(text, message):
    with pytest.raises(HetacumnError) as caught:
        collect(None, ["train.rate=1", text], {}, ("train", "methods"))
    assert message in str(caught.value)


def test_assignments_override_the_file_and_options_override_assignments(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("train: {rate: 0.1, batch: 7, network: {width: 8}}\nmethods: {em: {batch: 3}}\npeer_seconds: 5\n")
    found = collect(path, ["train.rate=0.2", "train.batch=9"], {"train": {"rate": 0.3}, "seed": None, "stack": {"box": None}},
                    ("train",))  # fmt: skip
    assert found.pop("stack") == {}
    assert found == {"train": {"rate": 0.3, "batch": 9, "network": {"width": 8}}, "methods": {"em": {"batch": 3}},
                     "peer_seconds": 5}  # fmt: skip
    path.write_text("methods: {em: {bacth: 3}}\n")
    with pytest.raises(HetacumnError, match="my.yaml: unknown setting methods.em.bacth; did you mean methods.em.batch"):
        collect(path, [], {}, ("train",))


def test_notebooks_and_commands_refuse_the_same_section(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("trian: {rate: 1}\n")
    message = f"^{path}: unknown setting trian; did you mean train"
    for read in (lambda: read_params(path, ""), lambda: read_params({}, path), lambda: collect(path, [], {}, ("train",))):
        with pytest.raises(HetacumnError, match=message):
            read()
    with pytest.raises(HetacumnError, match="^overrides: unknown setting trian; did you mean train"):
        read_params({"trian": {}}, "")


def test_nested_settings_are_flattened_and_nested_again():
    levels, flat = {"a": {"b": 1, "c": {"d": [2]}}, "e": None}, {"a.b": 1, "a.c.d": [2], "e": None}
    assert flattened(levels) == flat and nested(flat) == levels


def test_later_layers_override_earlier_ones_and_none_is_an_empty_group():
    assert merged({"a": {"x": 1, "y": 1}, "b": None, "c": {"y": 2}}) == {"x": 1, "y": 2}
    inner = merged({"a": {"x": {"u": 1, "v": 1}, "y": {"u": 1}}, "b": {"x": {"v": 2}, "y": 3}})
    assert inner == {"x": {"u": 1, "v": 2}, "y": 3}
    assert merged({"a": {"x": {"u": 1}, "y": 2}, "b": {"x": None, "y": None}}) == {"x": {"u": 1}, "y": None}
    with pytest.raises(HetacumnError, match="b is 3; expected a mapping of names to values"):
        merged({"a": {}, "b": 3})
