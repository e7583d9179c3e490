"""Prediction of a stack with every grade and any chunk size."""

import json
import shutil
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import mrcfile
import pandas as pd
import pytest
import torch

from hetacumn.ab_initio.config import AbInitioConfig, SearchGrid
from hetacumn.ab_initio.start import START, Start, load_start, save_start
from hetacumn.common.errors import HetacumnError
from hetacumn.compute.processes import ProcessGroup
from hetacumn.evaluation.scores import accuracy, pose_errors
from hetacumn.io import star
from hetacumn.io.mrc import read_volumes
from hetacumn.network.config import NetworkConfig, TrainConfig
from hetacumn.network.encoder import Hypotheses
from hetacumn.network.model import HetACUMN, build_model
from hetacumn.network.model_files import load_model, save_model
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import StackFingerprint, low_power, observe
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.rotations import perturb, random_rotations
from hetacumn.prediction import stack_inference, trust
from hetacumn.prediction.answer import Answer
from hetacumn.prediction.classes import class_centres, classify_from
from hetacumn.prediction.inference import _search, follow_hypotheses, log_ratios, search_misfits, search_poses
from hetacumn.prediction.predict import predict_stack
from hetacumn.prediction.request import PredictionRequest
from hetacumn.prediction.search_model import load_em
from hetacumn.prediction.stack_inference import StackInference
from hetacumn.search.state import State
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.truth import Truth

DATA = Path(__file__).resolve().parents[1] / "data"
BOX, FULL, N = 32, 64, 150
TOY_STACK = StackFingerprint(N, 1.0, 1.0, 1.0, 0.5)


@pytest.fixture(scope="module", autouse=True)
def untested():
    """Skip the restarts of the stop sign, which tests/test_trust.py tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "LEAST_IMAGES", N + 1)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Simulate a stack of two clearly different states and return its STAR file."""
    if not (DATA / "adk.npz").exists():
        pytest.skip("data/ is absent: run `dvc pull`")
    out = tmp_path_factory.mktemp("stack")
    settings = {
        "structure": "adk",
        "states": ["open", "closed"],
        "particles": N,
        "box": FULL,
        "pixel_A": 1.6,
        "snr": 1.0,
        "shift_px": 2,
    }
    simulate_stack(Simulation.from_params(settings), out, 0, DATA, progress=False)
    return out / "particles.star"


@pytest.fixture(scope="module")
def truth(source):
    return Truth.read(source.parent / "truth.npz")


@pytest.fixture(scope="module")
def model(source, truth, tmp_path_factory):
    """Return a folder with the true volumes as the ab initio start, and an untrained network."""
    out = tmp_path_factory.mktemp("model")
    volumes, _ = read_volumes(source.parent, "truth_class")
    volumes = crop_volumes(volumes, BOX) * (FULL / BOX) ** 2 / truth.noise_std
    basis = torch.stack([volumes.mean(0), (volumes[1] - volumes[0]) / 2])
    config = TrainConfig(
        latent_dim=1,
        network=NetworkConfig(templates=64, width=32),
        ab_initio=AbInitioConfig(grid=SearchGrid(rotations=(3, 18))),
    )
    latents = 2.0 * truth.classes[:, None] - 1
    save_start(out / START, Start(basis, Poses(truth.rotations, truth.shifts_A / 3.2), latents, "classes", {}), TOY_STACK, {})
    (out / "config.json").write_text(json.dumps({"config": asdict(config), "pixel_A": 3.2}))
    (out / "run.json").write_text(json.dumps({"train_seconds": 12.5, "device": "toy"}))
    torch.manual_seed(0)
    save_model(out / "model.safetensors", build_model(config, BOX, basis), config, BOX, 3.2)
    return out


@pytest.fixture(scope="module")
def stack(source, tmp_path_factory):
    return prepare_stack(source, tmp_path_factory.mktemp("prepared"), Preprocessing(box=BOX), progress=False)


def test_strong_images_and_images_of_negative_gain_do_not_influence_the_classes(stack, model, monkeypatch, tmp_path):
    order, usable = torch.arange(N), []
    powers = low_power(observe(stack.read(order.numpy())))

    def mark(power):
        torch.testing.assert_close(power, powers)  # in the order of the stack
        return order % 10 == 3

    def shifted_ratios(data, *rest):
        ratios, power = log_ratios(data, *rest), low_power(data)
        return torch.where(torch.isin(power.round(decimals=2), powers[:15].round(decimals=2)), -1.0, ratios)

    def classify(latents, chosen, *rest):
        usable.append(chosen)
        return classify_from(latents, chosen, *rest)

    monkeypatch.setattr(stack_inference, "strong_images", mark)
    monkeypatch.setattr(stack_inference, "classify_from", classify)
    predict_stack(stack, model, PredictionRequest("searched", 2, chunk=40), tmp_path)
    assert torch.equal(usable[0], order % 10 != 3)
    monkeypatch.setattr(stack_inference, "log_ratios", shifted_ratios)
    predict_stack(stack, model, PredictionRequest("searched", 2, chunk=40), tmp_path)
    assert torch.equal(usable[1], (order % 10 != 3) & (order >= 15))


def test_predictions_search_shifts_as_widely_as_the_start(model, tmp_path):
    shutil.copytree(model, tmp_path / "wide")
    start = replace(load_start(model / START), shift_extent=0.125)
    save_start(tmp_path / "wide" / START, start, TOY_STACK, {})
    assert load_em(model).config.ab_initio.grid.extent == AbInitioConfig().grid.extent
    assert load_em(tmp_path / "wide").config.ab_initio.grid.extent == 0.125


@pytest.fixture(scope="module")
def searched(stack, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("searched")
    predict_stack(stack, model, PredictionRequest("searched", polish_steps=5, path_points=4), out)
    return out


def test_a_search_with_the_true_volumes_finds_the_true_poses_and_classes(searched, truth):
    found = Predictions.read(searched)
    assert accuracy(found.classes, truth.classes) > 0.95
    errors, _ = pose_errors(found.rotations, truth.rotations)
    assert errors.median() < 4
    assert (found.shifts_A - truth.shifts_A).norm(dim=1).median() < 1.6


def test_images_of_another_field_of_view_are_refused(stack, model, tmp_path):
    other = replace(stack, metadata=replace(stack.metadata, optics=replace(stack.metadata.optics, pixel_A=1.1 * stack.pixel_A)))
    with pytest.raises(HetacumnError, match=r"pixels of 3\.\d+ Å; expected 3\.2 Å, the pixel size that .* was trained on"):
        predict_stack(other, model, PredictionRequest("searched"), tmp_path)


def test_a_prediction_writes_its_set_of_files_and_their_columns(searched, source):
    files = {str(path.relative_to(searched)) for path in searched.rglob("*") if path.is_file()}
    volumes = {f"volumes/class_{k}.mrc" for k in (1, 2)} | {f"volumes/path_{k}.mrc" for k in (1, 2, 3, 4)}
    volumes |= {f"volumes/basis_{k}.mrc" for k in (1, 2)}
    assert files == {"predictions.star", "latents.csv", "run.json"} | volumes

    given, written = (star.read_table(path).particles for path in (source, searched / "predictions.star"))
    assert written["rlnImageName"].tolist() == given["rlnImageName"].tolist()
    assert written["rlnDefocusU"].tolist() == given["rlnDefocusU"].tolist()
    assert set(written["rlnClassNumber"].astype(int)) == {1, 2}
    latents = pd.read_csv(searched / "latents.csv")
    columns = ["particle", "z1", "class", "class_probability", "log_likelihood_ratio", "class_settled"]
    assert latents.columns.tolist() == columns and len(latents) == N
    assert latents["class"].tolist() == written["rlnClassNumber"].astype(int).tolist()
    assert latents["class"].value_counts()[1] >= N / 2  # the largest class is the first

    for name in volumes:
        with mrcfile.open(searched / name) as mrc:
            assert mrc.data.shape == (BOX,) * 3 and float(mrc.voxel_size.x) == pytest.approx(3.2, rel=1e-3)
    run = json.loads((searched / "run.json").read_text())
    assert run["train_seconds"] == 12.5 and run["device"] == "toy"  # the facts of training are kept
    assert "git_commit" in run
    assert run["predict_particles_per_second"] > 0 and run["peak_memory_mb"] > 0


@pytest.mark.parametrize("grade", ["amortized", "searched"])
def test_a_reopened_prediction_equals_the_returned_one(stack, model, tmp_path, grade):
    request = PredictionRequest(grade, polish_steps=2, path_points=3)
    made = predict_stack(stack, model, request, tmp_path)
    opened = Answer.open(tmp_path)
    for field in ("class_volumes", "path_volumes", "basis"):
        torch.testing.assert_close(getattr(opened, field), getattr(made, field), rtol=0, atol=0)
    assert opened.predictions.names == made.predictions.names and opened.folder == made.folder
    assert torch.equal(opened.predictions.classes, made.predictions.classes)
    torch.testing.assert_close(opened.predictions.latents, made.predictions.latents)
    torch.testing.assert_close(opened.predictions.shifts_A, made.predictions.shifts_A, rtol=0, atol=1e-3)
    assert opened.stack.folder == made.stack.folder and len(opened.stack) == len(made.stack)
    assert opened.voxel_A == pytest.approx(made.voxel_A) and len(made.path_volumes) == 3
    assert opened.particles_per_second == round(made.particles_per_second)


def test_a_class_whose_poses_are_not_determined_is_named_everywhere(stack, model, tmp_path, monkeypatch):
    shares = {0: 0.975, 1: 0.08}
    monkeypatch.setattr(trust, "LEAST_IMAGES", 2)
    monkeypatch.setattr(trust, "settled_share", lambda data, rotations, config, seed: shares[seed - trust.RESTART_SEED])
    with pytest.warns(UserWarning, match="^class 2: poses not determined") as seen:
        answer = predict_stack(stack, model, PredictionRequest("amortized"), tmp_path)
    lines = [str(warning.message) for warning in seen if "poses" in str(warning.message)]
    assert lines == ["class 2: poses not determined (8 % settled); the volume is not reliable"]
    facts = json.loads((tmp_path / "run.json").read_text())["class_trust"]
    assert [fact["settled"] for fact in facts] == [0.975, 0.08]
    assert [fact["images"] for fact in facts] == answer.predictions.classes.bincount().tolist()
    assert all(6.4 <= fact["half_map_A"] <= 32 * 3.2 for fact in facts)
    latents, opened = pd.read_csv(tmp_path / "latents.csv"), Answer.open(tmp_path)
    assert latents["class_settled"].tolist() == pytest.approx(latents["class"].map({1: 0.975, 2: 0.08}).tolist())
    assert opened.trust == answer.trust and opened.predictions.latents.shape == answer.predictions.latents.shape
    torch.testing.assert_close(opened.predictions.class_settled, answer.predictions.class_settled)

    shares[1] = 0.97
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict_stack(stack, model, PredictionRequest("amortized"), tmp_path)


def test_classes_with_too_few_images_and_files_of_an_earlier_version_have_no_share(searched, tmp_path):
    whole = Answer.open(searched)
    assert [one.settled for one in whole.trust] == [None, None] and whole.predictions.class_settled.isnan().all()
    shutil.copytree(searched, tmp_path / "old")
    run = json.loads((searched / "run.json").read_text())
    del run["class_trust"]
    (tmp_path / "old/run.json").write_text(json.dumps(run))
    pd.read_csv(searched / "latents.csv").drop(columns="class_settled").to_csv(tmp_path / "old/latents.csv", index=False)
    old = Answer.open(tmp_path / "old")
    assert old.trust == () and old.predictions.class_settled is None
    assert torch.equal(old.predictions.latents, whole.predictions.latents)


def test_no_mixture_is_fitted_while_a_search_model_loads(model, monkeypatch):
    monkeypatch.setattr("hetacumn.prediction.classes.fit_mixtures", None)
    assert load_em(model).box == BOX


def test_volumes_along_the_path_change_in_one_direction(searched):
    volumes, _ = read_volumes(searched / "volumes", "path_")
    steps = (volumes[1:] - volumes[:-1]).flatten(1)
    cosines = torch.nn.functional.cosine_similarity(steps[1:], steps[:-1])
    assert (cosines > 0.99).all()  # a linear subspace


@pytest.mark.parametrize("grade", ["encoder", "amortized", "searched"])
def test_the_chunk_size_changes_no_prediction(stack, model, tmp_path, device, grade):
    whole, parts = (
        predict_stack(stack, model, request, tmp_path / str(request.chunk), device).predictions
        for request in (PredictionRequest(grade, chunk=chunk, polish_steps=0) for chunk in (1000, 64))
    )
    assert whole.names == parts.names and len(parts) == N
    torch.testing.assert_close(parts.latents, whole.latents, rtol=1e-3, atol=0.02)
    torch.testing.assert_close(parts.rotations, whole.rotations, rtol=1e-3, atol=0.01)
    torch.testing.assert_close(parts.shifts_A, whole.shifts_A, rtol=1e-3, atol=0.05)
    assert torch.equal(parts.classes, whole.classes)


def test_a_rest_smaller_than_the_process_group_joins_the_first_chunk(stack, model):
    request = PredictionRequest("amortized", chunk=N - 1)
    work = StackInference(stack, load_model(model), request, 2, None, torch.device("cpu"), ProcessGroup(1, 2))
    assert [len(rows) for rows in work.chunks] == [N] and len(work.own_rows[0]) == N // 2


def test_refined_predictions_are_better_than_the_hypotheses_of_the_encoder(stack, model, truth, tmp_path, monkeypatch):
    """The encoder gives three pose hypotheses, one of them about 7° off and two random, and no class."""
    near = perturb(truth.rotations, 4.0, torch.Generator().manual_seed(0))
    wrong = random_rotations(2 * N, torch.Generator().manual_seed(1)).unflatten(0, (N, 2))
    shifts = (truth.shifts_A / 3.2 + 0.3)[:, None].expand(-1, 3, -1)
    found = Hypotheses(torch.cat([wrong, near[:, None]], 1), shifts, torch.zeros(N, 3))
    monkeypatch.setattr(HetACUMN, "encode", lambda network, data: (torch.zeros(N, 1), found))
    answer = predict_stack(stack, model, PredictionRequest("refined", polish_steps=5), tmp_path)
    errors, _ = pose_errors(answer.predictions.rotations, truth.rotations)
    assert errors.median() < 4 and accuracy(answer.predictions.classes, truth.classes) > 0.95


def test_low_signal_images_are_searched_whatever_the_encoder_predicts(stack, model, truth, tmp_path, monkeypatch):
    far = random_rotations(3 * N, torch.Generator().manual_seed(1)).unflatten(0, (N, 3))
    found = Hypotheses(far, torch.zeros(N, 3, 2), torch.zeros(N, 3))
    monkeypatch.setattr(HetACUMN, "encode", lambda network, data: (torch.zeros(N, 1), found))
    errors = {}
    for faint in (0.0, torch.inf):
        monkeypatch.setattr("hetacumn.prediction.inference.FAINT", faint)
        answer = predict_stack(stack, model, PredictionRequest("refined", polish_steps=5), tmp_path)
        errors[faint], _ = pose_errors(answer.predictions.rotations, truth.rotations)
    assert (errors[torch.inf] > 20).float().mean() < 0.1 < (errors[0.0] > 20).float().mean()


def test_in_a_low_signal_stack_competing_poses_are_searched_and_the_likelier_result_is_kept(stack, model, truth, monkeypatch):
    trained, searched = load_model(model), load_em(model)
    data, config = observe(stack.read()), replace(trained.config.ab_initio, brightness="faint")
    centres = class_centres(searched.start.latents, searched.config.classes)
    found = search_poses(data, searched.basis(), centres, config)
    errors, _ = pose_errors(found.poses.rotations, truth.rotations)
    assert errors.median() < 2 and accuracy((found.latents[:, 0] > 0).long(), truth.classes) > 0.95

    near = Hypotheses(truth.rotations[:, None], (truth.shifts_A / 3.2)[:, None], torch.zeros(N, 1))
    monkeypatch.setattr(HetACUMN, "encode", lambda network, data: (torch.zeros(len(data), 1), near))
    monkeypatch.setattr("hetacumn.prediction.inference.FAINT", torch.inf)
    counts = []

    def unlikely(part, basis, centres, config):
        counts.append(len(part))
        poses = Poses(random_rotations(len(part), torch.Generator().manual_seed(1)), torch.zeros(len(part), 2))
        other = torch.arange(len(part)) % 2  # alternating classes, wrong for about half of the images
        return State(poses, centres[other]), torch.full((len(part),), -1e9), other

    monkeypatch.setattr("hetacumn.prediction.inference._search", unlikely)
    peaks = follow_hypotheses(trained.model, data, trained.basis(), config)
    centres = class_centres(peaks.state.latents, 2)
    refined = search_misfits(data, peaks, trained.model.misfit_limit, trained.basis(), centres, config)
    errors, _ = pose_errors(refined.poses.rotations, truth.rotations)
    assert counts == [N] and errors.max() < 20 and errors.median() < 2


def test_low_signal_images_of_every_chunk_are_searched_with_the_same_class_centres(first_class, model, tmp_path, monkeypatch):
    used = []

    def recorded(data, basis, centres, config):
        used.append(centres)
        return _search(data, basis, centres, config)

    monkeypatch.setattr("hetacumn.prediction.inference._search", recorded)
    monkeypatch.setattr("hetacumn.prediction.inference.FAINT", torch.inf)
    predict_stack(first_class[1], model, PredictionRequest("refined", chunk=15, polish_steps=1), tmp_path)
    assert len(used) == 3 and all(torch.equal(centres, used[0]) for centres in used)


@pytest.mark.parametrize("grade", ["refined", "searched"])
def test_volumes_and_classes_weighed_over_open_poses_are_correct(stack, model, truth, tmp_path, monkeypatch, grade):
    """The images have a high signal, so classes weighed over all poses must be as correct as those of single poses."""
    monkeypatch.setattr("hetacumn.prediction.inference.poses_are_open", lambda *_: True)
    whole, parts = (
        predict_stack(stack, model, PredictionRequest(grade, chunk=chunk, polish_steps=3, path_points=4), tmp_path / str(chunk))
        for chunk in (1000, 80)
    )
    assert accuracy(whole.predictions.classes, truth.classes) > 0.95
    assert accuracy(parts.predictions.classes, truth.classes) > 0.95
    assert whole.predictions.classes.bincount().tolist() == sorted(whole.predictions.classes.bincount().tolist())[::-1]


def test_the_number_of_classes_is_given_or_that_of_the_model(stack, model, tmp_path):
    for classes, expected in ((None, 2), (3, 3), (1, 1)):
        answer = predict_stack(stack, model, PredictionRequest("amortized", classes=classes), tmp_path)
        assert len(answer.class_volumes) == expected
    with pytest.raises(HetacumnError, match="classes is 0; expected a whole number of at least 1"):
        PredictionRequest("amortized", classes=0)


def test_fewer_classes_leave_no_volume_of_an_earlier_prediction(stack, model, tmp_path):
    for classes in (3, 2):
        predict_stack(stack, model, PredictionRequest("amortized", classes=classes), tmp_path)
    assert sorted(path.name for path in (tmp_path / "volumes").glob("class_*")) == [
        "class_1.mrc",
        "class_2.mrc",
    ]


@pytest.fixture(scope="module")
def first_class(source, searched, tmp_path_factory):
    """Return the rows of 40 particles of the first class, in reverse order, and the prepared stack of these particles."""
    table, found = star.read_table(source), Predictions.read(searched)
    rows = (found.classes == 0).nonzero().squeeze(1).flip(0)[:40]
    star.write_table(source.with_name("first.star"), table.particles.iloc[rows.numpy()], table.optics)
    folder = tmp_path_factory.mktemp("first")
    return rows, prepare_stack(source.with_name("first.star"), folder, Preprocessing(box=BOX), progress=False)


def test_new_particles_are_classified_as_in_an_earlier_prediction(first_class, model, searched, truth, tmp_path):
    """Without ``like``, the particles of one class are divided into two classes."""
    rows, few = first_class
    own = predict_stack(few, model, PredictionRequest("searched", polish_steps=5), tmp_path / "own")
    assert len(own.class_volumes) == 2 and own.predictions.classes.bincount().min() >= 1
    answer = predict_stack(few, model, PredictionRequest("searched", like=searched), tmp_path / "like")
    before = Predictions.read(searched)
    assert (answer.predictions.classes == 0).float().mean() > 0.95
    torch.testing.assert_close(answer.predictions.latents, before.latents[rows], atol=0.05, rtol=0.05)
    for stem in ("class", "basis"):
        now, then = (read_volumes(folder / "volumes", f"{stem}_")[0] for folder in (tmp_path / "like", searched))
        assert now.shape == then.shape
        torch.testing.assert_close(now, then, rtol=1e-4, atol=1e-5 * float(then.abs().max()))


def test_classes_weighed_over_open_poses_are_weighed_again_with_like(first_class, stack, model, tmp_path, monkeypatch):
    monkeypatch.setattr("hetacumn.prediction.inference.poses_are_open", lambda *_: True)
    rows, few = first_class
    whole = predict_stack(stack, model, PredictionRequest("searched", polish_steps=3, path_points=4), tmp_path / "whole")
    answer = predict_stack(few, model, PredictionRequest("searched", like=tmp_path / "whole"), tmp_path / "few")
    assert (answer.predictions.classes == whole.predictions.classes[rows]).float().mean() > 0.95
    scale = float(whole.class_volumes.abs().max())
    torch.testing.assert_close(answer.class_volumes, whole.class_volumes, rtol=1e-3, atol=1e-4 * scale)


def test_like_with_an_unsuitable_earlier_prediction_is_refused(stack, model, searched, tmp_path):
    for more, message in (
        ({"grade": "searched", "classes": 3}, "classes is 3; expected none, because the prediction in .* supplies the classes"),
        ({"grade": "amortized"}, "run.json: model is '.*'; expected '.*', the model of the new prediction"),
        ({"grade": "searched", "like": tmp_path}, "run.json: model is None; expected"),
    ):
        with pytest.raises(HetacumnError, match=message):
            predict_stack(stack, model, PredictionRequest(**{"like": searched, **more}), tmp_path / "out")
    predict_stack(stack, model, PredictionRequest("amortized"), tmp_path / "pass")
    with pytest.raises(HetacumnError, match="grade is 'amortized'; expected 'encoder'"):
        predict_stack(stack, model, PredictionRequest("encoder", like=tmp_path / "pass"), tmp_path / "out")


@pytest.mark.parametrize(
    "grade, classes, message",
    [
        ("best", None, "grade is 'best'; expected one of encoder, amortized, refined, searched"),
        ("amortized", N + 1, f"{N + 1} classes for {N} particles"),
    ],
)
def test_mistakes_are_refused(stack, model, tmp_path, grade, classes, message):
    with pytest.raises(HetacumnError, match=message):
        predict_stack(stack, model, PredictionRequest(grade, classes=classes), tmp_path)
    assert not (tmp_path / "predictions.star").exists()


def test_a_folder_without_a_model_is_named(stack, tmp_path):
    for grade, name in (("amortized", "model.safetensors"), ("searched", START)):
        with pytest.raises(HetacumnError, match=f"{name}: no such file; train first"):
            predict_stack(stack, tmp_path / "none", PredictionRequest(grade), tmp_path / "out")
