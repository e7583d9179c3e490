"""Focus on a mask: components stay on their side of it, and a large motion outside does not change the classes inside."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Blobs
from test_ab_initio import QUICK
from toys import make_toy
from tqdm import tqdm

import hetacumn
from hetacumn.ab_initio.guided import FocusedRun, guided_start
from hetacumn.ab_initio.start import Start, Steps
from hetacumn.cli.checks import Demand, check_particles
from hetacumn.common.errors import HetacumnError
from hetacumn.common.run_files import write_facts
from hetacumn.common.settings import with_settings
from hetacumn.evaluation.scores import accuracy
from hetacumn.io import star
from hetacumn.io.mrc import read_mrc, read_volumes, write_mrc
from hetacumn.network.checks import check_training
from hetacumn.network.config import NetworkConfig, TrainConfig
from hetacumn.network.model_files import load_model
from hetacumn.network.training import TrainingJob, TrainingStack, run_method, train_stack
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.slices import Slicer
from hetacumn.physics.volumes import radius_grid, soft_sphere
from hetacumn.prediction import trust
from hetacumn.prediction.classes import classify
from hetacumn.prediction.predict import predict_stack
from hetacumn.prediction.request import PredictionRequest
from hetacumn.search.focus import WHOLE, Focus, read_mask
from hetacumn.search.initial import InitialData, InitialSettings
from hetacumn.search.subspace import infer_latents
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack

DATA = Path(__file__).resolve().parents[1] / "data"
BOX = 24
BRIGHT = replace(QUICK, brightness="bright", subspace_steps=60)
FIXED = InitialSettings("fixed", mask="mask.mrc", outside_components=2)


def ball(box: int, x: float, radius: float) -> torch.Tensor:
    """Return a soft ball on the x axis; lengths are fractions of the box."""
    return ((radius + 0.05 - radius_grid(box).roll(round(x * box), -1) / box) / 0.05).clamp(0, 1)


def two_motions(blobs, near: float, far: float) -> Blobs:
    """Return the blobs with a small part at x = -0.25 at the height ``near``, and a larger part at x = 0.25 at ``far``."""
    other = blobs.moved()
    small, large = torch.tensor([[-0.25, 0.0, near]]), torch.tensor([[0.25, 0.0, far]])
    other.points = torch.cat([0.5 * blobs.points, small.expand(3, 3), large.expand(9, 3)])
    return other


@pytest.fixture(scope="module")
def toy(blobs):
    """Return images of two states of the small part, at each of three positions of the large part."""
    molecules = [two_motions(blobs, near, far) for near in (-0.07, 0.07) for far in (-0.2, 0.0, 0.2)]
    return make_toy(molecules, 300, BOX, snr=1.0)


@pytest.fixture(scope="module")
def focus():
    return Focus(ball(BOX, -0.25, 0.15), 2)


@pytest.fixture(scope="module")
def start(toy, focus):
    return guided_start(toy.data, InitialData(FIXED, toy.poses, focus=focus), BRIGHT, 0)


def leakage(basis: torch.Tensor, focus: Focus) -> float:
    """Return the largest value of a component on the wrong side of the mask, relative to the largest value of its kind."""
    inside, outside = basis[1 : len(basis) - focus.outside], basis[len(basis) - focus.outside :]
    wrong = inside[:, focus.mask == 0].abs().max() / inside.abs().max()
    return max(float(wrong), float(outside[:, focus.mask == 1].abs().max() / outside.abs().max()))


def test_a_motion_outside_the_mask_hides_the_states_inside_only_without_the_mask(toy, focus, start):
    states = toy.classes // 3
    whole = guided_start(toy.data, InitialData(InitialSettings("fixed"), toy.poses), BRIGHT, 0)
    assert accuracy(classify(whole.latents, 2).labels, states) < 0.7
    assert accuracy(classify(focus.inside(start.latents), 2).labels, states) > 0.95


def test_components_of_the_start_stay_on_their_side_of_the_mask(focus, start):
    assert start.basis.shape[0] == 1 + 2 + focus.outside == 1 + start.latents.shape[1]
    assert leakage(start.basis, focus) == 0
    assert start.basis[0][focus.mask == 0].abs().max() > 0.5 * start.basis[0].abs().max()  # the mean has no mask


def test_supports_of_both_kinds_sum_to_the_sphere(focus):
    support, sphere = focus.support(4, BOX), soft_sphere(BOX)
    torch.testing.assert_close(support[1] + support[2], sphere)
    assert torch.equal(support[0], sphere) and torch.equal(support[2], support[3])
    assert torch.equal(WHOLE.support(3, BOX), sphere.expand(3, -1, -1, -1))


def test_latents_inside_survive_their_padding():
    z = torch.randn(5, 3)
    assert torch.equal(Focus(outside=2).inside(Focus(outside=2).padded(z)), z)
    assert torch.equal(WHOLE.padded(z), z) and torch.equal(WHOLE.inside(z), z)


def test_the_marginal_posterior_is_that_of_the_covariance(toy, focus, start):
    posterior = infer_latents(toy.data[:20], Slicer(start.basis), start.poses[:20])
    found = focus.marginal(posterior)
    torch.testing.assert_close(found.precision.inverse(), posterior.precision.inverse()[:, :2, :2], atol=1e-5, rtol=1e-4)
    assert torch.equal(found.mean, posterior.mean[:, :2])


def test_the_likelihood_of_z_integrates_to_the_evidence(toy, focus, start):
    """The mean of p(Y | z) over the prior of z is the evidence, which the closed form computes for all components at once."""
    short = Start(torch.cat([start.basis[:2], start.basis[3:]]), start.poses, start.latents[:, :3], "given", {})
    short.basis[1:] *= 0.3  # a broad posterior, which a coarse sum resolves
    run = FocusedRun(
        toy.data, QUICK, torch.Generator(), tqdm(disable=True), Steps(print), focus, given=toy.poses, is_fixed=True
    )
    z = torch.linspace(-6, 6, 121)[:, None]
    log_weights = torch.distributions.Normal(0.0, 1.0).log_prob(z[:, 0]) + torch.tensor(0.1).log()
    summed = (run.compare_held(short, z) + log_weights).logsumexp(1)
    torch.testing.assert_close(summed, run.held_evidence(short), atol=0.02, rtol=1e-4)


def test_training_keeps_the_focus_of_the_decoder(toy, focus, tmp_path):
    small = NetworkConfig(templates=32, width=16, hypotheses=2)
    config = TrainConfig(2, 2, alone_steps=5, joint_epochs=1.0, decoder_rate=0.01, network=small, ab_initio=BRIGHT)
    stack = TrainingStack(toy.data[:200], 3.0, initial=InitialData(FIXED, toy.poses[:200], focus=focus))
    run_method("hetacumn", stack, config, tmp_path)
    model = load_model(tmp_path)
    assert model.config.latent_dim == 4 and leakage(model.basis(), focus) == 0
    torch.testing.assert_close(Focus.of_run(tmp_path).mask, focus.mask)


def test_a_mask_that_lies_in_the_folder_of_a_run_without_a_mask_has_no_effect(focus, tmp_path):
    write_facts(tmp_path, InitialSettings("fixed").facts())
    focus.write(tmp_path, 3.0)
    WHOLE.write(tmp_path, 3.0)
    assert Focus.of_run(tmp_path) == WHOLE and (tmp_path / "mask.mrc").exists()


@pytest.fixture(scope="module")
def masked_run(tmp_path_factory):
    """Train at fixed poses with a mask; return the folder, the prepared stack, and the job."""
    if not (DATA / "adk.npz").exists():
        pytest.skip("data/ is absent: run `dvc pull`")
    out = tmp_path_factory.mktemp("masked")
    settings = {"structure": "adk", "states": ["open", "closed"], "particles": 240, "box": 48, "pixel_A": 2.1, "snr": 0.3}
    truth = simulate_stack(Simulation.from_params(settings | {"shift_px": 2}), out, 0, DATA, progress=False)
    table = star.read_table(out / "particles.star")
    star.set_poses(table.particles, truth.rotations, truth.shifts_A)
    star.write_table(out / "posed.star", table.particles, table.optics)
    stack = prepare_stack(out / "posed.star", out / "prepared", Preprocessing(box=BOX), progress=False)
    write_mrc(out / "half.mrc", (torch.arange(48) < 24).float().expand(48, 48, 48).contiguous(), 2.1)
    initial = InitialSettings("fixed", mask=str(out / "half.mrc"), outside_components=1)
    job = TrainingJob("em", TrainConfig(2, 2, ab_initio=BRIGHT), out / "run", 0.8, initial=initial)
    train_stack(stack, job)
    return out / "run", stack, job


def test_predictions_contain_the_conformation_inside_the_mask_alone(masked_run, tmp_path, monkeypatch):
    monkeypatch.setattr(trust, "LEAST_IMAGES", 1000)
    run, stack, _ = masked_run
    answer = predict_stack(stack, run, PredictionRequest("searched", chunk=100, polish_steps=20), tmp_path / "first")
    outside, _ = read_volumes(tmp_path / "first/volumes", "outside_")
    assert answer.predictions.latents.shape[1] == 2 and len(answer.basis) == 3 and len(outside) == 1
    assert leakage(torch.cat([answer.basis, outside]), Focus(Focus.of_run(run).mask, 1)) == 0
    difference = (answer.class_volumes[0] - answer.class_volumes[1]).abs()
    assert difference[Focus.of_run(run).mask == 0].max() < 1e-5 * difference.max()
    again = predict_stack(stack, run, PredictionRequest("searched", like=tmp_path / "first", chunk=100), tmp_path / "again")
    assert (again.predictions.classes == answer.predictions.classes).float().mean() > 0.98


def test_another_mask_is_another_run(masked_run):
    _, stack, job = masked_run
    with pytest.raises(HetacumnError, match="made with other values of initial.outside_components than requested"):
        train_stack(stack, replace(job, initial=replace(job.initial, outside_components=2)))
    check_training(job, stack.settings, stack.source, stack.folder)
    mask, voxel_A = read_mrc(job.initial.mask)
    write_mrc(job.initial.mask, 1 - mask, voxel_A)
    with pytest.raises(HetacumnError, match=r"half.mrc: differs from .*run/mask.mrc, the mask of the run"):
        check_training(job, stack.settings, stack.source, stack.folder)
    write_mrc(job.initial.mask, mask, voxel_A)


def test_the_mask_of_a_run_is_never_its_input(masked_run):
    run, stack, job = masked_run
    own = replace(job, initial=replace(job.initial, mask=str(run / "mask.mrc")))
    with pytest.raises(HetacumnError, match="run/mask.mrc: the run writes this file; expected the mask in another file"):
        check_training(own, stack.settings, stack.source, stack.folder)


@pytest.mark.parametrize(
    "volume, voxel_A, message",
    [
        (ball(48, 0, 0.2), 4.2, "field of view of 201.6 Å; expected 100.8 Å"),
        ((radius_grid(48) < 2).float(), 2.1, "1 voxels above 0.5 at 24 voxels per side"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_preparation(masked_run, tmp_path, volume, voxel_A, message):
    write_mrc(tmp_path / "mask.mrc", volume, voxel_A)
    with pytest.raises(HetacumnError, match=message):
        check_particles(masked_run[0].parent / "posed.star", None, Demand(BOX, mask=str(tmp_path / "mask.mrc")))


def test_the_python_api_hands_the_mask_on(masked_run, tmp_path):
    with pytest.raises(HetacumnError, match=r"mask is 'mask.mrc'; expected poses given or fixed with a mask"):
        hetacumn.train(masked_run[1], 2, tmp_path, mask="mask.mrc")


def test_a_mask_of_another_box_covers_the_same_region(tmp_path):
    write_mrc(tmp_path / "mask.mrc", ball(64, 0.1, 0.2), 1.5)
    found = read_mask(tmp_path / "mask.mrc", 32, 3.0)
    torch.testing.assert_close(found, ball(32, 0.1, 0.2), atol=0.25, rtol=0)
    assert float(found.mean()) == pytest.approx(float(ball(64, 0.1, 0.2).mean()), rel=0.02)
    assert torch.equal(read_mask(tmp_path / "mask.mrc", 64, 1.5), ball(64, 0.1, 0.2))


@pytest.mark.parametrize(
    "volume, voxel_A, message",
    [
        (torch.zeros(32, 32, 32), 3.0, "no voxel above 0.5; expected a mask around a part"),
        (2 * ball(32, 0, 0.2), 3.0, "values from 0 to 2; expected a mask from 0 to 1"),
        (ball(32, 0, 0.2) - 1, 3.0, "values from -1 to 0; expected a mask from 0 to 1"),
        (torch.ones(32, 32, 30), 3.0, "expected a cube"),
        (ball(32, 0, 0.2), 2.0, "32 voxels of 2 Å, a field of view of 64 Å; expected 96 Å"),
        (ball(64, 0, 0.2), 3.0, "64 voxels of 3 Å, a field of view of 192 Å; expected 96 Å"),
        ((radius_grid(32) < 1).float(), 3.0, "1 voxels above 0.5 at 32 voxels per side; expected at least 8"),
    ],
)
def test_wrong_masks_are_refused(tmp_path, volume, voxel_A, message):
    write_mrc(tmp_path / "mask.mrc", volume, voxel_A)
    with pytest.raises(HetacumnError, match=f"mask.mrc: .*{message}"):
        read_mask(tmp_path / "mask.mrc", 32, 3.0)


def test_a_mask_needs_a_frame_and_a_decoder_of_volumes(tmp_path):
    with pytest.raises(HetacumnError, match=r"mask is 'mask.mrc'; expected poses given or fixed with a mask"):
        InitialSettings(mask="mask.mrc")
    with pytest.raises(HetacumnError, match=r"outside_components is -1; expected a number of at least 0"):
        InitialSettings("fixed", mask="mask.mrc", outside_components=-1)
    ring = with_settings(TrainConfig(), {"ab_initio": {"consensus": {"symmetry": "C3"}}}, "train.")
    with pytest.raises(HetacumnError, match="mask is 'mask.mrc' with symmetry C3; expected C1 with a mask"):
        TrainingJob("em", ring, tmp_path, initial=FIXED)
    for changes in ({"network": NetworkConfig(decoder="coordinate")}, {"warm_start": False}):
        with pytest.raises(HetacumnError, match="expected the decoder 'voxel' and warm_start True with a mask"):
            TrainingJob("hetacumn", replace(TrainConfig(), **changes), tmp_path, initial=FIXED)
