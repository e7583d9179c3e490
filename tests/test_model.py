"""The model and its two tasks: losses, gradients, rendering, decoder feedback, and training with every switch."""

from dataclasses import replace

import pytest
import torch
from toys import hinged, make_toy

from hetacumn.ab_initio.start import Start
from hetacumn.common.settings import with_settings
from hetacumn.compute.precision import layer_dtype
from hetacumn.network import decoder, encoder
from hetacumn.network.config import NetworkConfig, TrainConfig
from hetacumn.network.decoder import CoordinateDecoder, VoxelDecoder, imitate
from hetacumn.network.encoder import Hypotheses
from hetacumn.network.feedback import FEEDBACK_HIGHEST, adapted
from hetacumn.network.losses import LatentDraws, kl_divergence, pose_distance
from hetacumn.network.model import HetACUMN, build_model
from hetacumn.network.trainer import Trainer
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations, signal_power
from hetacumn.physics.rotations import MIRROR, distance_deg, from_euler, random_rotations
from hetacumn.physics.slices import Slicer
from hetacumn.search.state import State
from hetacumn.search.subspace import mixing_of

BOX = 16
_correct = HetACUMN._correct
TINY = TrainConfig(
    latent_dim=2,
    network=NetworkConfig(hypotheses=3, templates=64, width=32),
    alone_steps=2,
    joint_epochs=1.0,
    batch=20,
    alone_batch=16,
)


@pytest.fixture
def toy(blobs, device):
    return make_toy([hinged(blobs, 0), hinged(blobs, 80)], 40, BOX, snr=0.5, device=device)


def make_model(toy, **changes) -> HetACUMN:
    torch.manual_seed(0)
    return build_model(with_settings(TINY, changes), BOX, toy.basis(2).cpu()).to(toy.volumes.device)


def latent_draws(toy) -> LatentDraws:
    return LatentDraws(toy.data.ctf, toy.latents(2), 1.0)


def gradient(module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


def test_kl_is_never_negative_is_zero_at_the_prior_and_equals_that_of_torch(device, generator):
    mean, log_variance = torch.randn(2, 50, 3, generator=generator, device=device)
    kl = kl_divergence(mean, log_variance)
    normal, prior = (
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()),
        torch.distributions.Normal(0.0, 1.0),
    )
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(normal, prior).sum(1))
    assert (kl > 0).all()
    assert (kl_divergence(torch.zeros(4, 3, device=device), torch.zeros(4, 3, device=device)) == 0).all()


def test_pose_distance_is_zero_at_the_truth_and_grows_with_angle_and_shift(device, generator):
    true = Poses(random_rotations(30, generator, device), torch.randn(30, 2, generator=generator, device=device))
    other = random_rotations(30, generator, device)
    away = torch.tensor([0.3, -0.4], device=device)
    found = Hypotheses(
        torch.stack([true.rotations, other, true.rotations], 1),
        torch.stack([true.shifts_px, true.shifts_px, true.shifts_px + away], 1),
        torch.zeros(30, 3, device=device),
    )
    distance = pose_distance(found, true, shift_weight=2.0)
    half = torch.deg2rad(distance_deg(other, true.rotations)) / 2
    torch.testing.assert_close(distance[:, 0], torch.zeros(30, device=device))
    torch.testing.assert_close(distance[:, 1], 8 * half.sin().square(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(distance[:, 2], torch.full((30,), 2 * 0.25, device=device))


def test_the_pose_task_gives_gradients_to_the_encoder_and_none_to_the_decoder(toy, generator):
    model = make_model(toy)
    task = model.predict_drawn_poses(16, latent_draws(toy), toy.data.plane, generator)
    (task.pose + task.conformation).backward()
    assert gradient(model.encoder.to_pose) > 0 and gradient(model.encoder.to_latent) > 0
    assert all(p.grad is None for p in model.decoder.parameters())


def noise_of(data, model, generator):
    return torch.randn(len(data), model.decoder.latent_dim, generator=generator, device=data.y.device)


@pytest.mark.parametrize(
    "changes", [{}, {"network": {"hypotheses": 1}}, {"network": {"symmetrised": True}}, {"feedback": False}], ids=str
)
def test_reconstruction_gives_gradients_to_encoder_and_decoder(toy, generator, changes):
    model = make_model(toy, **changes)
    task = model.reconstruct(toy.data, 0.4 * BOX, noise_of(toy.data, model, generator), 1.0)
    (task.loss + task.pose).backward()
    assert gradient(model.encoder.to_pose) > 0 and gradient(model.encoder.to_latent) > 0
    assert gradient(model.decoder) > 0


def test_drawn_images_are_slices_with_the_ctf_of_a_particle_and_noise_of_unit_variance(toy, generator):
    model, plane = make_model(toy), toy.data.plane
    drawn = model.draw(3000, latent_draws(toy), plane, generator)
    poses, ctf = drawn.poses, drawn.ctf
    assert (ctf[:, None] == toy.data.ctf).all(2).any(1).all()  # each CTF is that of a particle
    slicer = Slicer(model.decoder.linear_basis().detach())
    slices = slicer.read_mixed(slicer.stencil(poses.rotations, plane.k), mixing_of(drawn.z))
    clean = plane.translate(slices * ctf, poses.shifts_px)
    noise = drawn.images - clean
    assert abs(float((plane.weight * (clean.conj() * noise).real).sum() / (plane.weight * clean.abs() ** 2).sum())) < 0.01
    power = noise.abs().square().mean(0)
    assert abs(float(power.mean()) - 1) < 0.01 and (power - 1).abs().max() < 0.15
    assert (noise[:, 0].imag == 0).all()
    pixels = plane.unpack(noise)
    assert float(pixels.var()) == pytest.approx(float(plane.weight.sum()) / BOX**2, rel=0.01)


def test_rendered_images_equal_the_clean_images_of_the_toy(toy):
    model = make_model(toy)
    clean = model.render(toy.latents(2), toy.poses, toy.data.ctf, toy.data.plane)
    noise = toy.data.y - clean.detach()  # the toy's images come from the closed form
    assert abs(float((noise.abs().square() * toy.data.plane.weight).mean() / toy.data.plane.weight.mean()) - 1) < 0.05


def test_the_symmetrised_loss_is_equal_for_an_image_and_its_rotation_by_180_degrees(toy, device):
    data = toy.data
    turned = Observations(data.y.conj().resolve_conj(), data.ctf, data.plane)

    def misfit(model, images):
        generator = torch.Generator(device).manual_seed(0)
        return float(model.reconstruct(images, 6, noise_of(images, model, generator), 1.0, pose_only=True).misfit.detach())

    model = make_model(toy, network={"symmetrised": True})
    assert misfit(model, turned) == pytest.approx(misfit(model, data), rel=1e-4)
    plain = make_model(toy)
    assert misfit(model, data) < misfit(plain, data) - 1e-3  # the best of more hypotheses is better
    assert abs(misfit(plain, turned) - misfit(plain, data)) > 1e-3


def test_rotating_the_pose_by_180_degrees_rotates_the_image(toy, device):
    model, plane = make_model(toy), toy.data.plane
    half = Poses(MIRROR.to(device) @ toy.poses.rotations, -toy.poses.shifts_px)
    one, other = (model.render(toy.latents(2), poses, toy.data.ctf, plane) for poses in (toy.poses, half))
    torch.testing.assert_close(other, one.conj().resolve_conj(), rtol=1e-3, atol=1e-3)


def test_the_pose_depends_on_z_only_if_the_encoder_is_conditional(toy, generator, device):
    z = torch.randn(2, 40, 2, generator=generator, device=device)
    for conditional in (True, False):
        model = make_model(toy, network={"conditional": conditional})
        features = model.encoder.features(toy.data.y, toy.data.ctf)
        one, other = (model.encoder.pose(features, some).rotations for some in z)
        assert torch.equal(one, other) != conditional


def test_hypotheses_are_rotations_and_the_best_has_the_highest_logit(toy, device):
    model = make_model(toy)
    found = model.encode(toy.data)[1]
    identity = torch.eye(3, device=device).expand(40, 3, 3, 3)
    torch.testing.assert_close(found.rotations @ found.rotations.mT, identity, rtol=0, atol=1e-4)
    assert (torch.linalg.det(found.rotations) > 0).all()
    which, best = found.logits.argmax(1), found.best()
    for i in range(40):
        assert torch.equal(best.rotations[i], found.rotations[i, which[i]])


def test_the_voxel_decoder_slices_its_own_volumes(toy, generator, device):
    decoder = make_model(toy).decoder
    assert isinstance(decoder, VoxelDecoder)
    z, rotations, k = toy.latents(2)[:5], random_rotations(5, generator, device), toy.data.plane.k
    each = torch.arange(5)
    expected = Slicer(decoder.volumes(z))(rotations, k)[each, each]
    torch.testing.assert_close(decoder.drawing()(z, rotations, k), expected, rtol=1e-3, atol=2e-3 * expected.abs().max().item())
    assert torch.equal(decoder.linear_basis()[0], decoder.volumes(0 * z[:1])[0])


def test_a_voxel_decoder_starts_from_the_given_volumes(toy, generator, device):
    decoder, basis = VoxelDecoder(torch.zeros(3, BOX, BOX, BOX)).to(device), toy.basis(2)
    decoder.start_from(basis.cpu(), toy.latents(2), toy.data.plane.k, generator)
    new = VoxelDecoder(basis.cpu()).to(device)
    assert all(torch.equal(value, decoder.state_dict()[name]) for name, value in new.state_dict().items())


@pytest.fixture
def coordinate(device) -> CoordinateDecoder:
    torch.manual_seed(0)
    return CoordinateDecoder(BOX, 2, width=32, scale=3.0).to(device)


def test_the_coordinate_decoder_is_hermitian(coordinate, toy, generator, device):
    """The transform of a real volume at -k is the conjugate of the transform at k, also in the plane kx = 0."""
    z, k = torch.randn(6, 2, generator=generator, device=device), toy.data.plane.k
    for rotations in (random_rotations(6, generator, device), torch.eye(3, device=device).expand(6, 3, 3)):
        values, mates = coordinate.drawing()(z, rotations, k), coordinate.drawing()(z, rotations, -k)
        torch.testing.assert_close(mates, values.conj().resolve_conj(), rtol=1e-3, atol=1e-4)


def test_the_coordinate_decoder_slices_its_own_volumes(coordinate, toy, device):
    """The rotations are multiples of 90°, where slices need no interpolation."""
    angles = torch.tensor([[0, 0, 0], [90, 0, 0], [0, 90, 0], [90, 90, 0], [0, 90, 90.0]], device=device)
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).to(device)
    k, each = toy.data.plane.k, torch.arange(5)
    rotations = from_euler(angles).round()
    slices, volumes = coordinate.drawing()(z, rotations, k), coordinate.volumes(z)
    assert volumes.dtype == torch.float32
    expected = Slicer(volumes)(rotations, k)[each, each]
    correlation = (slices.conj() * expected).real.sum(1) / (slices.norm(dim=1) * expected.norm(dim=1))
    assert correlation.min() > 0.98
    assert (expected.norm(dim=1) / slices.norm(dim=1) - 1).abs().max() < 0.1


def test_the_coordinate_decoder_learns_to_imitate_a_subspace(toy, device, generator):
    torch.manual_seed(0)
    decoder, basis = CoordinateDecoder(BOX, 2, width=64, scale=3.0).to(device), toy.basis(2)
    latents, k = toy.latents(2), toy.data.plane.k
    expected = VoxelDecoder(basis).drawing()(latents, toy.poses.rotations, k).detach()

    def error() -> float:
        with torch.no_grad():
            drawn = decoder.drawing()(latents, toy.poses.rotations, k)
        return float((drawn - expected).abs().square().sum() / expected.abs().square().sum())

    before = error()
    imitate(decoder, basis, latents, k, generator, steps=300)
    assert before > 0.8 and error() < 0.05


def test_the_linear_basis_of_the_coordinate_decoder_is_a_central_difference(coordinate, device):
    basis = coordinate.linear_basis()
    assert basis.shape == (3, BOX, BOX, BOX)
    z = torch.tensor([[1.0, 0.0]], device=device)
    torch.testing.assert_close(basis[0], coordinate.volumes(0 * z)[0])
    torch.testing.assert_close(basis[1], (coordinate.volumes(z) - coordinate.volumes(-z))[0] / 2)


BARE = {"warm_start": False, "feedback": False, "conformation_sleep": False, "alone_steps": 0}
ONE = {"hypotheses": 1, "templates": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        BARE | {"network": ONE},
        BARE | {"pose_task": False, "pose_only_epochs": 0.5, "network": ONE | {"conditional": False, "symmetrised": True}},
        {"warm_start": False},
        {"pose_task": False},
        {"network": {"conditional": False}},
        {"conformation_sleep": False},
        {"network": {"hypotheses": 1}},
        {"feedback": False},
        {"network": {"symmetrised": True}},
        {"network": {"templates": 0}},
        {"network": {"decoder": "coordinate"}},
        {"alone_steps": 0},
    ],
    ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()) or "all",
)
def test_training_runs_with_every_switch(toy, tmp_path, changes):
    config = with_settings(TINY, changes)
    start = Start(toy.basis(2), toy.poses, toy.latents(2), "", {}) if config.warm_start else None
    trainer = Trainer(toy.data, config, tmp_path, start)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.run(progress=False)
    assert trainer.step == (2 if config.alone_steps and config.pose_task else 0) + 2
    record = trainer.history[-1]
    assert ("pose" in record) == config.pose_task
    assert ("conformation" in record) == (config.pose_task and config.conformation_sleep)
    after = dict(trainer.model.named_parameters())
    assert all(torch.isfinite(value).all() for value in after.values())
    for part in ("encoder.body", "encoder.to_pose", "decoder"):
        assert any(not torch.equal(after[n], before[n]) for n in after if n.startswith(part)), part


def test_the_decoder_does_not_change_while_the_pose_task_runs_alone(toy, tmp_path):
    start = Start(toy.basis(2), toy.poses, toy.latents(2), "", {})
    trainer = Trainer(toy.data, replace(TINY, joint_epochs=0.0), tmp_path, start)
    before = trainer.model.decoder.voxels.clone()
    trainer.run(progress=False)
    assert torch.equal(trainer.model.decoder.voxels, before)


def test_templates_start_as_projections_of_the_volumes(toy, tmp_path):
    """The templates respond more strongly to slices of the molecule than to noise."""
    start = Start(toy.basis(2), toy.poses, toy.latents(2), "", {})
    stem = Trainer(toy.data, TINY, tmp_path, start).model.encoder.stem
    slices = make_model(toy).decoder.drawing()(toy.latents(2), toy.poses.rotations, toy.data.plane.k)
    clean = slices / signal_power(toy.data).sqrt()
    noise = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device)
    best = [
        float(stem.filters(f / f.norm(dim=1, keepdim=True)).max(1).values.mean().detach())
        for f in (stem._flat(clean), stem._flat(noise))
    ]
    assert best[0] > 0.6 and best[0] > 2 * best[1]


def test_decoder_feedback_improves_the_hypotheses_of_an_untrained_encoder(toy):
    """The hypotheses are random poses, some of them near enough: feedback raises the log joint above that of the encoder."""
    model = make_model(toy, network={"hypotheses": 8})
    tangent = model.tangent()
    alone, with_feedback = model.infer(toy.data, None), model.infer(toy.data, model.feedback_tables(toy.data.plane))
    before, after = (tangent.expand(toy.data, state).value for state in (alone, with_feedback))
    assert after.mean() > before.mean() and (after > before).float().mean() > 0.8


def test_finer_pixels_do_not_raise_the_frequencies_of_decoder_feedback():
    """At 32 px the rounds are those of the settings; from about 44 px their radii stay at the same integer frequencies."""
    rounds, reached = ((4, 0.15), (1, 0.45)), []
    for box in (32, 64, 128):
        model = build_model(with_settings(TINY, {"bright": {"feedback": rounds, "second_rounds": rounds}}), box)
        assert model.feedback == model.second_look.rounds == adapted(rounds, box)
        reached.append([radius * box for _, radius in model.feedback])
    assert reached[0] == [radius * 32 for _, radius in rounds]
    assert reached[1] == pytest.approx([FEEDBACK_HIGHEST / 3, FEEDBACK_HIGHEST]) == reached[2]


@pytest.mark.parametrize("second_look", [0.5, 1.0])
def test_a_second_look_finds_poses_that_no_hypothesis_of_the_encoder_is_near(blobs, device, monkeypatch, second_look):
    """The encoder knows the shifts, and the rotations of every other image."""
    toy = make_toy([hinged(blobs, 0), hinged(blobs, 80)], 40, BOX, snr=10.0, device=device)
    rounds = ((16, 0.25), (4, 0.35))
    effort = {"feedback": ((1, 0.35), (1, 0.45)), "second_look": second_look, "second_rounds": rounds}
    model = make_model(toy, bright=effort)
    good = torch.arange(40, device=device) % 2 == 0
    wrong = random_rotations(40, torch.Generator().manual_seed(7)).to(device)
    rotations = torch.where(good[:, None, None], toy.poses.rotations, wrong)

    def encode(data):
        assert len(data) == 40  # once per image
        hypotheses = Hypotheses(rotations[:, None], toy.poses.shifts_px[:, None], torch.zeros(40, 1, device=device))
        return torch.zeros(40, 2, device=device), hypotheses

    monkeypatch.setattr(model, "encode", encode)
    once = replace_second_look(model, 0.0).infer(toy.data, model.feedback_tables(toy.data.plane))
    replace_second_look(model, second_look).calibrate(toy.data)
    twice = model.infer(toy.data, model.feedback_tables(toy.data.plane))
    before, after = (distance_deg(state.poses.rotations, toy.poses.rotations) for state in (once, twice))
    assert (before[~good] > 20).sum() > 15 and (after < 5).sum() >= 38
    if second_look < 1:
        assert torch.equal(after[good], before[good])


def replace_second_look(model: HetACUMN, share: float) -> HetACUMN:
    model.second_look = replace(model.second_look, share=share)
    return model


def test_calibration_finds_the_latents_of_the_states(toy):
    model = make_model(toy, classes=2)
    assert model.centres.shape == (2, 2) and not model.centres.any()
    states = State(toy.poses, toy.latents(2))
    model._correct = lambda *arguments: (states, torch.zeros(len(toy.data), device=toy.data.y.device))
    model.calibrate(toy.data)
    torch.testing.assert_close(model.centres.sort(0).values, toy.latents(2)[:2].sort(0).values)


def test_an_environment_variable_forbids_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.delenv("HETACUMN_LAYERS", raising=False)
    assert layer_dtype(torch.device("cpu")) == torch.bfloat16
    monkeypatch.setenv("HETACUMN_LAYERS", "float32")
    assert layer_dtype(torch.device("cpu")) == torch.float32


@pytest.fixture
def bfloat16(monkeypatch):
    """Return a function that turns bfloat16 layers on or off, whatever the hardware prefers."""

    def switch(on: bool) -> None:
        for module in (encoder, decoder):
            monkeypatch.setattr(
                module, "autocast", lambda device: torch.autocast(device.type, dtype=torch.bfloat16, enabled=on)
            )

    return switch


def test_bfloat16_layers_change_predictions_little(toy, bfloat16):
    model = make_model(toy)
    states = []
    for on in (False, True):
        bfloat16(on)
        states.append(model.infer(toy.data, None))
    sharp, rough = states
    assert not torch.equal(rough.latents, sharp.latents)
    torch.testing.assert_close(rough.latents, sharp.latents, rtol=0.05, atol=0.05)
    assert distance_deg(rough.poses.rotations, sharp.poses.rotations).median() < 3


@pytest.mark.parametrize("kind", ["voxel", "coordinate"])
def test_with_bfloat16_layers_both_phases_train_with_losses_and_poses_in_float32(toy, bfloat16, tmp_path, monkeypatch, kind):
    """Poses in bfloat16 would deviate from rotations by about 0.01, and the losses would change."""
    seen = []
    monkeypatch.setattr(HetACUMN, "_correct", lambda *given: seen.append(_correct(*given)) or seen[-1])
    records = []
    for on in (False, True):
        bfloat16(on)
        torch.manual_seed(0)
        start = Start(toy.basis(2), toy.poses, toy.latents(2), "given", {}) if kind == "voxel" else None
        trainer = Trainer(toy.data, with_settings(TINY, {"network": {"decoder": kind}}), tmp_path, start)
        records.append([trainer._advance()[0].present() for _ in range(trainer.total)])
    for sharp, rough in zip(*records, strict=True):
        for name, value in sharp.items():
            assert rough[name].dtype == torch.float32
            # The losses are continuous where an image changes to another hypothesis; the gradient is not.
            near = 0.5 if name == "gradient" else 0.05
            torch.testing.assert_close(rough[name], value, rtol=near, atol=0.05, msg=lambda text, name=name: f"{name}: {text}")
    for state, value in seen:
        rotations = state.poses.rotations
        assert rotations.dtype == state.latents.dtype == value.dtype == torch.float32
        torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).to(rotations).expand_as(rotations), rtol=0, atol=1e-5)
    assert len(seen) == 4


def test_the_signal_power_equals_that_of_the_clean_particles(toy):
    """Compared at frequencies with enough signal to measure it, over 40 images, 20 of each state."""
    plane = toy.data.plane
    slices = make_model(toy).decoder.drawing()(toy.latents(2), toy.poses.rotations, plane.k).detach()
    expected = plane.radial_mean(slices.abs().square().mean(0))
    strong = expected > 3
    ratio = signal_power(toy.data)[strong] / expected[strong]
    assert strong.sum() > 10 and abs(float(ratio.log().mean())) < 0.2
