"""The cyclic symmetry of points is found from their positions alone."""

import pytest
import roma
import torch

from hetacumn.physics.rotations import distance_deg, inplane, random_rotations
from hetacumn.physics.symmetry import cyclic_rotations


@pytest.mark.parametrize("order", [1, 2, 3, 4, 6])
def test_the_rotations_map_the_points_onto_themselves(order):
    generator = torch.Generator().manual_seed(order)
    unit = 10 * torch.randn(40, 3, generator=generator) + torch.tensor([30.0, 0.0, 0.0])
    about_z = inplane(360 / order * torch.arange(order))
    (frame,) = random_rotations(1, generator)
    points = (unit @ about_z.mT).flatten(0, 1) @ frame.mT + torch.tensor([5.0, -80.0, 7.0])
    found = cyclic_rotations(points)
    assert len(found) == order and torch.allclose(found[0], torch.eye(3), atol=1e-6)
    expected = frame @ about_z @ frame.mT
    nearest = distance_deg(found[:, None], expected).amin(1)
    assert nearest.max() < 0.01
    assert roma.is_rotation_matrix(found, epsilon=1e-5)
