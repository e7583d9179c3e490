"""Runs that training would refuse are refused before the stack is prepared again; other runs continue."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_particles import blob_images, optics, write_stack

from hetacumn.ab_initio.start import MODEL, START, UNDER_WAY
from hetacumn.common.errors import HetacumnError
from hetacumn.compute.launching import DeviceRequest
from hetacumn.network.checks import check_training
from hetacumn.network.config import TrainConfig
from hetacumn.network.model_files import CHECKPOINT
from hetacumn.network.trainer import Trainer
from hetacumn.network.training import TrainingJob, train_stack
from hetacumn.particles.metadata import ParticleMetadata, write_star
from hetacumn.particles.observations import observe
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing

TINY = TrainConfig.from_params({
    "latent_dim": 1, "network": {"templates": 32, "width": 16}, "alone_steps": 4, "joint_epochs": 0.5, "batch": 20,
    "alone_batch": 8, "faint": {"alone_factor": 1.0},
    "ab_initio": {
        "consensus": {"restarts": 1, "steps": 6, "grids": [[1, 6], [1, 6]]}, "classes": {"steps": 6, "grids": [[1, 6]]},
        "soft": {"steps": 0}, "grid": {"rotations": [1, 6], "extent": 0.0}, "subspace_steps": 4, "batch": 20,
        "routes": ["classes"],
    },
})  # fmt: skip
IMAGES = Preprocessing(box=16, contrast="white")
N = 40


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_stack(folder / "stack.mrcs", blob_images(N))
    metadata = ParticleMetadata([f"{i + 1}@stack.mrcs" for i in range(N)], optics(N))
    for name, count in (("particles", N), ("fewer", N - 5)):
        write_star(folder / f"{name}.star", replace(metadata[:count]), 32)
    return folder / "particles.star"


def run(job: TrainingJob, images: Preprocessing, source: Path) -> None:
    """Run the steps of the training notebook."""
    prepared = Path(job.out) / "prepared"
    check_training(job, images, source, prepared)
    train_stack(prepare_stack(source, prepared, images, progress=False), job, DeviceRequest("cpu"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    run(TrainingJob("hetacumn", TINY, out), IMAGES, source)
    assert all((out / name).exists() for name in (START, MODEL, "config.json", "prepared/prepared.json"))
    return out


@pytest.mark.parametrize(
    "config, images, message",
    [
        (TINY, replace(IMAGES, box=24), "made with stack.box 16; expected 24"),
        (TINY, replace(IMAGES, mask=True), "made with stack.mask False; expected True"),
        (TINY, replace(IMAGES, box=None), "made with stack.box 16; expected None"),
        (replace(TINY, classes=3), IMAGES, f"{START}: made with other values of classes than requested; delete it"),
        (replace(TINY, latent_dim=2), IMAGES, f"{START}: made with other values of latent_dim than requested; delete it"),
        (replace(TINY, seed=1), IMAGES, f"{START}: made with other values of seed than requested; delete it"),
    ],
)
def test_a_refused_run_leaves_a_finished_one_as_it_is(finished, source, config, images, message):
    before = content(finished)
    with pytest.raises(HetacumnError, match=message):
        run(TrainingJob("hetacumn", config, finished), images, source)
    assert content(finished) == before


def test_particles_of_another_table_are_refused(finished, source):
    before = content(finished)
    with pytest.raises(HetacumnError, match="prepared from another table than .*fewer.star"):
        run(TrainingJob("hetacumn", TINY, finished), IMAGES, source.with_name("fewer.star"))
    assert content(finished) == before


def test_the_same_run_can_be_called_again_and_other_training_steps_can_use_the_same_start(finished, source, capsys):
    before = content(finished)
    run(TrainingJob("hetacumn", TINY, finished), IMAGES, source)
    assert content(finished) == before and "trained already" in capsys.readouterr().out
    check_training(TrainingJob("hetacumn", replace(TINY, alone_steps=5), finished), IMAGES, source, finished / "prepared")
    check_training(TrainingJob("hetacumn", TINY, finished / "new"), replace(IMAGES, box=24), source, finished / "new/prepared")


def test_a_start_of_another_folder_must_fit(finished, source, tmp_path):
    with pytest.raises(HetacumnError, match=f"{START}: the start has 1 components; expected 2, the value of latent_dim"):
        run(TrainingJob("hetacumn", replace(TINY, latent_dim=2), tmp_path, start=finished), IMAGES, source)
    with pytest.raises(HetacumnError, match=f"{START}: made with stack.box 16; expected 24"):
        run(TrainingJob("hetacumn", TINY, tmp_path, start=finished), replace(IMAGES, box=24), source)
    with pytest.raises(HetacumnError, match=f"{START}: no such file; train first"):
        run(TrainingJob("hetacumn", TINY, tmp_path, start=tmp_path / "none"), IMAGES, source)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [TINY, replace(TINY, classes=0, latent_dim=0)], ids=["given number", "found number"])
def test_an_interrupted_run_continues_only_with_its_own_settings(config, source, tmp_path, monkeypatch):
    """The run is stopped once in the ab initio start and once in training."""

    def stop(*given, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hetacumn.ab_initio.routes.fit_subspace", stop)
        with pytest.raises(KeyboardInterrupt):
            run(TrainingJob("hetacumn", config, tmp_path), IMAGES, source)
    assert list((tmp_path / UNDER_WAY).iterdir()) and not (tmp_path / START).exists()
    refused(source, tmp_path, config, {"classes": 3}, f"{UNDER_WAY}.*made with other values of classes")

    with monkeypatch.context() as patch:
        advance = Trainer._advance

        def stop_later(trainer, asked):
            if trainer.step == 2:
                trainer._save_checkpoint()
                raise KeyboardInterrupt
            return advance(trainer, asked)

        patch.setattr(Trainer, "_advance", stop_later)
        with pytest.raises(KeyboardInterrupt):
            run(TrainingJob("hetacumn", config, tmp_path), IMAGES, source)
    assert (tmp_path / CHECKPOINT).exists() and not (tmp_path / UNDER_WAY).exists()
    refused(source, tmp_path, config, {"alone_steps": 5}, f"{CHECKPOINT}: from a run with other settings")
    run(TrainingJob("hetacumn", config, tmp_path), IMAGES, source)
    assert (tmp_path / MODEL).exists() and not (tmp_path / CHECKPOINT).exists()


def refused(source: Path, out: Path, config: TrainConfig, other: dict, message: str) -> None:
    """Check that other settings and another box are refused and change no file."""
    before = content(out)
    with pytest.raises(HetacumnError, match=message):
        run(TrainingJob("hetacumn", replace(config, **other), out), IMAGES, source)
    with pytest.raises(HetacumnError, match="made with stack.box 16; expected 24"):
        run(TrainingJob("hetacumn", config, out), replace(IMAGES, box=24), source)
    assert content(out) == before


def test_the_adapted_settings_are_one_of_the_variants(source, tmp_path):
    """The images choose the preset, so the settings of a run are known only after the images are read."""
    stack = prepare_stack(source, tmp_path / "prepared", IMAGES, progress=False)
    assert TINY.adapted_to(observe(stack.read())) in TINY.variants()
