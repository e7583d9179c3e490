"""Settings of training: those of a method, the presets ``bright`` and ``faint``, and refusal of impossible settings."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from toys import hinged, make_toy

from hetacumn.ab_initio.config import CONSENSUS, AbInitioConfig
from hetacumn.common.errors import HetacumnError
from hetacumn.common.settings import merged
from hetacumn.network.config import NetworkConfig, TrainConfig, method_config, requested_classes
from hetacumn.particles.observations import signal_nats

BOX = 16


@pytest.mark.parametrize("settings, message", [
    ({"alone_step": 600}, "unknown setting train.alone_step; did you mean train.alone_steps?"),
    ({"templates": 0}, "unknown setting train.templates; did you mean train.network.templates?"),
    ({"restarts": 1}, "unknown setting train.restarts; did you mean train.ab_initio.consensus.restarts?"),
    ({"ab_initio": {"soft": {"stpes": 3}}}, "train.ab_initio.soft.stpes; did you mean train.ab_initio.soft.steps?"),
    ({"colour": 3}, "unknown setting train.colour; expected one of classes, latent_dim, seed"),
])  # fmt: skip
def test_an_unknown_setting_is_refused_with_the_nearest_known_one(settings, message):
    with pytest.raises(HetacumnError, match=re.escape(message)):
        TrainConfig.from_params(settings)


@pytest.mark.parametrize("known, dataset, given, expected", [
    ({"adk": 2}, "adk", None, 2), ({"adk": 2}, "adk", 3, 3), ({"adk": 2}, "", None, 0), (6, "adk", None, 6),
    (None, "adk", None, 0), ({"adk": 2}, "adk", 0, 0),
])  # fmt: skip
def test_classes_are_as_given_or_as_in_the_settings(known, dataset, given, expected):
    assert requested_classes({"classes": known}, dataset, given) == expected


def test_the_settings_of_a_method_override_the_common_ones():
    train = {"rate": 0.01, "ab_initio": {"consensus": {"steps": 7, "restarts": 2}}}
    params = {"train": train, "methods": {"mine": {"ab_initio": {"consensus": {"steps": 9}}}}}
    config = method_config(params, "mine", seed=3)
    consensus = replace(CONSENSUS, steps=9, restarts=2)  # the other values are unchanged
    assert (config.rate, config.seed, config.ab_initio.consensus) == (0.01, 3, consensus)
    with pytest.raises(HetacumnError, match="unknown method 'other'; expected one of mine"):
        method_config(params, "other")
    with pytest.raises(
        HetacumnError, match="train.ab_initio.volumes cannot be set; expected train.classes, which determines it"
    ):
        method_config({**params, "train": {"ab_initio": {"volumes": 3}}}, "mine")


@pytest.mark.parametrize("wrong", [-1, "two", 2.5])
def test_impossible_numbers_of_classes_are_refused(wrong):
    with pytest.raises(HetacumnError, match=f"classes is {wrong!r}; expected a whole number of at least 1"):
        requested_classes({"classes": {"adk": wrong}}, "adk")


@pytest.mark.parametrize("wrong, message", [
    ({"routes": ()}, "routes is ..; expected classes, consensus and noise, or some of them, or independent alone"),
    ({"routes": ("both",)}, "routes"), ({"routes": ("classes", "independent")}, "routes"),
    ({"held_out": 0.0}, "held_out is 0.0; expected a number above 0"),
    ({"grid": {"extent": 0.5}}, "grid.extent is 0.5"), ({"grid": {"step_px": 0.0}}, "grid.step_px is 0.0"),
    ({"grid": {"fine_step_px": -1.0}}, "grid.fine_step_px is -1.0; expected a number above 0"),
    ({"soft": {"radius": [0.22, 0.2]}}, "soft.radius is .*; expected two radii of at least 0, the second larger"),
    ({"consensus": {"steps": -1}}, "consensus.steps is -1; expected a number of at least 0"),
    ({"classes": {"grids": []}}, "classes.grids is ..; expected grids"),
    ({"classes": {"grids": [[3, 17]]}}, "classes.grids is .*; expected grids with an even second number"),
    ({"grid": {"rotations": [4, 25]}}, "grid.rotations is .*; expected a grid with an even second number"),
    ({"classes": {"temper": 0}}, "classes.temper is 0"),
    ({"division": {"turns": -1}}, "division.turns is -1; expected a number of at least 0"),
    ({"settled": 2.0}, "settled is 2.0"), ({"brightness": "dim"}, "brightness is 'dim'; expected 'auto', 'bright' or 'faint'"),
    ({"bright": {"last_radii": (0.45, 0.6)}}, "bright.last_radii is .*; expected numbers above 0 and up to 0.5"),
    ({"faint": {"early_radii": (0.0,)}}, "faint.early_radii"),
    ({"faint": {"component_share": -0.1}}, "faint.component_share is -0.1; expected a number of at least 0"),
])  # fmt: skip
def test_impossible_settings_of_the_start_are_refused(wrong, message):
    with pytest.raises(HetacumnError, match=f"^train.ab_initio.{message}"):
        TrainConfig.from_params({"ab_initio": wrong})


@pytest.mark.parametrize("wrong, message", [
    ({"bright": {"feedback": [[0, 0.2]]}}, "bright.feedback is .*; expected pairs of at least 1 pose and a radius"),
    ({"bright": {"feedback": []}}, "bright.feedback is ..; expected pairs"),
    ({"faint": {"second_rounds": [[4, 0.7]]}}, "faint.second_rounds is .*; expected pairs"),
    ({"faint": {"alone_factor": 0.0}}, "faint.alone_factor is 0.0; expected a number above 0"),
    ({"faint": {"second_look": 3.0}}, "faint.second_look is 3.0; expected a number from 0 to 1"),
    ({"bright": {"second_rounds": []}}, "bright.second_rounds is empty; expected at least one round, or second_look 0"),
])  # fmt: skip
def test_impossible_rounds_and_shares_are_refused(wrong, message):
    with pytest.raises(HetacumnError, match=f"^train.{message}"):
        TrainConfig.from_params(wrong)
    assert TrainConfig.from_params({"bright": {"second_rounds": [], "second_look": 0}}).bright.second_rounds == ()


def test_the_presets_are_chosen_by_the_images_or_by_the_user(blobs, device):
    bright, faint = (make_toy([hinged(blobs, 0)], 300, BOX, snr=snr, device=device).data for snr in (2.0, 0.05))
    config = TrainConfig(ab_initio=AbInitioConfig(bright_nats=signal_nats(bright, 0.22 * BOX) / 4))
    found = {}
    for name, data in (("bright", bright), ("faint", faint)):
        found[name] = config.adapted_to(data)
        assert found[name] == replace(config, ab_initio=replace(config.ab_initio, brightness=name))
        assert found[name].effort == getattr(config, name)
        assert found[name].ab_initio.effort == getattr(config.ab_initio, name)
        assert found[name].adapted_to(bright) == found[name].adapted_to(faint) == found[name]
    assert found["bright"].pose_steps == config.alone_steps and found["faint"].pose_steps == 3 * config.alone_steps
    chosen = TrainConfig.from_params({"ab_initio": {"brightness": "faint"}})
    assert chosen.adapted_to(bright).effort == config.faint and replace(chosen, pose_task=False).pose_steps == 0


def test_the_faint_preset_searches_more_than_the_bright_one():
    config = TrainConfig()
    bright, faint = config.bright, config.faint
    assert faint.feedback[0][0] > bright.feedback[0][0] and faint.second_look > bright.second_look
    assert not (config.ab_initio.bright.early_radii or config.ab_initio.bright.last_radii)
    assert config.ab_initio.faint.last_fits > config.ab_initio.bright.last_fits


def test_every_method_of_the_projects_settings_is_understood():
    root = Path(__file__).resolve().parents[1]
    main, bench = (yaml.safe_load((root / name).read_text()) for name in ("params.yaml", "benchmark/params.yaml"))
    params = merged({"": main, "over": bench})
    configs = {method: method_config(params, method) for method in params["methods"]}
    assert configs["hetacumn"] == configs["em"] == configs["ablation-none"] == TrainConfig()
    assert not configs["hetacumn-bare"].feedback and configs["hetacumn-bare"].network.hypotheses == 1
    assert configs["amortized"].network == NetworkConfig(hypotheses=1, conditional=False, symmetrised=True)
    assert configs["ablation-coordinate"].network.decoder == "coordinate" and not configs["ablation-feedback"].feedback


@pytest.mark.parametrize("wrong, message", [
    ({"classes": -1}, "^train.classes is -1; expected a number of at least 0"),
    ({"classes": 0, "warm_start": False}, "^train.warm_start is False; expected true for classes 0"),
    ({"seed": -1}, "^train.seed is -1; expected a whole number from 0"),
    ({"joint_rate": -1e-3}, "^train.joint_rate is -0.001; expected a number of at least 0"),
    ({"radius": [0.25, 0.6]}, "^train.radius is .*; expected radii above 0 and up to 0.5 cycles per pixel"),
    ({"network": {"width": 0}}, "^train.network.width is 0; expected a number of at least 1"),
])  # fmt: skip
def test_settings_of_training_out_of_their_range_are_refused(wrong, message):
    with pytest.raises(HetacumnError, match=message):
        TrainConfig.from_params(wrong)


def test_the_latent_dimensions_follow_the_classes_unless_they_are_given():
    assert [TrainConfig(classes=k).latent_dim for k in (1, 5, 6, 45)] == [4, 4, 5, 44]
    assert TrainConfig(classes=45, latent_dim=2).latent_dim == 2
