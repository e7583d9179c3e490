"""The closed-form posterior of z equals Gaussians over pixels and sums over z."""

import pytest
import torch
from toys import hinged, likelihood_at, make_toy

from hetacumn.physics.fourier import fft3c, shells
from hetacumn.physics.slices import Slicer
from hetacumn.search.subspace import ComponentPrior, infer_latents, latent_posterior, mixing_of

BOX = 16


@pytest.fixture
def toy(blobs, device):
    return make_toy([hinged(blobs, 0), hinged(blobs, 80)], 60, BOX, snr=0.3, device=device)


@pytest.fixture
def basis(toy, generator, device):
    """Return the true mean and half difference, and a second component of noise."""
    noise = 0.02 * toy.volumes.std() * torch.randn(BOX, BOX, BOX, generator=generator, device=device)
    return torch.cat([toy.basis(), noise[None]])


def pixels(toy, basis, i):
    """Return an image ``(box²,)`` and the images of the basis at its pose ``(1 + q, box²)``, in double precision."""
    one = toy.data[i : i + 1]
    slices = Slicer(basis)(toy.poses.rotations[i : i + 1], one.k)[0] * one.ctf
    plane = one.plane
    models = plane.unpack(plane.translate(slices, toy.poses.shifts_px[i].expand(len(basis), 2)))
    return plane.unpack(one.y)[0].flatten().double(), models.flatten(1).double()


def test_the_posterior_equals_that_of_a_gaussian_over_pixels(toy, basis, device):
    found = latent_posterior(toy.data, Slicer(basis), toy.poses)
    for i in (0, 1, 7):
        image, (mean, *components) = pixels(toy, basis, i)
        a = torch.stack(components, 1)
        precision = torch.eye(2, device=device) + a.T @ a
        expected = torch.linalg.solve(precision, a.T @ (image - mean))
        torch.testing.assert_close(found.precision[i].double(), precision, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.mean[i].double(), expected, rtol=1e-3, atol=1e-3)


def test_the_evidence_equals_that_of_a_gaussian_over_pixels(toy, basis):
    found = latent_posterior(toy.data, Slicer(basis), toy.poses)
    for i in (0, 1, 7):
        image, (mean, *components) = pixels(toy, basis, i)
        a = torch.stack(components, 1)
        covariance = torch.eye(len(image), device=image.device).double() + a @ a.T
        marginal = torch.distributions.MultivariateNormal(mean, covariance).log_prob(image)
        noise_alone = torch.distributions.Normal(0.0, 1.0).log_prob(image).sum()
        assert float(found.log_evidence[i]) == pytest.approx(float(marginal - noise_alone), rel=1e-3, abs=0.05)


def test_the_evidence_is_the_likelihood_summed_over_z(toy, device):
    found = latent_posterior(toy.data, Slicer(toy.basis()), toy.poses)
    z = torch.linspace(-8, 8, 2001, device=device)
    mixtures = [mixing_of(value.expand(60, 1)) for value in z[::8]]
    scores = [likelihood_at(toy.data, toy.basis(), mixing, toy.poses) for mixing in mixtures]
    scores = torch.stack(scores, 1).double()
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z[::8].double())
    expected = torch.logsumexp(scores + prior, 1) + torch.log(z[8] - z[0])
    torch.testing.assert_close(found.log_evidence.double(), expected, rtol=1e-3, atol=0.05)
    mean = (torch.softmax(scores + prior, 1) * z[::8]).sum(1)
    torch.testing.assert_close(found.mean[:, 0].double(), mean, rtol=1e-2, atol=0.01)


def test_latents_separate_the_states_and_do_not_depend_on_the_batch_size(toy):
    slicer = Slicer(toy.basis())
    whole, parts = (
        infer_latents(toy.data, slicer, toy.poses),
        infer_latents(toy.data, slicer, toy.poses, batch=7),
    )
    assert ((whole.mean[:, 0] > 0) == (toy.classes == 1)).float().mean() > 0.95
    for one, other in zip(vars(whole).values(), vars(parts).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_with_zero_components_the_posterior_of_z_is_its_prior(toy):
    basis = toy.basis()
    basis[1:] = 0
    found = latent_posterior(toy.data, Slicer(basis), toy.poses)
    assert (found.mean == 0).all() and (found.precision == 1).all()


def test_the_evidence_has_gradients_in_the_volumes(toy, basis):
    voxels = basis.clone().requires_grad_()
    latent_posterior(toy.data, Slicer(voxels), toy.poses).log_evidence.sum().backward()
    step = 1e-3 * voxels.grad / voxels.grad.norm() * basis.norm()

    def evidence(volumes):
        return float(latent_posterior(toy.data, Slicer(volumes), toy.poses).log_evidence.double().sum())

    difference = evidence(basis + step) - evidence(basis - step)
    assert difference == pytest.approx(2 * float((voxels.grad * step).sum()), rel=0.02)


def test_the_prior_variance_of_components_follows_the_power_of_the_mean_in_each_shell(toy, basis, device):
    basis = basis.clone().requires_grad_()
    penalty = ComponentPrior(BOX, 0.2, torch.device(device)).penalty(basis)
    power = fft3c(basis.detach().double()).abs().square() / BOX**3  # as for an orthonormal transform
    shell = shells(BOX, 3, device)
    mean_power = torch.stack([power[0][shell == s].mean() for s in range(int(shell.max()) + 1)])
    mean_power = mean_power.clamp(min=1e-4 * mean_power.max())
    expected = 0.5 * (power[1:] / (0.2 * mean_power[shell])).sum()
    assert float(penalty.detach()) == pytest.approx(float(expected), rel=1e-3)
    penalty.backward()
    assert basis.grad[0].abs().max() == 0 and basis.grad[1].norm() > 0  # the prior does not act on the mean
    assert (basis.grad[1:] * basis.detach()[1:]).sum() > 0  # descent makes components smaller
