"""Prediction of a whole stack under the model of a folder: any number of particles, on one device or several; its files."""

from __future__ import annotations

from pathlib import Path

import torch

from hetacumn.answer import RATE, Answer
from hetacumn.earlier_prediction import EarlierPrediction, model_digest
from hetacumn.errors import HetacumnError
from hetacumn.landscape import latent_path
from hetacumn.mrc import write_volumes
from hetacumn.predictions import Predictions
from hetacumn.prepared_stack import PreparedStack
from hetacumn.project import git_commit, keep_freed_memory, make_folder, peak_memory_mb, write_json
from hetacumn.run_folder import SearchModel, TrainedModel, load_em, load_model, read_run
from hetacumn.stack_inference import PredictionRequest, StackInference
from hetacumn.team import ALONE, Team

SAME_PIXEL = 0.02  # relative difference of pixel sizes from which on fields of view differ


def predict_stack(
    stack: PreparedStack, model: Path | str, request: PredictionRequest, out: Path | str, device: torch.device | str = "cpu",
    team: Team = ALONE,
) -> Answer:
    """Predict every particle of a prepared stack under the model of a folder, and write the answer into ``out``.

    Images are read a chunk at a time; what stays in memory is a few numbers a particle. Each process of a ``team`` calls this
    function and infers its part of every chunk; the leader writes. Grades in ``FITTED`` refit the volumes to the poses of the
    first chunk, which is spread over the stack. Volumes go to ``out/volumes``: of the classes, along the first axis of the
    latent space, and the basis (mean, then components) of V(z). The rate counts inference, not the reading of files.
    """
    keep_freed_memory()
    out = make_folder(out)
    trained = (load_em if request.grade == "searched" else load_model)(model, device)
    _check_images(stack, trained, model)
    digest = model_digest(model, request.grade)
    earlier = None if request.like is None else EarlierPrediction.read(request.like, digest, request.grade)
    classes = _number_of_classes(stack, trained, request)
    if len(stack) < team.size:
        raise HetacumnError(f"{stack.folder}: {len(stack)} particles for {team.size} devices; expected one for each at least")
    inference = StackInference(stack, trained, request, classes, earlier, torch.device(device), team)
    state, ratios = inference.infer()
    latents = state.latents.cpu()
    found = inference.classify(latents)
    shifts_A = stack.metadata.shifts_in_source_A(state.poses.shifts_px.cpu() * stack.pixel_A)
    predictions = Predictions(
        names=stack.metadata.names, rotations=state.poses.rotations.cpu(), shifts_A=shifts_A, classes=found.labels,
        latents=latents, class_probabilities=found.probabilities.amax(1).float(), log_ratios=ratios,
    )  # fmt: skip
    answer = Answer(
        folder=out,
        stack=stack,
        predictions=predictions,
        class_volumes=inference.volumes(found.centres),
        path_volumes=inference.volumes(latent_path(latents, request.path_points)),
        basis=inference.basis.cpu(),
        voxel_A=stack.pixel_A,
        particles_per_second=len(stack) / max(team.gather(inference.seconds)),
    )
    if team.leads:
        _write(answer, model, {
            "model": digest, "grade": request.grade, "class_centres": found.centres.tolist(),
            "class_mixture": None if found.mixture is None else found.mixture.content(),
        })  # fmt: skip
    return answer


def _write(answer: Answer, model: Path | str, facts: dict) -> None:
    """Write the files of an answer; ``run.json`` has the facts of the model's run, and those of this prediction."""
    out, stack, run = answer.folder, answer.stack, read_run(model)
    answer.predictions.write(out, stack.source, data_dir=stack.data_dir or None)
    for stem, volumes in (("class_", answer.class_volumes), ("path_", answer.path_volumes), ("basis_", answer.basis)):
        write_volumes(out / "volumes", volumes, stem, answer.voxel_A)
    own = {"prepared": str(stack.folder), RATE: round(answer.particles_per_second),
           "peak_memory_mb": max(round(peak_memory_mb()), run.get("peak_memory_mb", 0))}  # fmt: skip
    write_json(out / "run.json", {**run, **own, **facts, "git_commit": git_commit()})


def _number_of_classes(stack: PreparedStack, trained: TrainedModel | SearchModel, request: PredictionRequest) -> int | None:
    """The requested number of classes, or the trained one; None to let BIC choose."""
    if request.like is not None:
        return trained.config.classes
    if request.classes == 0:
        return None
    count = trained.config.classes if request.classes is None else request.classes
    if not isinstance(count, int) or not 1 <= count <= len(stack):
        raise HetacumnError(f"{count} classes of {len(stack)} particles; expected 1 to {len(stack)}, or 0 to let BIC choose")
    return count


def _check_images(stack: PreparedStack, trained: TrainedModel | SearchModel, model: Path | str) -> None:
    """Raise :class:`HetacumnError` where images have another box or field of view than those of the training."""
    if stack.box != trained.box:
        raise HetacumnError(f"{stack.folder}: images of {stack.box} px; expected {trained.box}, as {model} was trained on")
    if abs(stack.pixel_A / trained.pixel_A - 1) > SAME_PIXEL:
        raise HetacumnError(f"{stack.folder}: pixels of {stack.pixel_A:.4g} Å; expected {trained.pixel_A:.4g}, as {model} was "
                            "trained on: images of the same field of view")
