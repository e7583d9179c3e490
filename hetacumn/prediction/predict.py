"""Prediction of a whole stack with a trained model, on one device or in several processes, and the output files.

With several processes, torchrun starts :func:`main` in each process, and :func:`work` does the part of that process.
``<out>/job-predict.json`` describes the job; see :mod:`hetacumn.compute.launching`.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import make_folder, write_json
from hetacumn.common.memory import keep_freed_memory, peak_memory_mb
from hetacumn.common.provenance import git_commit
from hetacumn.common.run_files import read_run
from hetacumn.compute.launching import ONE_DEVICE, DeviceRequest, launch, run_process
from hetacumn.compute.precision import multiply_fast
from hetacumn.compute.processes import SINGLE_PROCESS, ProcessGroup
from hetacumn.io.mrc import write_volumes
from hetacumn.network.model_files import TrainedModel, load_model
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack, reopen
from hetacumn.prediction.answer import RATE, Answer
from hetacumn.prediction.landscape import latent_path
from hetacumn.prediction.request import FITTED, OUTSIDE, EarlierPrediction, PredictionRequest, model_digest
from hetacumn.prediction.search_model import SearchModel, load_em
from hetacumn.prediction.stack_inference import StackInference
from hetacumn.prediction.trust import TRUST, doubts, measure_trust, settled_of_images, to_json
from hetacumn.search.focus import Focus
from hetacumn.search.initial import InitialSettings, given_poses, pose_change

SAME_PIXEL = 0.02  # largest relative difference of two pixel sizes that count as equal


def predict_stack(
    stack: PreparedStack,
    model: Path | str,
    request: PredictionRequest,
    out: Path | str,
    device: torch.device | str = "cpu",
    group: ProcessGroup = SINGLE_PROCESS,
) -> Answer:
    """Predict every particle of a prepared stack with the model in the folder ``model``, and write the result to ``out``.

    The function reads the images in chunks and keeps only a few numbers per particle in memory. Each process of a ``group``
    calls this function and infers its part of every chunk; the leader writes the files. Grades in ``FITTED`` refit the volumes
    to the poses of the first chunk, whose particles are spread evenly over the stack. ``out/volumes`` receives the class
    volumes, the volumes along the first axis of the latent space, and the basis of V(z): the mean, then the components. If the
    model has a mask, z contains the coordinates inside the mask, and ``outside_*.mrc`` are the components outside.
    The rate in particles per second includes inference and excludes the reading of files. At the end, the function tests the
    poses of each class (:mod:`hetacumn.prediction.trust`); the leader warns of each class whose poses are not determined.

    If the model was trained at fixed poses, grades in ``FITTED`` keep the poses in the particle table.

    Raises:
        HetacumnError: the stack does not fit the model (box, pixel size, number of classes), has fewer particles than
            ``group`` has processes, or lacks the angles that fixed poses need.
    """
    keep_freed_memory()
    multiply_fast(torch.device(device))
    out = make_folder(out)
    trained = load_em(model, device) if request.grade == "searched" else load_model(model, device)
    _check_images(stack, trained, model)
    digest = model_digest(model, request.grade)
    earlier = None if request.like is None else EarlierPrediction.read(request.like, digest, request.grade)
    classes = _number_of_classes(stack, trained, request)
    if len(stack) < group.size:
        raise HetacumnError(
            f"{stack.folder}: {len(stack)} particles for {group.size} devices; expected at least one per device"
        )
    initial = InitialSettings.of_run(model)
    fixed = given_poses(stack, device) if initial.poses == "fixed" and request.grade in FITTED else None
    focus = Focus.of_run(model)
    inference = StackInference(stack, trained, request, classes, earlier, torch.device(device), group, fixed, focus)
    state, ratios, usable = inference.infer()
    latents = focus.inside(state.latents.cpu())
    found = inference.classify(latents, usable)
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
        basis=inference.basis[: 1 + latents.shape[1]].cpu(),
        voxel_A=stack.pixel_A,
        particles_per_second=len(stack) / max(group.gather(inference.seconds)),
    )
    trust = measure_trust(answer, usable, trained.config.ab_initio, trained.config.seed, device, group)
    predictions = replace(predictions, class_settled=settled_of_images(trust, predictions.classes))
    answer = replace(answer, predictions=predictions, trust=trust)
    if group.is_leader:
        symmetry = trained.config.ab_initio.consensus.symmetry
        write_volumes(out / "volumes", inference.basis[1 + latents.shape[1] :], OUTSIDE, stack.pixel_A)
        known = stack.metadata.poses if initial.takes_poses else None
        _write(answer, model, {
            TRUST: to_json(trust), "model": digest, "grade": request.grade, "class_centres": found.centres.tolist(),
            "class_mixture": None if found.mixture is None else found.mixture.content(),
            **({} if known is None else {"pose_change": pose_change(state.poses.to("cpu"), known, symmetry)}),
        })  # fmt: skip
        for message in doubts(trust):
            warnings.warn(message, stacklevel=2)
    return answer


def _write(answer: Answer, model: Path | str, facts: dict) -> None:
    """Write the files of a prediction; ``run.json`` combines the entries of the training run with those of this prediction."""
    out, stack, run = answer.folder, answer.stack, read_run(model)
    answer.predictions.write(out, stack.source, data_dir=stack.data_dir or None)
    for stem, volumes in (("class_", answer.class_volumes), ("path_", answer.path_volumes), ("basis_", answer.basis)):
        write_volumes(out / "volumes", volumes, stem, answer.voxel_A)
    prediction = {"prepared": str(stack.folder), RATE: round(answer.particles_per_second),
           "peak_memory_mb": max(round(peak_memory_mb()), run.get("peak_memory_mb", 0))}  # fmt: skip
    write_json(out / "run.json", {**run, **prediction, **facts, "git_commit": git_commit()})


def _number_of_classes(stack: PreparedStack, trained: TrainedModel | SearchModel, request: PredictionRequest) -> int:
    """Return the requested number of classes, or the number of the training run."""
    if request.like is not None:
        return trained.config.classes
    count = trained.config.classes if request.classes is None else request.classes
    if not isinstance(count, int) or not 1 <= count <= len(stack):
        raise HetacumnError(f"{count} classes for {len(stack)} particles; expected 1 to {len(stack)}")
    return count


def _check_images(stack: PreparedStack, trained: TrainedModel | SearchModel, model: Path | str) -> None:
    """Raise :class:`HetacumnError` if the box or the pixel size of the stack differs from those of the training images."""
    if stack.box != trained.box:
        raise HetacumnError(
            f"{stack.folder}: images of {stack.box} px; expected {trained.box}, the box that {model} was trained on"
        )
    if abs(stack.pixel_A / trained.pixel_A - 1) > SAME_PIXEL:
        raise HetacumnError(
            f"{stack.folder}: pixels of {stack.pixel_A:.4g} Å; expected {trained.pixel_A:.4g} Å, the pixel size that {model} "
            "was trained on"
        )


@dataclass(frozen=True)
class PredictionJob:
    """A prediction to run: the folder of the trained ``model``, the ``request``, and the output folder ``out``."""

    model: Path | str
    request: PredictionRequest
    out: Path | str

    def to_json(self) -> dict:
        """Return the fields by name, as values for JSON."""
        like = self.request.like and str(self.request.like)
        return {"model": str(self.model), "out": str(self.out), "request": {**asdict(self.request), "like": like}}

    @classmethod
    def from_json(cls, content: dict) -> PredictionJob:
        """Create a job from the result of :meth:`to_json`."""
        return cls(**{**content, "request": PredictionRequest(**content["request"])})


def run_prediction(stack: PreparedStack, job: PredictionJob, devices: DeviceRequest = ONE_DEVICE) -> Answer:
    """Predict a stack on the requested devices; see :func:`~hetacumn.prediction.predict.predict_stack`."""
    if devices.count == 1:
        return work(stack, job, devices.check(), SINGLE_PROCESS)
    content = {"stack": str(stack.folder), **job.to_json()}
    launch("hetacumn.prediction.predict", Path(job.out) / "job-predict.json", content, devices)
    return Answer.open(job.out, stack.folder)


def work(stack: PreparedStack, job: PredictionJob, device: torch.device, group: ProcessGroup) -> Answer:
    """Run the part of one process in a job; return the result."""
    return predict_stack(stack, job.model, job.request, job.out, device, group)


def main(path: str) -> int:
    """Run the part of this process, started by torchrun, in the job of the file ``path``; return the exit status."""

    def part(content: dict, device: torch.device, group: ProcessGroup) -> None:
        work(reopen(content.pop("stack")), PredictionJob.from_json(content), device, group)

    return run_process(path, part)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
