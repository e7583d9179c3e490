"""Annotated array shapes in network, prediction, evaluation and baselines: correct shapes pass, wrong ones raise an error."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from hetacumn.baselines.peer import class_volumes
from hetacumn.evaluation.dataset import scale_to_images
from hetacumn.evaluation.report import TruthComparison
from hetacumn.evaluation.scores import Score, disentanglement, motion_correlations, pose_errors, shift_errors
from hetacumn.network.config import NetworkConfig, TrainConfig
from hetacumn.network.decoder import CoordinateDecoder, VoxelDecoder, imitate
from hetacumn.network.encoder import Encoder, Hypotheses, TemplateStem
from hetacumn.network.losses import (
    DrawnImages,
    LatentDraws,
    PosePrediction,
    Reconstruction,
    StepLosses,
    kl_divergence,
    pose_distance,
)
from hetacumn.network.model import HetACUMN, build_model
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.prediction.classes import Classes, Mixture, class_centres, classify_by_likelihood
from hetacumn.prediction.inference import Climbed
from hetacumn.prediction.request import EarlierPrediction
from hetacumn.search.state import State

BOX = 8
PLANE = HalfPlane(BOX)
M = len(PLANE)
NETWORK = NetworkConfig(hypotheses=3, templates=8, width=16)
ONE = torch.zeros(())
MIXTURE = Mixture(torch.ones(2) / 2, torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3))
CLASSES = torch.tensor([0, 1, 0, 1, 0])


def poses(n: int) -> Poses:
    return Poses(torch.eye(3).expand(n, 3, 3), torch.zeros(n, 2))


def packed(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.complex64)


def hypotheses(n: int, count: int = 3) -> Hypotheses:
    return Hypotheses(torch.eye(3).expand(n, count, 3, 3), torch.zeros(n, count, 2), torch.zeros(n, count))


def observations(n: int) -> Observations:
    return Observations(packed(n, M), torch.ones(n, M), PLANE)


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(PLANE, 2, NETWORK)


def model() -> HetACUMN:
    torch.manual_seed(0)
    return build_model(TrainConfig(latent_dim=2, network=NETWORK, feedback=False), BOX, torch.rand(3, BOX, BOX, BOX))


def voxel() -> VoxelDecoder:
    return VoxelDecoder(torch.rand(3, BOX, BOX, BOX))


def coordinate() -> CoordinateDecoder:
    return CoordinateDecoder(BOX, 2, width=8)


def a_score() -> Score:
    return Score({}, np.zeros((2, 2), int), torch.zeros(5), torch.zeros(2, 4), torch.zeros(2, 8, 8, 8))


RIGHT = {
    "hypotheses": lambda: hypotheses(4).best(),
    "features of packed images": lambda: encoder().features(packed(4, M), torch.ones(4, M)),
    "poses given latents": lambda: encoder().pose(torch.zeros(4, 16), torch.zeros(4, 2)),
    "responses of filters": lambda: TemplateStem(PLANE, 8, 0.4)(packed(4, M)),
    "volumes of latents": lambda: (voxel().volumes(torch.zeros(4, 2)), coordinate().volumes(torch.zeros(1, 2))),
    "a basis": lambda: (voxel().linear_basis(), coordinate().linear_basis()),
    "slices of a decoder": lambda: voxel().drawing()(torch.zeros(4, 2), torch.eye(3).expand(4, 3, 3), PLANE.k),
    "a start of a decoder": lambda: voxel().start_from(
        torch.rand(3, BOX, BOX, BOX), torch.zeros(9, 2), PLANE.k, torch.Generator()
    ),
    "an imitation": lambda: imitate(
        coordinate(), torch.rand(3, BOX, BOX, BOX), torch.zeros(9, 2), PLANE.k, torch.Generator(), steps=1
    ),
    "the KL of latents": lambda: kl_divergence(torch.zeros(4, 2), torch.zeros(4, 2)),
    "distances of poses": lambda: pose_distance(hypotheses(4), poses(4)),
    "losses of an image": lambda: (Reconstruction(ONE, ONE, ONE, ONE), PosePrediction(ONE, ONE), StepLosses(pose=ONE)),
    "draws": lambda: (LatentDraws(torch.ones(5, M), torch.zeros(9, 2), 1.0), LatentDraws(torch.ones(5, M), None, 1.0)),
    "drawn images": lambda: DrawnImages(torch.zeros(4, 2), poses(4), packed(4, M), torch.ones(4, M)),
    "rendered images": lambda: model().render(torch.zeros(4, 2), poses(4), torch.ones(4, M), PLANE),
    "task 1": lambda: model().reconstruct(observations(4), 3.0, torch.zeros(4, 2), 1.0),
    "task 2": lambda: model().predict_drawn_poses(8, LatentDraws(torch.ones(5, M), None, 1.0), PLANE, torch.Generator()),
    "a mixture": lambda: MIXTURE.probabilities(torch.zeros(5, 3)),
    "classes": lambda: Classes(torch.ones(5, 2), torch.zeros(2, 3), MIXTURE).labels,
    "centres of classes": lambda: class_centres(torch.rand(9, 3), 2),
    "log-likelihoods of classes": lambda: classify_by_likelihood(torch.zeros(5, 2), torch.zeros(2, 3)),
    "an earlier prediction": lambda: EarlierPrediction(torch.zeros(4, 8, 8, 8), torch.zeros(2, 3), MIXTURE),
    "states at their peaks": lambda: Climbed(State(poses(5), torch.zeros(5, 2)), torch.zeros(5)),
    "a score": lambda: a_score(),
    "errors of poses": lambda: pose_errors(poses(5).rotations, poses(5).rotations),
    "errors of shifts": lambda: shift_errors(torch.rand(9, 2), torch.rand(9, 2), torch.linalg.qr(torch.rand(9, 3, 3)).Q),
    "motions": lambda: motion_correlations(torch.rand(20, 3), torch.rand(20, 2)),
    "latents and views": lambda: disentanglement(np.zeros((9, 0)), np.zeros(9, int), poses(9).rotations),
    "volumes in the units of images": lambda: scale_to_images(torch.zeros(2, 16, 16, 16), 8, 1.0),
    "class volumes": lambda: class_volumes(observations(5), poses(5), CLASSES),
    "motions beside the truth": lambda: TruthComparison(("a",), torch.zeros(9, 1), torch.zeros(9, 1), [1.0], {}),
}

WRONG = {
    "logits of other hypotheses": lambda: replace(hypotheses(4), logits=torch.zeros(4, 2)),
    "shifts in three dimensions": lambda: replace(hypotheses(4), shifts_px=torch.zeros(4, 3, 3)),
    "real numbers for a choice": lambda: hypotheses(4).pick(torch.zeros(4)),
    "images in pixels": lambda: encoder().features(torch.zeros(4, M), torch.ones(4, M)),
    "CTFs of other images": lambda: encoder().features(packed(4, M), torch.ones(3, M)),
    "latents of another space": lambda: encoder().pose(torch.zeros(4, 16), torch.zeros(4, 3)),
    "latents of other images": lambda: encoder().pose(torch.zeros(4, 16), torch.zeros(5, 2)),
    "one image without a batch": lambda: TemplateStem(PLANE, 8, 0.4)(packed(M)),
    "volumes of another latent space": lambda: voxel().volumes(torch.zeros(4, 3)),
    "a latent without a batch": lambda: coordinate().volumes(torch.zeros(2)),
    "one volume for a basis": lambda: VoxelDecoder(torch.rand(BOX, BOX, BOX)),
    "a start of another box": lambda: voxel().start_from(
        torch.rand(3, BOX + 2, BOX + 2, BOX + 2), torch.zeros(9, 2), PLANE.k, torch.Generator()
    ),
    "an imitation in another space": lambda: imitate(
        coordinate(), torch.rand(3, BOX, BOX, BOX), torch.zeros(9, 3), PLANE.k, torch.Generator(), steps=1
    ),
    "means and variances of two spaces": lambda: kl_divergence(torch.zeros(4, 2), torch.zeros(4, 3)),
    "losses of each image": lambda: Reconstruction(ONE, ONE, torch.zeros(4), ONE),
    "a loss of each hypothesis": lambda: StepLosses(pose=torch.zeros(3)),
    "one CTF for a stack": lambda: LatentDraws(torch.ones(M), None, 1.0),
    "drawn images of other latents": lambda: DrawnImages(torch.zeros(3, 2), poses(4), packed(4, M), torch.ones(4, M)),
    "real drawn images": lambda: DrawnImages(torch.zeros(4, 2), poses(4), torch.zeros(4, M), torch.ones(4, M)),
    "CTFs of other rendered images": lambda: model().render(torch.zeros(4, 2), poses(4), torch.ones(5, M), PLANE),
    "noise of another latent space": lambda: model().reconstruct(observations(4), 3.0, torch.zeros(4), 1.0),
    "a model of another box": lambda: build_model(TrainConfig(latent_dim=2, network=NETWORK), BOX, torch.rand(3, 6, 6, 6)),
    "covariances of another space": lambda: replace(MIXTURE, covariances=torch.eye(2).expand(2, 2, 2)),
    "weights of other classes": lambda: replace(MIXTURE, weights=torch.ones(3)),
    "centres of other classes": lambda: Classes(torch.ones(5, 2), torch.zeros(3, 3)),
    "log-likelihoods of other classes": lambda: classify_by_likelihood(torch.zeros(5, 3), torch.zeros(2, 3)),
    "centres outside the basis": lambda: EarlierPrediction(torch.zeros(4, 8, 8, 8), torch.zeros(2, 4), None),
    "a log joint for each latent": lambda: Climbed(State(poses(5), torch.zeros(5, 2)), torch.zeros(5, 2)),
    "curves of other classes": lambda: replace(a_score(), fsc=torch.zeros(3, 4)),
    "poses of two lengths": lambda: pose_errors(poses(5).rotations, poses(4).rotations),
    "shifts with a depth": lambda: shift_errors(torch.rand(9, 3), torch.rand(9, 3), poses(9).rotations),
    "motions of other particles": lambda: motion_correlations(torch.rand(20, 3), torch.rand(19, 2)),
    "views of other particles": lambda: disentanglement(np.zeros((9, 0)), np.zeros(9, int), poses(8).rotations),
    "one volume for the classes": lambda: scale_to_images(torch.zeros(16, 16, 16), 8, 1.0),
    "real numbers for classes": lambda: class_volumes(observations(5), poses(5), CLASSES.float()),
    "motions of other numbers": lambda: TruthComparison(("a",), torch.zeros(9, 2), torch.zeros(9, 1), [1.0], {}),
}


@pytest.mark.parametrize("call", RIGHT.values(), ids=RIGHT)
def test_correct_shapes_pass(call):
    call()


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_wrong_shapes_fail_in_the_checker(call):
    with pytest.raises(TypeCheckError):
        call()
