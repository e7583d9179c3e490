"""Annotated array shapes are checked in tests: correct shapes pass and wrong shapes raise TypeCheckError."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from hetacumn.ab_initio.start import Start
from hetacumn.ab_initio.stochastic_em import smooth_noise
from hetacumn.evaluation.bound import TrueMixture
from hetacumn.io.mrc import write_mrc
from hetacumn.io.stacks import release_pages
from hetacumn.particles.metadata import ParticleMetadata, Particles, Poses
from hetacumn.particles.observations import Observations, observe
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preprocessing import noise_power, normalise, roll
from hetacumn.physics.alignment import Placement, place_core
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.physics.optics import Optics
from hetacumn.physics.rotations import Frame, align, distance_deg, from_euler, random_rotations, turn
from hetacumn.physics.slices import Slicer, make_stencil
from hetacumn.physics.volumes import rotate, soft_sphere
from hetacumn.prediction.landscape import LatentAxes, latent_axes
from hetacumn.search.clusters import Clusters, find_clusters
from hetacumn.search.grid import (
    GridSearchResult,
    PairedSlices,
    log_likelihood,
    pose_grid,
    posterior_,
    shift_grid,
)
from hetacumn.search.refinement import Tangent, climb
from hetacumn.search.state import Quadratic, State
from hetacumn.search.subspace import LatentPosterior, mixing_of, volumes_at
from hetacumn.simulation.imaging import form_images
from hetacumn.simulation.molecules import Atoms
from hetacumn.simulation.projection import project_atoms
from hetacumn.simulation.truth import Truth

EYE = torch.eye(3)
IDENTITY = Placement(Frame(EYE, False), torch.zeros(3))
ATOMS = Atoms(torch.zeros(4, 3), torch.ones(4), torch.full((4,), 3.0), np.full(4, "all"))


def optics(n: int) -> Optics:
    one = torch.ones(n)
    return Optics(1e4 * one, 1e4 * one, 0 * one, 300 * one, 2.7 * one, 0.1 * one, 0 * one, pixel_A=2.0)


def rotations(*batch: int) -> torch.Tensor:
    return EYE.expand(*batch, 3, 3)


def poses(n: int) -> Poses:
    return Poses(rotations(n), torch.zeros(n, 2))


def state(n: int, q: int = 2) -> State:
    return State(poses(n), torch.zeros(n, q))


def particles(n: int, box: int = 8) -> Particles:
    return Particles(torch.zeros(n, box, box), ParticleMetadata([f"{i + 1}@x.mrcs" for i in range(n)], optics(n), poses(n)))


def paired(volumes: torch.Tensor) -> PairedSlices:
    return PairedSlices.of_grid(volumes, pose_grid(1, 2), HalfPlane(8).k)


def observations(n: int) -> Observations:
    return observe(particles(n))


def quadratic(n: int, p: int, rows: int | None = None) -> Quadratic:
    return Quadratic(torch.zeros(n), torch.zeros(n, p), torch.eye(p).expand(rows or n, p, p))


def truth(**changed: torch.Tensor) -> Truth:
    right = {
        "rotations": rotations(5),
        "shifts_A": torch.zeros(5, 2),
        "classes": torch.zeros(5, dtype=torch.long),
        "coordinate": torch.zeros(5),
        "junk": torch.zeros(5, dtype=torch.long),
        "clean": torch.zeros(1, 8, 8),
    }
    return Truth(**right | changed, snr=0.1, noise_std=1.0)


def predictions(**changed: torch.Tensor) -> Predictions:
    one = {"rotations": rotations(4), "shifts_A": torch.zeros(4, 2), "classes": torch.zeros(4, dtype=torch.long)}
    return Predictions(list("abcd"), **{**one, "latents": torch.zeros(4, 3), **changed})


RIGHT = {
    "poses": lambda: poses(5)[torch.tensor([0, 3])],
    "no poses": lambda: poses(5)[:0],
    "particles": lambda: particles(3)[[0, 2]],
    "observations": lambda: observations(3).within(2)[1:],
    "one step of a state": lambda: state(3).moved(torch.zeros(3, 7)),
    "a state without latents": lambda: state(3, 0),
    "a quadratic and its step": lambda: quadratic(3, 7).step(torch.ones(3, 1)),
    "damping in common": lambda: quadratic(3, 7).step(0.1),
    "a climb": lambda: climb(observations(3), Tangent(torch.rand(3, 8, 8, 8)), state(3), (0.2,)),
    "slices of the observed frequencies": lambda: log_likelihood(
        observations(3), paired(torch.rand(1, 8, 8, 8)), torch.zeros(4, 2)
    ),
    "scores of any batch": lambda: posterior_(torch.zeros(2, 3, 5)),
    "a pose grid": lambda: (pose_grid(2, 6), shift_grid(1.0, 3)),
    "volumes of latents": lambda: volumes_at(torch.zeros(5, 2), torch.zeros(3, 8, 8, 8)),
    "a posterior of latents": lambda: LatentPosterior(torch.zeros(5, 2), torch.zeros(5, 2, 2), torch.zeros(5)),
    "clusters": lambda: find_clusters(torch.randn(30, 2), torch.zeros(3, 8, 8, 8), 2),
    "a start": lambda: Start(torch.zeros(3, 8, 8, 8), poses(4), torch.zeros(4, 2), "classes", {}),
    "no noise": lambda: smooth_noise(0, 8, torch.Generator(), 4),
    "predictions": lambda: predictions(log_ratios=torch.zeros(4))[np.array([1, 3])],
    "images to normalise": lambda: noise_power(torch.randn(6, 8, 8), 3.0),
    "moves by whole pixels": lambda: roll(torch.zeros(3, 8, 8), torch.ones(3, 2, dtype=torch.long)),
    "rotations of any batch": lambda: turn(rotations(2, 5), torch.zeros(2, 5, 3)),
    "no rotations": lambda: distance_deg(rotations(0), rotations(0)),
    "batches that broadcast": lambda: distance_deg(rotations(5, 1), rotations(4)),
    "angles": lambda: from_euler(torch.zeros(3)),
    "poses of one length": lambda: align(random_rotations(9), random_rotations(9)),
    "a volume": lambda: rotate(torch.zeros(8, 8, 8), EYE),
    "volumes": lambda: crop_volumes(torch.zeros(2, 1, 8, 8, 8), 4),
    "two volumes of one box": lambda: place_core(*torch.rand(2, 8, 8, 8), IDENTITY, torch.Generator(), trials=0),
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
    "axes": lambda: LatentAxes(torch.zeros(9, 2), torch.zeros(3), torch.zeros(2, 3), torch.zeros(2, 3)),
    "a mixture": lambda: TrueMixture(torch.zeros(2, 8, 8, 8), torch.ones(2), poses(5), torch.zeros(5, dtype=torch.long)),
    "the truth of states": lambda: truth(clean=torch.zeros(0, 8, 8)),
    "the truth of a motion": lambda: truth(coordinate=torch.zeros(5, 2)),
}

WRONG = {
    "shifts of other poses": lambda: Poses(rotations(5), torch.zeros(4, 2)),
    "one pose for several": lambda: Poses(EYE, torch.zeros(2)),
    "images that are not square": lambda: replace(particles(3), images=torch.zeros(3, 8, 6)),
    "offsets of three axes": lambda: replace(particles(3).metadata, offsets_A=torch.zeros(3, 3)),
    "real observations": lambda: replace(observations(3), y=torch.zeros(3, len(HalfPlane(8)))),
    "CTFs of other frequencies": lambda: replace(observations(3), ctf=torch.zeros(3, 5)),
    "one latent for several": lambda: State(poses(1), torch.zeros(2)),
    "a state chosen by numbers": lambda: state(3).where(torch.ones(3), state(3)),
    "curvatures of other images": lambda: quadratic(3, 7, rows=2),
    "damping of numbers in place of images": lambda: quadratic(3, 7).step(torch.ones(7)),
    "one volume for a table": lambda: Tangent(torch.rand(8, 8, 8)),
    "shifts in three dimensions": lambda: log_likelihood(observations(3), paired(torch.rand(1, 8, 8, 8)), torch.zeros(4, 3)),
    "slices of several volumes": lambda: PairedSlices.of(Slicer(torch.rand(2, 8, 8, 8))(rotations(6), HalfPlane(8).k)),
    "a basis without a mean": lambda: volumes_at(torch.zeros(5, 2), torch.zeros(2, 8, 8, 8)),
    "latents of one image": lambda: mixing_of(torch.zeros(2)),
    "precisions that are not square": lambda: LatentPosterior(torch.zeros(5, 2), torch.zeros(5, 2, 3), torch.zeros(5)),
    "evidence of volumes for images": lambda: GridSearchResult(
        poses(5), torch.zeros(5, dtype=torch.long), torch.zeros(5, 2), torch.zeros(2)
    ),
    "centres of other clusters": lambda: Clusters(
        torch.zeros(5, dtype=torch.long), torch.zeros(2, 3), torch.zeros(3, 8, 8, 8), torch.ones(2, dtype=torch.long)
    ),
    "a start of one volume": lambda: Start(torch.zeros(8, 8, 8), poses(4), torch.zeros(4, 2), "classes", {}),
    "real classes": lambda: predictions(classes=torch.zeros(4)),
    "log ratios of other particles": lambda: predictions(log_ratios=torch.zeros(3)),
    "one image to normalise": lambda: normalise(torch.zeros(8, 8), 3.0, 10.0),
    "moves by fractions": lambda: roll(torch.zeros(3, 8, 8), torch.ones(3, 2)),
    "rotations (n, 3, 2)": lambda: distance_deg(torch.zeros(5, 3, 2), torch.zeros(5, 3, 2)),
    "batches that do not broadcast": lambda: distance_deg(rotations(5), rotations(4)),
    "two angles": lambda: from_euler(torch.zeros(7, 2)),
    "whole numbers for angles": lambda: from_euler(torch.zeros(7, 3, dtype=torch.long)),
    "poses of two lengths": lambda: align(random_rotations(9), random_rotations(8)),
    "a batch of volumes for one": lambda: rotate(torch.zeros(1, 8, 8, 8), EYE),
    "volumes that are no cubes": lambda: crop_volumes(torch.zeros(2, 8, 8, 6), 4),
    "volumes of two boxes": lambda: place_core(torch.rand(8, 8, 8), torch.rand(6, 6, 6), IDENTITY, torch.Generator(), trials=0),
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
    "axes of another space": lambda: LatentAxes(torch.zeros(9, 2), torch.zeros(4), torch.zeros(2, 3), torch.zeros(2, 3)),
    "priors of other classes": lambda: TrueMixture(
        torch.zeros(2, 8, 8, 8), torch.ones(3), poses(5), torch.zeros(5, dtype=torch.long)
    ),
    "real numbers for classes": lambda: truth(classes=torch.zeros(5)),
    "shifts of other particles": lambda: truth(shifts_A=torch.zeros(4, 2)),
}


@pytest.mark.parametrize("call", RIGHT.values(), ids=RIGHT)
def test_correct_shapes_pass(call):
    call()


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_wrong_shapes_fail_in_the_checker(call):
    with pytest.raises(TypeCheckError):
        call()


def test_a_result_of_a_wrong_shape_fails_in_the_checker(monkeypatch):
    """The checker also finds a function that breaks its own annotation: here the grid of the mask has another box."""
    monkeypatch.setattr("hetacumn.physics.volumes.radius_grid", lambda box, device: torch.zeros(box, box, box + 2))
    with pytest.raises(TypeCheckError):
        soft_sphere(8)


def test_several_volumes_in_place_of_one_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeCheckError):
        write_mrc(tmp_path / "one.mrc", torch.zeros(2, 8, 8, 8), 1.0)
    assert not list(tmp_path.iterdir())
