"""Every sign at once, on recorded images: projections of a published map at the published poses match the particles."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hetacumn.io.mrc import read_mrc
from hetacumn.particles.observations import observe
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.slices import Slicer
from hetacumn.search.initial import given_poses

TRPV1 = Path(__file__).resolve().parents[2] / "shared/data/real/trpv1.star"
BAND = (1, 12)  # Fourier radii in which the noise does not dominate


def test_the_map_of_trpv1_matches_its_particles_at_the_poses_of_the_file_alone(tmp_path):
    """The channel has four-fold symmetry, so that some wrong rotations match partly; the right ones match best."""
    if not TRPV1.is_file():
        pytest.skip("no ../shared/data")
    stack = prepare_stack(TRPV1, tmp_path, Preprocessing(box=48), progress=False)
    data, poses = observe(stack.read(), "cpu"), given_poses(stack, "cpu", np.arange(len(stack)))
    slicer = Slicer(read_mrc(TRPV1.with_name("trpv1_map.mrc"))[0].float()[None], 2.0)
    band = (data.k.norm(dim=1) > BAND[0]) & (data.k.norm(dim=1) < BAND[1])

    def correlation(rotations, shifts_px):
        projected = (slicer.read(slicer.stencil(rotations, data.k))[..., 0] * data.ctf)[:, band]
        image = data.plane.translate(data.y, -shifts_px)[:, band]
        powers = projected.abs().square().sum(1) * image.abs().square().sum(1)
        return (projected.conj() * image).real.sum(1) / powers.sqrt()

    right, mirror = correlation(poses.rotations, poses.shifts_px), torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    assert right.min() > 0.25  # positive: protein is bright
    assert (right > correlation(poses.rotations, -poses.shifts_px)).all()
    assert right.mean() > correlation(poses.rotations, 0 * poses.shifts_px).mean()
    assert (right > correlation(mirror @ poses.rotations @ mirror, poses.shifts_px)).all()
    assert right.mean() > correlation(poses.rotations.mT, poses.shifts_px).mean() + 0.05
    assert (right > correlation(poses.rotations.roll(1, 0), poses.shifts_px)).all()
