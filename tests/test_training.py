"""Training: exact resumption, round trips of its files, and mistakes reported in one line."""

import json
import os
import pickle
import resource
import signal
from dataclasses import replace

import pandas as pd
import pytest
import torch
from toys import hinged, make_toy

from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.ab_initio.start import START, UNDER_WAY, Start, load_start, save_start
from hetacumn.common.errors import HetacumnError
from hetacumn.common.settings import read_settings, with_settings
from hetacumn.compute.devices import pick_device
from hetacumn.network import training
from hetacumn.network.config import TrainConfig, load_config
from hetacumn.network.model import HetACUMN
from hetacumn.network.model_files import CHECKPOINT, load_model, save_model, trained_preprocessing
from hetacumn.network.trainer import Trainer
from hetacumn.network.training import TrainingStack, run_method, train_network, training_share
from hetacumn.particles.observations import Observations, StackFingerprint
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.prediction.inference import amortize

BOX = 16
TINY = TrainConfig.from_params(
    {
        "latent_dim": 2,
        "network": {"hypotheses": 3, "templates": 64, "width": 32},
        "alone_steps": 30,
        "joint_epochs": 5.0,
        "batch": 40,
        "alone_batch": 16,
        "ab_initio": {"consensus": {"grids": [[1, 6], [4, 24]]}, "grid": {"extent": 0.0}, "routes": ["consensus"]},
    }
)  # 30 steps of the pose task alone, 25 joint steps


@pytest.fixture(scope="module")
def toy(blobs):
    return make_toy([hinged(blobs, 0), hinged(blobs, 80)], 200, BOX, snr=0.5)


@pytest.fixture(scope="module")
def start(toy):
    return Start(toy.basis(2), toy.poses, toy.latents(2), "classes", {"classes": -1.5})


@pytest.fixture(scope="module")
def whole(toy, start, tmp_path_factory):
    """Return the folder of an uninterrupted training run."""
    out = tmp_path_factory.mktemp("whole")
    train_network(TrainingStack(toy.data, 7.5), TINY, out, start)
    return out


def stop_before(step: int, monkeypatch, stop) -> None:
    """Make training call ``stop`` once, between two steps, after ``step`` steps."""
    advance = Trainer._advance

    def interrupted(self, *asked):
        if self.step == step:
            monkeypatch.setattr(Trainer, "_advance", advance)
            stop()
        return advance(self, *asked)

    monkeypatch.setattr(Trainer, "_advance", interrupted)


def stop_inside(step: int, monkeypatch, stop) -> None:
    """Make training call ``stop`` once within a step, after it sampled random numbers and before it changes weights."""
    predict = HetACUMN.predict_drawn_poses
    calls = []

    def interrupted(*arguments, **more):
        result = predict(*arguments, **more)
        calls.append(1)
        if len(calls) == step + 1:
            monkeypatch.setattr(HetACUMN, "predict_drawn_poses", predict)
            stop()
        return result

    monkeypatch.setattr(HetACUMN, "predict_drawn_poses", interrupted)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def assert_same_run(one, other):
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert (one / "history.csv").read_bytes() == (other / "history.csv").read_bytes()


@pytest.mark.parametrize("stop", [interrupt, terminate])
@pytest.mark.parametrize("when", [stop_before, stop_inside])
@pytest.mark.parametrize("step", [7, 42], ids=["pose task", "joint"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(toy, start, whole, tmp_path, monkeypatch, step, when, stop):
    before = signal.getsignal(signal.SIGTERM)
    when(step, monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        train_network(TrainingStack(toy.data, 7.5), TINY, tmp_path, start)
    assert signal.getsignal(signal.SIGTERM) == before
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    torch.manual_seed(99), torch.rand(3)  # another process has another state
    train_network(TrainingStack(toy.data, 7.5), TINY, tmp_path, start)
    assert_same_run(tmp_path, whole)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_run_that_is_killed_twice_ends_with_the_same_weights(toy, start, whole, tmp_path, monkeypatch):
    config = replace(TINY, checkpoint_seconds=0.0)  # a checkpoint every step

    class Killed(Exception):
        """Like a kill: training saves nothing when it ends with this exception."""

    def kill():
        raise Killed

    for step in (11, 34):
        stop_before(step, monkeypatch, kill)
        with pytest.raises(Killed):
            train_network(TrainingStack(toy.data, 7.5), config, tmp_path, start)
    train_network(TrainingStack(toy.data, 7.5), config, tmp_path, start)
    one, other = (load_model(folder).model.state_dict() for folder in (tmp_path, whole))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_the_same_seed_gives_the_same_model_and_another_seed_another(toy, start, whole, tmp_path):
    train_network(TrainingStack(toy.data, 7.5), TINY, tmp_path / "a", start)
    assert_same_run(tmp_path / "a", whole)
    train_network(TrainingStack(toy.data, 7.5), replace(TINY, seed=1), tmp_path / "b", start)
    assert (tmp_path / "b/model.safetensors").read_bytes() != (whole / "model.safetensors").read_bytes()


def test_the_history_names_the_phases_and_their_losses(whole):
    history = pd.read_csv(whole / "history.csv")
    assert history["step"].tolist() == [25, 50, 55]
    assert history["phase"].tolist() == ["pose task", "joint", "joint"]
    assert history[["pose", "conformation"]].notna().all(axis=None)
    assert history["misfit"].notna().tolist() == history["kl"].notna().tolist() == [False, True, True]


def test_training_lowers_the_loss_of_the_pose_task(toy, start, tmp_path):
    config = replace(TINY, alone_steps=300, joint_epochs=0.0, alone_batch=64, rate=3e-3)
    train_network(TrainingStack(toy.data, 7.5), config, tmp_path, start)
    pose = pd.read_csv(tmp_path / "history.csv")["pose"]
    assert pose.iloc[-1] < 0.85 * pose.iloc[0]


def test_a_model_read_back_predicts_the_same(toy, start, tmp_path):
    trainer = Trainer(toy.data, TINY, tmp_path, start)
    trainer.run(progress=False)
    save_model(tmp_path / "model.safetensors", trainer.model, TINY, BOX, 7.5)
    trained = load_model(tmp_path)
    assert (trained.config, trained.box, trained.pixel_A) == (TINY, BOX, 7.5)
    one, other = amortize(trainer.model, toy.data), amortize(trained.model, toy.data)
    assert torch.equal(one.latents, other.latents)
    assert torch.equal(one.poses.rotations, other.poses.rotations)
    assert torch.equal(trained.basis(), trainer.model.decoder.linear_basis().detach())


@pytest.mark.parametrize("changes", [{"decoder": "coordinate"}, {"templates": 0}, {"symmetrised": True}], ids=str)
def test_every_kind_of_model_survives_its_file(toy, tmp_path, changes):
    config = with_settings(TINY, {"warm_start": False, "alone_steps": 1, "joint_epochs": 0.2, "network": changes})
    train_network(TrainingStack(toy.data, 7.5), config, tmp_path, None)
    trained = load_model(tmp_path)
    assert trained.config == config
    assert torch.isfinite(amortize(trained.model, toy.data).latents).all()
    assert trained.basis().shape == (3, BOX, BOX, BOX)
    torch.manual_seed(config.seed)
    again = Trainer(toy.data, config, tmp_path / "again", None).model  # before training: it differs only in the trained weights
    again.load_state_dict(dict(again.state_dict()) | dict(trained.model.named_parameters()))
    torch.testing.assert_close(trained.basis(), again.decoder.linear_basis().detach())


def test_only_a_coordinate_decoder_with_a_start_imitates_the_start(toy, start, tmp_path, monkeypatch):
    imitated = []
    monkeypatch.setattr(
        "hetacumn.network.decoder.imitate", lambda decoder, basis, latents, *more: imitated.append((basis, latents))
    )
    coordinate = with_settings(TINY, {"network": {"decoder": "coordinate"}})
    Trainer(toy.data, coordinate, tmp_path, start)
    assert len(imitated) == 1 and torch.equal(imitated[0][0], start.basis) and torch.equal(imitated[0][1], start.latents)
    Trainer(toy.data, coordinate, tmp_path, None)
    Trainer(toy.data, TINY, tmp_path, start)
    assert len(imitated) == 1


def test_an_unknown_decoder_is_refused():
    with pytest.raises(HetacumnError, match="train.network.decoder is 'grid'; expected voxel or coordinate"):
        TrainConfig.from_params({"network": {"decoder": "grid"}})


def test_more_classes_than_particles_are_refused_before_anything_is_written(toy, tmp_path):
    with pytest.raises(HetacumnError, match="201 classes for 200 particles"):
        run_method("em", TrainingStack(toy.data, 7.5), replace(TINY, classes=201), tmp_path / "out")
    assert not any(tmp_path.rglob("*.*"))


def test_a_loss_that_is_not_finite_stops_training_with_advice(toy, start, tmp_path):
    config = replace(TINY, rate=1e30, joint_rate=1e30, alone_steps=0, checkpoint_seconds=0.0)
    with pytest.raises(HetacumnError, match=r"not finite at step \d+ .*lower rate") as caught:
        train_network(TrainingStack(toy.data, 7.5), config, tmp_path, start)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "model.safetensors").exists()


def test_no_checkpoint_is_written_after_a_loss_that_is_not_finite(toy, start, tmp_path, monkeypatch):
    """The message calls the checkpoint the last good state."""
    reconstruct = HetACUMN.reconstruct
    calls = []

    def broken(*arguments):
        task = reconstruct(*arguments)
        calls.append(1)
        return replace(task, misfit=task.misfit * float("nan")) if len(calls) > 3 else task

    monkeypatch.setattr(HetACUMN, "reconstruct", broken)
    config = replace(TINY, checkpoint_seconds=0.0)
    with pytest.raises(HetacumnError, match="not finite"):
        train_network(TrainingStack(toy.data, 7.5), config, tmp_path, start)
    if (tmp_path / CHECKPOINT).exists():
        model = torch.load(tmp_path / CHECKPOINT, weights_only=True)["model"]
        assert all(torch.isfinite(value).all() for name, value in model.items() if name != "misfit_limit")


def interrupted_folder(toy, start, out, monkeypatch, config=TINY):
    stop_before(42, monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_network(TrainingStack(toy.data, 7.5), config, out, start)


def test_a_checkpoint_of_other_settings_is_refused(toy, start, tmp_path, monkeypatch):
    interrupted_folder(toy, start, tmp_path, monkeypatch)
    with pytest.raises(HetacumnError, match=f"{CHECKPOINT}: from a run with other settings or particles; delete it"):
        train_network(TrainingStack(toy.data, 7.5), replace(TINY, batch=50), tmp_path, start)
    assert (tmp_path / CHECKPOINT).exists()


def test_a_checkpoint_of_other_particles_is_refused(toy, start, tmp_path, monkeypatch):
    interrupted_folder(toy, start, tmp_path, monkeypatch)
    fewer = Start(start.basis, start.poses[:150], start.latents[:150], "", {})
    with pytest.raises(HetacumnError, match=CHECKPOINT):
        train_network(TrainingStack(toy.data[:150], 7.5), TINY, tmp_path, fewer)


class Malicious:
    """Object whose pickle creates a folder when it is loaded."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize(
    "write",
    [
        lambda path, evil: path.write_bytes(pickle.dumps(evil)),
        lambda path, evil: torch.save({"config": evil}, path),
        lambda path, evil: path.write_bytes(b"half a check"),
    ],
    ids=["pickle", "torch", "truncated"],
)
def test_a_malicious_or_truncated_checkpoint_is_refused_and_runs_no_code(toy, start, tmp_path, write):
    victim = tmp_path / "hacked"
    write(tmp_path / CHECKPOINT, Malicious(victim))
    with pytest.raises(HetacumnError, match=f"{CHECKPOINT}: not a readable checkpoint") as caught:
        train_network(TrainingStack(toy.data, 7.5), TINY, tmp_path, start)
    assert not victim.exists() and "\n" not in str(caught.value)


def test_a_run_uses_its_own_start_or_that_of_another_run(toy, start, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(training, "guided_start", lambda data, initial, config, *more: made.append(config) or start)
    run_method("em", TrainingStack(toy.data, 7.5), TINY, tmp_path / "em")
    assert {p.name for p in (tmp_path / "em").iterdir()} == {"config.json", "run.json", START}
    assert (made[0].volumes, made[0].components) == (TINY.classes, TINY.latent_dim)
    run_method("em", TrainingStack(toy.data, 7.5), TINY, tmp_path / "em")
    run_method("hetacumn", TrainingStack(toy.data, 7.5), TINY, tmp_path / "one", tmp_path / "em")
    assert len(made) == 1
    assert {p.name for p in (tmp_path / "one").iterdir()} == {
        "config.json",
        "run.json",
        "model.safetensors",
        "history.csv",
    }
    assert load_config(tmp_path / "one") == TINY.adapted_to(toy.data)
    facts = json.loads((tmp_path / "one/config.json").read_text())
    assert (facts["method"], facts["box"], facts["pixel_A"]) == (
        "hetacumn",
        BOX,
        7.5,
    ) and "git_commit" in facts
    assert set(json.loads((tmp_path / "one/run.json").read_text())) == {"train_seconds", "peak_memory_mb", "device", "states"}


def test_an_interrupted_start_continues_after_its_last_finished_step(toy, tmp_path, monkeypatch, capsys):
    config = replace(TINY, ab_initio=read_settings(AbInitioConfig, {
        "consensus": {"restarts": 1, "steps": 6, "grids": [[1, 6], [1, 6]]}, "classes": {"steps": 6, "grids": [[1, 6]]},
        "grid": {"rotations": [1, 6], "extent": 0.0}, "subspace_steps": 3, "batch": 20, "routes": ["classes", "consensus"],
    }))  # fmt: skip
    run_method("em", TrainingStack(toy.data, 7.5), config, tmp_path / "whole")

    def stopped(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("hetacumn.ab_initio.routes.AbInitioRun._finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_method("em", TrainingStack(toy.data, 7.5), config, tmp_path / "em")
    left = {path.stem for path in (tmp_path / "em" / UNDER_WAY).iterdir()}
    assert left == {"consensus", "shift extent", "route classes", "route consensus"} and not (tmp_path / "em" / START).exists()
    with pytest.raises(HetacumnError, match=f"{UNDER_WAY}: made with other values of seed than requested; delete it to"):
        run_method("em", TrainingStack(toy.data, 7.5), replace(config, seed=1), tmp_path / "em")
    with pytest.raises(HetacumnError, match=f"{UNDER_WAY}: made from another stack"):
        run_method("em", TrainingStack(toy.data[:-1], 7.5), config, tmp_path / "em")
    monkeypatch.setattr("hetacumn.ab_initio.routes.consensus", None)  # fails if the consensus is computed again
    run_method("em", TrainingStack(toy.data, 7.5), config, tmp_path / "em")
    assert "ab initio: continues after" in capsys.readouterr().out
    assert (tmp_path / "em" / START).read_bytes() == (tmp_path / "whole" / START).read_bytes()
    assert not (tmp_path / "em" / UNDER_WAY).exists()


def test_a_trained_model_is_not_trained_again_with_the_same_settings_and_stack(toy, start, tmp_path, monkeypatch, capsys):
    save_start(tmp_path / START, start, StackFingerprint.of(toy.data), TINY.adapted_to(toy.data).start_settings())
    trained = []
    monkeypatch.setattr(training, "train_network", lambda *given, **more: trained.append(1) or train_network(*given, **more))
    for config in (TINY, TINY, replace(TINY, seed=5)):
        run_method("hetacumn", TrainingStack(toy.data, 7.5), config, tmp_path / "out", tmp_path)
    assert len(trained) == 2 and "trained already with these settings; delete it" in capsys.readouterr().out
    run_method("hetacumn", TrainingStack(toy.data, 7.5), replace(TINY, seed=5), tmp_path / "out", tmp_path)
    (tmp_path / "out/model.safetensors").unlink()
    run_method("hetacumn", TrainingStack(toy.data, 7.5), replace(TINY, seed=5), tmp_path / "out", tmp_path)
    assert len(trained) == 3
    facts = json.loads((tmp_path / "out/config.json").read_text())
    power = facts["stack"]["power"]
    for away, times in ((2e-6, 3), (1e-3, 4)):  # rounding on another kind of device; another stack
        facts["stack"]["power"] = round(power * (1 + away), 6)
        (tmp_path / "out/config.json").write_text(json.dumps(facts))
        run_method("hetacumn", TrainingStack(toy.data, 7.5), replace(TINY, seed=5), tmp_path / "out", tmp_path)
        assert len(trained) == times


def test_the_preprocessing_of_the_images_is_stored_with_the_model(toy, start, tmp_path):
    save_start(tmp_path / START, start, StackFingerprint.of(toy.data), TINY.adapted_to(toy.data).start_settings())
    as_trained = Preprocessing(box=BOX, contrast="black", diameter_A=90.0)
    run_method("hetacumn", TrainingStack(toy.data, 7.5, as_trained), TINY, tmp_path / "told", tmp_path)
    run_method("em", TrainingStack(toy.data, 7.5), TINY, tmp_path)
    stack = {"box": 64, "mask": True, "trained_share": 0.5}
    assert trained_preprocessing(tmp_path / "told", stack) == as_trained
    assert trained_preprocessing(tmp_path / "told", stack, {"mask": True, "box": 8}) == replace(as_trained, mask=True)
    assert trained_preprocessing(tmp_path, stack) == Preprocessing(box=BOX, mask=True)
    with pytest.raises(HetacumnError, match="config.json: cannot be read .*; expected the settings of a run"):
        trained_preprocessing(tmp_path / "none", stack)


def test_a_start_of_other_particles_is_refused(toy, start, tmp_path):
    save_start(tmp_path / START, start, replace(StackFingerprint.of(toy.data), particles=7), {})
    with pytest.raises(HetacumnError, match=f"{START}: made from another stack .7 particles of .*; expected 150 particles"):
        run_method("hetacumn", TrainingStack(toy.data[:150], 7.5), TINY, tmp_path / "out", tmp_path)
    save_start(tmp_path / START, start, StackFingerprint.of(toy.data), {})
    assert torch.equal(load_start(tmp_path / START, StackFingerprint.of(toy.data)).basis, start.basis)
    rounded = replace(toy.data, y=toy.data.y * (1 + 5e-7), ctf=toy.data.ctf * (1 + 5e-7))  # rounding as on another device
    assert torch.equal(load_start(tmp_path / START, StackFingerprint.of(rounded)).basis, start.basis)
    louder, refocused = replace(toy.data, y=1.01 * toy.data.y), replace(toy.data, ctf=0.99 * toy.data.ctf)
    for other in (louder, refocused, toy.data[:199], toy.data[torch.arange(200).flip(0)]):
        with pytest.raises(HetacumnError, match="from another stack"):
            load_start(tmp_path / START, StackFingerprint.of(other))


def test_a_start_of_other_settings_in_the_folder_of_the_run_is_refused(toy, start, tmp_path):
    """A start of another folder may have other settings; its number of components must fit."""
    save_start(tmp_path / START, start, StackFingerprint.of(toy.data), TINY.adapted_to(toy.data).start_settings())
    for config, named in ((replace(TINY, classes=3), "classes"), (replace(TINY, seed=5), "seed")):
        with pytest.raises(HetacumnError, match=f"{START}: made with other values of {named} than requested; delete it"):
            run_method("hetacumn", TrainingStack(toy.data, 7.5), config, tmp_path)
    with pytest.raises(HetacumnError, match=f"{START}: the start has 2 components; expected 3, the value of latent_dim"):
        run_method("hetacumn", TrainingStack(toy.data, 7.5), replace(TINY, latent_dim=3), tmp_path / "out", tmp_path)
    run_method("hetacumn", TrainingStack(toy.data, 7.5), TINY, tmp_path)
    assert load_config(tmp_path) == TINY.adapted_to(toy.data)


def test_a_run_that_fails_leaves_the_files_of_the_earlier_run(toy, start, tmp_path):
    save_start(tmp_path / START, start, StackFingerprint.of(toy.data), TINY.adapted_to(toy.data).start_settings())
    run_method("hetacumn", TrainingStack(toy.data, 7.5), TINY, tmp_path / "out", tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(HetacumnError, match="not finite"):
        wild = replace(TINY, rate=1e30, joint_rate=1e30, alone_steps=0)
        run_method("hetacumn", TrainingStack(toy.data, 7.5), wild, tmp_path / "out", tmp_path)
    with pytest.raises(HetacumnError, match="from another stack"):
        run_method("hetacumn", TrainingStack(toy.data[:150], 7.5), TINY, tmp_path / "out", tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_one_particle_is_refused(toy, tmp_path):
    with pytest.raises(HetacumnError, match="1 particle to train on; expected at least 2"):
        run_method("em", TrainingStack(toy.data[:1], 7.5), replace(TINY, classes=1), tmp_path / "out")


def test_no_checkpoint_is_written_after_a_gradient_that_is_not_finite(toy, start, tmp_path, monkeypatch):
    """The loss itself is finite."""
    reconstruct, calls = HetACUMN.reconstruct, []

    def broken(*arguments):
        task = reconstruct(*arguments)
        calls.append(1)
        basis = arguments[0].decoder.linear_basis()
        return replace(task, loss=task.loss + (basis.sum() * 0).sqrt()) if len(calls) > 3 else task

    monkeypatch.setattr(HetACUMN, "reconstruct", broken)
    with pytest.raises(HetacumnError, match="not finite .*'gradient': nan"):
        train_network(TrainingStack(toy.data, 7.5), replace(TINY, checkpoint_seconds=0.0), tmp_path, start)
    model = torch.load(tmp_path / CHECKPOINT, weights_only=True)["model"]
    assert all(torch.isfinite(value).all() for name, value in model.items() if name != "misfit_limit")


def test_training_on_the_device(blobs, device, tmp_path):
    toy = make_toy([hinged(blobs, 0), hinged(blobs, 80)], 40, BOX, snr=0.5, device=device)
    start = Start(toy.basis(2), toy.poses, toy.latents(2), "", {}).to(device)
    train_network(TrainingStack(toy.data, 7.5), replace(TINY, alone_steps=2, joint_epochs=2.0), tmp_path, start)
    trained = load_model(tmp_path, device)
    assert amortize(trained.model, toy.data).latents.device.type == device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("changes", [{}, {"decoder": "coordinate"}], ids=str)
def test_replayed_steps_equal_launched_steps(blobs, tmp_path, monkeypatch, changes):
    """Random numbers, rates and weights are equal, but for rounding, whether kernels are launched one by one or replayed."""
    monkeypatch.setenv("HETACUMN_LAYERS", "float32")
    toy = make_toy([hinged(blobs, 0), hinged(blobs, 80)], 200, BOX, snr=0.5, device="cuda")
    start, runs = Start(toy.basis(2), toy.poses, toy.latents(2), "classes", {}), []
    for replayed in (True, False):
        torch.manual_seed(0)
        trainer = Trainer(toy.data, with_settings(TINY, {"rate": 0.02, "network": changes}), tmp_path, start)
        trainer.replay = trainer.replay if replayed else None
        before = torch.cat([weights.detach().flatten().clone() for weights in trainer.model.encoder.parameters()])
        losses = [float(trainer._advance()[0].pose) for _ in range(TINY.alone_steps)]
        after = torch.cat([weights.detach().flatten() for weights in trainer.model.encoder.parameters()])
        runs.append((losses, trainer.generator.get_state(), after - before))
    (losses, state, moved), (expected_losses, expected_state, expected) = runs
    assert torch.equal(state, expected_state) and len(set(losses)) == len(losses)
    assert losses == pytest.approx(expected_losses, rel=0.05)
    assert (moved - expected).norm() < 0.2 * expected.norm()


def test_a_checkpoint_does_not_fix_how_steps_are_launched(toy, start, tmp_path, monkeypatch):
    """A checkpoint of a process group or of a GPU continues on any device.

    Recorded steps and learning rates in tensors are properties of the device, not of the checkpoint.
    """
    interrupted_folder(toy, start, tmp_path, monkeypatch)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    for group in state["optimiser"]["param_groups"]:
        group["capturable"], group["lr"] = True, torch.tensor(group["lr"])
    torch.save(state, tmp_path / CHECKPOINT)
    trainer = Trainer(toy.data, TINY, tmp_path, start)
    assert trainer.step > 0
    for group in trainer.optimiser.param_groups:
        assert group["capturable"] is False and isinstance(group["lr"], float)
    trainer._advance()


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_an_impossible_training_share_is_refused(share):
    with pytest.raises(HetacumnError, match=f"trained_share is {share!r}; expected a number above 0 and up to 1"):
        training_share(10, share)


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_an_absent_device_is_refused(name):
    with pytest.raises(HetacumnError, match=f"device is '{name}'; expected cpu"):
        pick_device(name)


def test_the_training_share_is_random_and_in_order():
    chosen = training_share(1000, 0.7)
    assert len(chosen) == 700 and (chosen[1:] > chosen[:-1]).all() and chosen.min() >= 0 and chosen.max() < 1000
    assert (training_share(1000, 0.7) == chosen).all() and (chosen[:100] != range(100)).any()


def test_a_start_of_another_stack_is_refused(toy, start, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "guided_start", lambda *given: start)
    run_method("em", TrainingStack(toy.data, 7.5), TINY, tmp_path / "em")
    other = Observations(2 * toy.data.y, toy.data.ctf, toy.data.plane)
    with pytest.raises(HetacumnError, match=f"{START}: made from another stack"):
        run_method("hetacumn", TrainingStack(other, 7.5), TINY, tmp_path / "one", tmp_path / "em")


def test_a_full_disk_leaves_the_earlier_checkpoint(toy, start, tmp_path, monkeypatch):
    config = replace(TINY, checkpoint_seconds=0.0)
    stop_before(5, monkeypatch, terminate)
    with pytest.raises(KeyboardInterrupt):
        train_network(TrainingStack(toy.data, 7.5), config, tmp_path, start)
    before = (tmp_path / CHECKPOINT).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(HetacumnError, match=r"checkpoint.pt: cannot be written .*the earlier file is unchanged"):
            train_network(TrainingStack(toy.data, 7.5), config, tmp_path, start)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    train_network(TrainingStack(toy.data, 7.5), config, tmp_path, start)
    assert (tmp_path / "model.safetensors").exists()
