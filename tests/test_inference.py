"""Grades of inference, and the volumes that follow what they find."""

import torch
from toys import hinged, make_toy
from tqdm import tqdm

from hetacumn.ab_initio_config import AbInitioConfig
from hetacumn.inference import polish
from hetacumn.joint import State
from hetacumn.stochastic_em import soften
from hetacumn.subspace import volumes_at


def test_the_basis_draws_the_softened_volumes_at_the_centres(blobs, device):
    toy = make_toy([hinged(blobs, 0), hinged(blobs, 110)], 300, 24, snr=0.05, device=device)
    config = AbInitioConfig(soft_grid=(2, 12), shift=0.0, soft_steps=5)
    state = State(toy.poses, toy.latents(3) + 0.1 * torch.randn(300, 3, generator=torch.Generator().manual_seed(0)).to(device))
    before = toy.basis(3)
    basis, centres = polish(toy.data, before, state, config, 2, 50, seed=0)
    expected = soften(
        toy.data, volumes_at(centres, before), config.suited(toy.data), 5, torch.Generator().manual_seed(0), tqdm(disable=True)
    )
    torch.testing.assert_close(volumes_at(centres, basis), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert polish(toy.data, before, state, config, 2, 0, seed=0) == (before, None)
