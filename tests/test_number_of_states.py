"""The number of states of a start, in latents with a known number of states and in images of a toy molecule."""

import numpy as np
import pytest
import torch
from test_ab_initio import BRIEF, QUICK
from toys import hinged, make_toy

from hetacumn.ab_initio import number_of_states
from hetacumn.ab_initio.evidence import is_significant, needed_volumes
from hetacumn.ab_initio.number_of_states import LatentSample, ab_initio, component_counts, count_states
from hetacumn.ab_initio.start import load_start, save_start
from hetacumn.common.settings import with_settings
from hetacumn.particles.observations import StackFingerprint
from hetacumn.search.subspace import LatentPosterior

PRECISION = 400.0  # precision of the likelihood of an image, per squared unit of the latents


def make_sample(centres, count=400, spread=0.05, noise=0.0, seed=0):
    """Return latents around centres, with image noise; the last tenth of each cluster is held out."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.as_tensor(centres, dtype=torch.float64)
    labels = torch.arange(count * len(centres)) % len(centres)
    true = centres[labels] + spread * torch.randn(len(labels), centres.shape[1], generator=generator).double()
    means = true + noise * torch.randn(true.shape, generator=generator).double()
    held = np.arange(len(labels)) // len(centres) % 10 == 9
    return true, LatentSample(means.numpy(), noise**2 * np.eye(centres.shape[1]), ~held, held)


def likelihoods(z):
    """Return ``compete`` for images whose latents are ``z``: the log-likelihood falls with the squared distance."""
    return lambda centres: -0.5 * PRECISION * torch.cdist(z, centres.double()) ** 2


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_separate_clusters_are_counted(count):
    centres = torch.eye(12)[:count] * 2
    true, sample = make_sample(centres, count=300)
    assert count_states(sample, likelihoods(true[sample.held]), most=24) == count


def test_noise_that_joins_two_clusters_is_removed_before_they_are_counted():
    true, sample = make_sample([[-0.3, 0.0], [0.3, 0.0]], count=4000, spread=0.05, noise=0.3)
    assert count_states(sample, likelihoods(true[sample.held]), most=6) == 2
    blind = LatentSample(sample.means, np.zeros((2, 2)), sample.fit, sample.held)
    assert count_states(blind, likelihoods(true[sample.held]), most=6) == 1


def test_images_with_wrong_poses_form_no_state():
    true, sample = make_sample([[0.0, 0.0], [2.0, 0.0], [1.0, 2.0]])
    third = np.isclose(true.numpy(), [1.0, 2.0], atol=0.5).all(1)
    searched = true.clone()
    searched[torch.from_numpy(third)] -= torch.tensor(
        [1.0, 2.0]
    ).double()  # at the right poses, these images fit the first volume
    assert count_states(sample, likelihoods(true[sample.held]), most=6) == 3
    assert count_states(sample, likelihoods(searched[sample.held]), most=6) == 2


def test_one_state_of_varying_contrast_is_one_state():
    generator = torch.Generator().manual_seed(1)
    along = torch.cat([0.2 * torch.randn(1500, generator=generator) ** 2, 3 + 0.1 * torch.randn(1500, generator=generator)])
    z = torch.stack([along, 0.05 * torch.randn(3000, generator=generator)], 1).double()
    held = np.arange(3000) % 10 == 0
    sample = LatentSample(z.numpy(), np.zeros((2, 2)), ~held, held)
    mixture = number_of_states._density(sample, 12, seed=0)
    assert mixture.n_components > 2  # the skewed density of the first state needs several Gaussians
    assert count_states(sample, likelihoods(z[held]), most=12) == 2


def test_too_few_held_out_images_count_as_one_state():
    true, sample = make_sample([[0.0], [2.0]], count=90)
    assert sample.held.sum() < number_of_states.FEWEST_HELD
    assert count_states(sample, likelihoods(true[sample.held]), most=6) == 1


def test_images_need_the_volumes_that_no_other_replaces():
    scores = torch.tensor([[9.0, 9.0, 0.0, 1.0], [9.0, 9.0, 0.0, 1.0], [0.0, 0.0, 9.0, 1.0]]).repeat(50, 1)
    kept = needed_volumes(scores)
    assert len(kept) == 2 and 2 in kept and 3 not in kept
    assert needed_volumes(torch.zeros(40, 3)) in ([0], [1], [2])


def test_a_gain_is_significant_beyond_its_error():
    noise = torch.randn(400, generator=torch.Generator().manual_seed(0))
    assert not is_significant(noise - noise.mean() + 0.05) and is_significant(noise - noise.mean() + 0.2)


def test_the_noise_of_latents_is_that_of_the_posterior_mean():
    """For z = 0 the posterior mean has the covariance S - S², with S the posterior covariance."""
    generator = torch.Generator().manual_seed(0)
    information = torch.tensor([[4.0, 1.0], [1.0, 2.0]])
    precision = information + torch.eye(2)
    data = torch.linalg.cholesky(information) @ torch.randn(2, 200_000, generator=generator)  # likelihood gradient at z = 0
    means = torch.linalg.solve(precision, data).T
    everything = torch.ones(len(means), dtype=torch.bool)
    posterior = LatentPosterior(means[:5], precision.expand(5, 2, 2), torch.zeros(5))
    noise = LatentSample.of(posterior, everything[:5], everything[:5]).noise
    np.testing.assert_allclose(noise, np.cov(means.numpy().T), rtol=0.02, atol=2e-3)


def test_numbers_to_try_grow_by_an_eighth_and_by_doubling():
    assert component_counts(12) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] and component_counts(20)[-3:] == [16, 18, 20]
    assert number_of_states._volume_counts(5) == [5] and number_of_states._volume_counts(700) == [6]
    assert number_of_states._volume_counts(1500) == [6, 12, 24] and number_of_states._volume_counts(10**6)[-2:] == [48, 64]


def test_the_start_finds_two_states_of_a_toy_and_keeps_the_number_in_its_file(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr(number_of_states, "FIRST_VOLUMES", 4)
    toy, lines = make_toy([hinged(blobs, 0), hinged(blobs, 110)], 600, 24, snr=4.0), []
    config = with_settings(QUICK, {"volumes": 0, "components": 0, "held_out": 0.2, "division": {"turns": 0}})
    start = ab_initio(toy.data, config, seed=0, log=lines.append)
    assert start.number.states == 2 and start.number.volumes == 4 and len(start.basis) == 5
    assert lines[-1] == "ab initio: found 2 states; held-out images need 2 of 4 volumes"
    stack = StackFingerprint.of(toy.data)
    save_start(tmp_path / "start.safetensors", start, stack, {})
    assert load_start(tmp_path / "start.safetensors", stack).number == start.number


def test_the_number_of_volumes_doubles_while_they_explain_more(blobs, monkeypatch):
    """The start of one volume finds one state; the start of two volumes reuses the consensus volume."""
    toy, steps, lines = make_toy([hinged(blobs, 0), hinged(blobs, 110)], 300, 16, snr=1.0), {}, []
    monkeypatch.setattr(number_of_states, "FIRST_VOLUMES", 1)
    config = with_settings(BRIEF, {"volumes": 0})
    for higher, volumes in ((False, 1), (True, 4)):
        monkeypatch.setattr(number_of_states, "is_significant", lambda gain, higher=higher: higher)
        monkeypatch.setattr(number_of_states, "count_states", lambda sample, compete, most: most // 2)
        start = ab_initio(toy.data, config, 0, log=lines.append, keep=steps.__setitem__)
        assert start.number.volumes == volumes
    assert [name for name in steps if "consensus" == name] and "4 volumes, route classes" in steps
    assert lines[-1] == "ab initio: found 4 states; 300 images are too few for more than 4 volumes"
    resumed = ab_initio(toy.data, config, 0, log=lambda line: None, done=steps)
    assert torch.equal(resumed.basis, start.basis)
