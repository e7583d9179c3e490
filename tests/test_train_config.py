"""Settings of training: of a method, of faint images, and those that cannot be."""

from dataclasses import replace

import pytest
from toys import hinged, make_toy

from hetacumn.ab_initio_config import AbInitioConfig
from hetacumn.errors import HetacumnError
from hetacumn.observations import signal_nats
from hetacumn.train_config import TrainConfig, method_config, wanted_classes

BOX = 16


@pytest.mark.parametrize(
    "settings, name",
    [
        ({"epochs": 3}, "unknown parameter epochs; expected one of classes"),
        ({"ab_initio": {"step": 3}}, r"unknown parameter ab_initio\.step; expected one of volumes"),
    ],
)
def test_an_unknown_parameter_is_refused_by_its_name(settings, name):
    with pytest.raises(HetacumnError, match=name):
        TrainConfig.from_params(settings)


@pytest.mark.parametrize("known, dataset, asked, wanted", [
    ({"adk": 2}, "adk", None, 2), ({"adk": 2}, "adk", 3, 3), ({"adk": 2}, "", None, 4), (6, "adk", None, 6),
    (None, "adk", None, 4),
])  # fmt: skip
def test_classes_are_as_asked_or_as_the_settings_say(known, dataset, asked, wanted):
    assert wanted_classes({"classes": known}, dataset, asked) == wanted


def test_the_settings_of_a_method_lie_over_those_of_all():
    train = {"rate": 0.01, "ab_initio": {"steps": 7, "restarts": 2}}
    params = {"train": train, "methods": {"mine": {"ab_initio": {"steps": 9}}}}
    config = method_config(params, "mine", seed=3)
    assert (config.rate, config.seed, config.ab_initio.steps, config.ab_initio.restarts) == (0.01, 3, 9, 2)
    with pytest.raises(HetacumnError, match="unknown method 'other'; expected one of mine"):
        method_config(params, "other")
    with pytest.raises(HetacumnError, match="ab_initio.volumes is set; expected classes, which it is taken from"):
        method_config({**params, "train": {"ab_initio": {"volumes": 3}}}, "mine")


@pytest.mark.parametrize("wrong", [0, -1, "two", 2.5])
def test_classes_that_cannot_be_are_refused(wrong):
    with pytest.raises(HetacumnError, match=f"classes is {wrong!r}; expected a number from 1 on"):
        wanted_classes({"classes": {"adk": wrong}}, "adk")


@pytest.mark.parametrize("wrong, message", [
    ({"routes": ()}, "routes is ..; expected classes, consensus or both"), ({"routes": ("both",)}, "routes"),
    ({"held_out": 0.0}, "held_out is 0.0; expected a number over 0"), ({"shift": 0.5}, "shift is 0.5"),
    ({"soft_radius": 0.2}, "soft_radius is 0.2; expected a number over 0.22, where radius ends"), ({"shift_apart_px": 0.0}, ""),
    ({"rivals_apart_px": -1.0}, "rivals_apart_px is -1.0; expected a number over 0"), ({"settled": 2.0}, "settled is 2.0"),
    ({"last_reaches": (0.45, 0.6)}, "last_reaches is .*; expected numbers over 0 and up to 0.5"),
    ({"faint_early_reaches": (0.0,)}, "faint_early_reaches"),
    ({"component_share": -0.1}, "component_share is -0.1; expected 0 or a number over it"),
])  # fmt: skip
def test_settings_of_a_start_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(HetacumnError, match=f"ab_initio.{message}"):
        TrainConfig.from_params({"ab_initio": wrong})


@pytest.mark.parametrize("wrong, message", [
    ({"feedback": [[0, 0.2]]}, "feedback is .*; expected pairs of a number from 1 on, how many take part, and a radius"),
    ({"faint_second_rounds": [[4, 0.7]]}, "faint_second_rounds is .*; expected pairs"),
    ({"faint_alone": 0.0}, "faint_alone is 0.0; expected a number over 0"),
    ({"faint_second_look": 3.0}, "faint_second_look is 3.0; expected a share from 0 to 1"),
    ({"second_rounds": []}, "second_rounds is empty; expected rounds, or 0 for second_look"),
])  # fmt: skip
def test_rounds_and_shares_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(HetacumnError, match=f"^{message}"):
        TrainConfig.from_params(wrong)
    assert TrainConfig.from_params({"second_rounds": [], "second_look": 0}).second_rounds == ()


def test_more_hypotheses_compete_for_faint_images(blobs, device):
    loud, faint = (make_toy([hinged(blobs, 0)], 300, BOX, snr=snr, device=device).data for snr in (2.0, 0.05))
    config = TrainConfig(ab_initio=AbInitioConfig(loud_nats=signal_nats(loud, 0.22 * BOX) / 4))
    assert config.suited(loud) == config
    suited = config.suited(faint)
    thorough = config.ab_initio.thorough()
    assert suited == replace(
        config,
        feedback=config.faint_feedback,
        second_look=config.faint_second_look,
        second_rounds=config.faint_second_rounds,
        alone_steps=3 * config.alone_steps,
        faint_alone=1.0,
        ab_initio=thorough,
    )
    assert suited.suited(faint) == suited
    bare = replace(config, feedback=(), alone_steps=0)
    assert bare.suited(faint) == replace(bare, ab_initio=thorough, faint_alone=1.0)
    assert replace(config, second_look=0.0).suited(faint).second_look == 0
