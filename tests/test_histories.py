"""Histories of training beside the noise: the misfit of images that hold noise alone is 1 in every band."""

import numpy as np
import pandas as pd
import pytest
import torch

from hetacumn.evaluation.tables import relate_to_noise
from hetacumn.physics.fourier import fft2c
from hetacumn.physics.half_plane import HalfPlane

BOX, RADIUS = 32, (0.25, 0.45)


def noise_misfit(radius: float) -> float:
    """The misfit of 2,000 images of white noise of unit variance to an empty image, as task 1 sums it."""
    plane = HalfPlane(BOX)
    images = torch.randn(2000, BOX, BOX, generator=torch.Generator().manual_seed(0))
    coefficients = fft2c(images).flatten(1)[:, plane.index][:, : plane.count(radius)]
    return 0.5 * float((coefficients.abs().square() * plane.weight[: plane.count(radius)]).sum(1).mean())


def test_noise_alone_has_a_misfit_of_one_although_the_band_widens():
    steps, alone = np.arange(25, 225, 25), 100
    done = (steps - alone - 1) / 100
    radii = (RADIUS[0] + (RADIUS[1] - RADIUS[0]) * done) * BOX
    joint = steps > alone
    misfit = [noise_misfit(radius) if both else np.nan for radius, both in zip(radii, joint, strict=True)]
    history = pd.DataFrame({"step": steps, "phase": np.where(joint, "joint", "pose task"), "misfit": misfit})
    found = relate_to_noise(history, {"box": BOX, "config": {"radius": RADIUS}})
    assert misfit[-1] > 2 * misfit[4]
    assert found["misfit_over_noise"][joint].to_numpy() == pytest.approx(np.ones(joint.sum()), abs=0.01)
    assert found["misfit_over_noise"][~joint].isna().all()
    assert found["joint_step"][joint].tolist() == [25, 50, 75, 100]


def test_a_history_without_joint_steps_stays_as_it_is():
    history = pd.DataFrame({"step": [25, 50], "phase": "pose task", "pose": [5.0, 4.0]})
    assert relate_to_noise(history, {}).equals(history)
