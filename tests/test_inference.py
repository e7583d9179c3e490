"""Refitted volumes, log-likelihood ratios and pose search of the prediction grades."""

import pytest
import torch
from toys import hinged, likelihood_at, make_toy
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig, SearchGrid
from hetacumn.ab_initio.stochastic_em import soften
from hetacumn.common.settings import read_settings
from hetacumn.particles.observations import signal_nats
from hetacumn.prediction.inference import Refit, log_ratios, refit_volumes, search_poses
from hetacumn.search.state import State
from hetacumn.search.subspace import mixing_of, volumes_at


def test_the_refitted_basis_gives_the_softened_volumes_at_the_class_centres(blobs, device):
    toy = make_toy([hinged(blobs, 0), hinged(blobs, 110)], 300, 24, snr=0.05, device=device)
    config = read_settings(AbInitioConfig, {"soft": {"grids": [[2, 12]], "steps": 5}, "grid": {"extent": 0.0}})
    state = State(toy.poses, toy.latents(3) + 0.1 * torch.randn(300, 3, generator=torch.Generator().manual_seed(0)).to(device))
    before = toy.basis(3)
    basis, centres = refit_volumes(toy.data, before, state, config, Refit(2, 50, seed=0))
    generator, adapted = torch.Generator().manual_seed(0), config.adapted_to(toy.data)
    expected = soften(toy.data, volumes_at(centres, before), adapted, 5, generator, tqdm(disable=True))
    torch.testing.assert_close(volumes_at(centres, basis), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert refit_volumes(toy.data, before, state, config, Refit(2, 0, seed=0)) == (before, None)


def test_the_log_ratio_equals_a_sum_over_pixels(blobs, device):
    toy = make_toy([hinged(blobs, 0), hinged(blobs, 80)], 60, 24, snr=1.0, device=device)
    state = State(toy.poses, 0.8 * toy.latents())
    whole = read_settings(AbInitioConfig, {"consensus": {"radius": [0.1, 1.0]}})  # all frequencies of an image
    expected = likelihood_at(toy.data, toy.basis(), mixing_of(state.latents), state.poses)
    torch.testing.assert_close(log_ratios(toy.data, toy.basis(), state, whole, batch=25), expected, rtol=1e-3, atol=0.1)


def test_images_without_a_molecule_have_lower_log_ratios(blobs, device):
    """The ratios are taken at the poses that the search finds; with a molecule, their mean equals ``signal_nats``."""
    toy = make_toy([hinged(blobs, 0), hinged(blobs, 110)], 200, 24, snr=0.5, device=device)
    config = AbInitioConfig(grid=SearchGrid(rotations=(3, 18)))
    noise = make_toy([blobs], 50, 24, snr=1e-9, device=device, seed=1).data
    ratios = []
    for data in (toy.data, noise):
        state = search_poses(data, toy.basis(), torch.tensor([[-1.0], [1.0]], device=device), config)
        ratios.append(log_ratios(data, toy.basis(), state, config))
    assert ratios[0].quantile(0.05) > ratios[1].max() and ratios[1].median() < 0
    assert float(ratios[0].mean()) == pytest.approx(signal_nats(toy.data, 0.22 * 24), rel=0.1)
