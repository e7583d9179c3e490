"""The shapes of annotations are checked in tests: a wrong shape fails where a right one passes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from hetacumn.evaluation.bound import TrueMixture
from hetacumn.io.mrc import write_mrc
from hetacumn.io.stacks import release_pages
from hetacumn.particles.metadata import Poses
from hetacumn.physics.alignment import Placement, place_core
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.physics.optics import Optics
from hetacumn.physics.rotations import Frame, align, distance_deg, from_euler, random_rotations, turn
from hetacumn.physics.slices import Slicer, make_stencil
from hetacumn.physics.volumes import rotate, soft_sphere
from hetacumn.prediction.landscape import LatentAxes, latent_axes
from hetacumn.simulation.projection import project_atoms
from hetacumn.simulation.simulate import form_images
from hetacumn.simulation.structures import Atoms
from hetacumn.simulation.truth import Truth

EYE = torch.eye(3)
SAME = Placement(Frame(EYE, False), torch.zeros(3))
ATOMS = Atoms(torch.zeros(4, 3), torch.ones(4), torch.full((4,), 3.0), np.full(4, "all"))


def optics(n: int) -> Optics:
    one = torch.ones(n)
    return Optics(1e4 * one, 1e4 * one, 0 * one, 300 * one, 2.7 * one, 0.1 * one, 0 * one, pixel_A=2.0)


def rotations(*batch: int) -> torch.Tensor:
    return EYE.expand(*batch, 3, 3)


RIGHT = {
    "rotations of any batch": lambda: turn(rotations(2, 5), torch.zeros(2, 5, 3)),
    "no rotations": lambda: distance_deg(rotations(0), rotations(0)),
    "batches that broadcast": lambda: distance_deg(rotations(5, 1), rotations(4)),
    "angles": lambda: from_euler(torch.zeros(3)),
    "poses of one length": lambda: align(random_rotations(9), random_rotations(9)),
    "a volume": lambda: rotate(torch.zeros(8, 8, 8), EYE),
    "volumes": lambda: crop_volumes(torch.zeros(2, 1, 8, 8, 8), 4),
    "two volumes of one box": lambda: place_core(*torch.rand(2, 8, 8, 8), SAME, torch.Generator(), trials=0),
    "slices": lambda: Slicer(torch.zeros(2, 8, 8, 8))(rotations(3), HalfPlane(8).k),
    "coefficients and shifts that broadcast": lambda: (plane := HalfPlane(8)).translate(
        plane.pack(torch.zeros(3, 1, 8, 8)), torch.zeros(5, 2)
    ),
    "a gain for each frequency": lambda: make_stencil(rotations(3), torch.zeros(6, 2), 16, 8, torch.ones(3, 6)),
    "frequencies": lambda: optics(3).ctf(torch.zeros(7, 2)),
    "images and their shifts": lambda: form_images(torch.zeros(3, 8, 8), optics(3), torch.zeros(3, 2)),
    "a state for each image": lambda: project_atoms(replace(ATOMS, positions_A=torch.zeros(2, 4, 3)), rotations(2), 32, 2.0),
    "a basis of the latents": lambda: latent_axes(torch.rand(20, 2), 1, torch.rand(3, 4, 4, 4)),
    "a frame": lambda: Frame(EYE, True),
    "axes": lambda: LatentAxes(torch.zeros(9, 2), torch.zeros(3), torch.zeros(2, 3)),
    "a mixture": lambda: TrueMixture(
        torch.zeros(2, 8, 8, 8), torch.ones(2), Poses(rotations(5), torch.zeros(5, 2)), torch.zeros(5, dtype=torch.long)
    ),
    "the truth of states": lambda: Truth(
        rotations(5), torch.zeros(5, 2), torch.zeros(5, dtype=torch.long), torch.zeros(5), torch.zeros(0, 8, 8), 0.1, 1.0
    ),
    "the truth of a motion": lambda: Truth(
        rotations(5), torch.zeros(5, 2), torch.zeros(5, dtype=torch.long), torch.zeros(5, 2), torch.zeros(1, 8, 8), 0.1, 1.0
    ),
}

WRONG = {
    "rotations (n, 3, 2)": lambda: distance_deg(torch.zeros(5, 3, 2), torch.zeros(5, 3, 2)),
    "batches that do not broadcast": lambda: distance_deg(rotations(5), rotations(4)),
    "two angles": lambda: from_euler(torch.zeros(7, 2)),
    "whole numbers for angles": lambda: from_euler(torch.zeros(7, 3, dtype=torch.long)),
    "poses of two lengths": lambda: align(random_rotations(9), random_rotations(8)),
    "a batch of volumes for one": lambda: rotate(torch.zeros(1, 8, 8, 8), EYE),
    "volumes that are no cubes": lambda: crop_volumes(torch.zeros(2, 8, 8, 6), 4),
    "volumes of two boxes": lambda: place_core(torch.rand(8, 8, 8), torch.rand(6, 6, 6), SAME, torch.Generator(), trials=0),
    "one volume for several": lambda: Slicer(torch.zeros(8, 8, 8)),
    "frequencies in three dimensions": lambda: Slicer(torch.zeros(2, 8, 8, 8))(rotations(3), torch.zeros(6, 3)),
    "images of another box than the plane's": lambda: HalfPlane(8).pack(torch.zeros(3, 6, 6)),
    "real coefficients": lambda: HalfPlane(8).unpack(torch.zeros(3, len(HalfPlane(8)))),
    "a gain for other frequencies": lambda: make_stencil(rotations(3), torch.zeros(6, 2), 16, 8, torch.ones(3, 5)),
    "shifts for other images": lambda: form_images(torch.zeros(3, 8, 8), optics(3), torch.zeros(2, 2)),
    "a basis of other latents": lambda: latent_axes(torch.rand(20, 2), 1, torch.rand(2, 4, 4, 4)),
    "one image for a stack": lambda: release_pages(np.zeros((8, 8), np.float32)),
    "a frame (3, 2)": lambda: Frame(torch.zeros(3, 2), True),
    "optics of two lengths": lambda: replace(optics(3), cs_mm=torch.ones(2)),
    "weights of other atoms": lambda: replace(ATOMS, weights=torch.ones(5)),
    "axes of another space": lambda: LatentAxes(torch.zeros(9, 2), torch.zeros(4), torch.zeros(2, 3)),
    "priors of other classes": lambda: TrueMixture(
        torch.zeros(2, 8, 8, 8), torch.ones(3), Poses(rotations(5), torch.zeros(5, 2)), torch.zeros(5, dtype=torch.long)
    ),
    "real numbers for classes": lambda: Truth(
        rotations(5), torch.zeros(5, 2), torch.zeros(5), torch.zeros(5), torch.zeros(1, 8, 8), 0.1, 1.0
    ),
    "shifts of other particles": lambda: Truth(
        rotations(5), torch.zeros(4, 2), torch.zeros(5, dtype=torch.long), torch.zeros(5), torch.zeros(1, 8, 8), 0.1, 1.0
    ),
}


@pytest.mark.parametrize("call", RIGHT.values(), ids=RIGHT)
def test_right_shapes_pass(call):
    call()


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_wrong_shapes_fail_in_the_checker(call):
    with pytest.raises(TypeCheckError):
        call()


def test_a_result_of_another_shape_than_annotated_fails(monkeypatch):
    """A function that breaks its own annotation is caught too: here the grid that a mask is made of has another box."""
    monkeypatch.setattr("hetacumn.physics.volumes.radius_grid", lambda box, device: torch.zeros(box, box, box + 2))
    with pytest.raises(TypeCheckError):
        soft_sphere(8)


def test_nothing_is_written_of_a_stack_in_place_of_a_volume(tmp_path):
    with pytest.raises(TypeCheckError):
        write_mrc(tmp_path / "one.mrc", torch.zeros(2, 8, 8, 8), 1.0)
    assert not list(tmp_path.iterdir())
