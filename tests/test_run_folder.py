"""The files of a run survive a round trip, and files that cannot be read are named."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from toys import hinged, make_toy

from hetacumn.ab_initio.config import CONSENSUS, AbInitioConfig, SearchGrid
from hetacumn.ab_initio.start import START, Start, load_start, save_start
from hetacumn.common.errors import HetacumnError
from hetacumn.network.config import TrainConfig, load_config
from hetacumn.network.model_files import load_model
from hetacumn.particles.observations import StackFingerprint


def test_a_config_survives_its_file_and_params(tmp_path):
    start = AbInitioConfig(grid=SearchGrid(rotations=(1, 4)), held_out=0.2)
    config = TrainConfig(latent_dim=2, radius=(0.1, 0.3), ab_initio=start)
    (tmp_path / "config.json").write_text(json.dumps({"config": asdict(config), "other": 1}))
    assert load_config(tmp_path) == config
    assert TrainConfig.from_params({}) == TrainConfig()
    assert TrainConfig.from_params({"seed": 1, "ab_initio": {"consensus": {"restarts": 2}}}, seed=3) == TrainConfig(
        seed=3, ab_initio=AbInitioConfig(consensus=replace(CONSENSUS, restarts=2))
    )


def test_a_start_survives_its_file(blobs, tmp_path):
    toy = make_toy([hinged(blobs, 0), hinged(blobs, 80)], 20, 16, snr=0.5)
    start = Start(toy.basis(2), toy.poses, toy.latents(2), "classes", {"classes": -1.5})
    save_start(tmp_path / START, start, StackFingerprint.of(toy.data), {})
    read = load_start(tmp_path / START)
    assert (read.route, read.scores) == ("classes", {"classes": -1.5})
    assert torch.equal(read.basis, start.basis) and torch.equal(read.latents, start.latents)
    assert torch.equal(read.poses.rotations, start.poses.rotations)
    assert torch.equal(read.poses.shifts_px, start.poses.shifts_px)


@pytest.mark.parametrize("content", [None, b"", b"no tensors at all", b"\xff" * 100])
def test_a_file_that_is_not_a_model_is_named(tmp_path, content):
    for name, load in (
        ("model.safetensors", lambda: load_model(tmp_path)),
        (START, lambda: load_start(tmp_path / START)),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(HetacumnError, match=name):
            load()
