"""A run of another program on one stack, with the output files that all methods have in common."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.baselines import cryodrgn, relion
from hetacumn.baselines.process import Outcome
from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import write_json
from hetacumn.common.provenance import git_commit
from hetacumn.common.settings import read_settings
from hetacumn.io.mrc import write_volumes
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations, observe
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.volumes import soft_sphere
from hetacumn.reconstruction.back_projection import back_project

PROGRAMS = ("relion", "cryodrgn")


@dataclass(frozen=True)
class PeerTask:
    """The input and the limits of a program.

    - ``source``: table of the particles.
    - ``images``: preprocessing of the images.
    - ``classes``: number of classes to find.
    - ``seconds``: limit of processor time in seconds.
    - ``venv``: folder of the environment with cryoDRGN.
    """

    source: Path | str
    images: Preprocessing
    classes: int
    seconds: float
    venv: Path | str


def run_peer(settings: dict, task: PeerTask, out: Path | str) -> Predictions | None:
    """Run a program on a task; return its predictions, or None if the program returned none.

    ``settings`` contains ``program`` (relion or cryodrgn) and fields of the config of this program. The function writes to
    ``out``:

    - the predictions;
    - class volumes, which the weighted back-projection of this package computes at the poses and classes of the program;
    - ``run.json``: the seconds, whether the program finished, and the reason (``no_answer``) if there are no predictions.

    If the program is missing or fails, the function raises no error, so that the benchmark continues with other programs.
    ``<out>.work`` contains the files that the program reads and writes, and its log. Each call first removes the program's
    files of an earlier call.

    Raises:
        HetacumnError: ``settings`` names an unknown program or setting, or the particles cannot be prepared.
    """
    out = Path(out)
    work = out.with_name(f"{out.name}.work")
    settings = dict(settings)
    program = settings.pop("program", None)
    if program not in PROGRAMS:
        raise HetacumnError(f"program is '{program}'; expected one of {', '.join(PROGRAMS)}")
    run = _runner(program, settings, task)
    data = prepare_stack(task.source, work / "stack", task.images)
    for earlier in (work / "run", out / "volumes"):  # files of an earlier run
        shutil.rmtree(earlier, ignore_errors=True)
    for name in ("predictions.star", "latents.csv", "run.json"):
        (out / name).unlink(missing_ok=True)
    facts = {
        "given_seconds": task.seconds,
        "finished": False,
        "device": "cpu, 1 thread",
        "settings": settings,
        "git_commit": git_commit(),
    }
    try:
        found, outcome = run(data, work / "run")
    except HetacumnError as error:
        write_json(out / "run.json", {**facts, "no_answer": str(error)})
        return None
    found.write(out, task.source)
    observations = observe(data.read())
    poses = Poses(found.rotations, data.metadata.shifts_in_prepared_A(found.shifts_A) / data.pixel_A)
    write_volumes(out / "volumes", class_volumes(observations, poses, found.classes), "class_", data.pixel_A)
    write_json(
        out / "run.json",
        {
            **facts,
            "train_seconds": round(outcome.seconds, 1),
            "clock_seconds": round(outcome.clock_seconds, 1),
            "finished": outcome.finished,
        },
    )
    return found


def _runner(program: str, settings: dict, task: PeerTask) -> Callable[[PreparedStack, Path], tuple[Predictions, Outcome]]:
    """Read the settings of a program; return a function that runs the program on a prepared stack, in an output folder."""
    if program == "relion":
        relion_config = read_settings(relion.RelionConfig, settings, "relion.")
        return lambda data, out: relion.run(data, out, task.classes, 0.9 * data.box * data.pixel_A, task.seconds, relion_config)
    cryodrgn_config = read_settings(cryodrgn.CryodrgnConfig, settings, "cryodrgn.")
    return lambda data, out: cryodrgn.run(data, out, task.classes, task.seconds, task.venv, cryodrgn_config)


def class_volumes(data: Observations, poses: Poses, classes: Int[Tensor, " n"]) -> Float[Tensor, "k box box box"]:
    """Reconstruct each class by weighted back-projection; the volume of a class without images is zero."""
    box = data.plane.box
    volumes = torch.zeros(int(classes.max()) + 1, box, box, box, device=data.y.device)
    for k in classes.unique().tolist():
        rows = (classes == k).nonzero().squeeze(1)
        volumes[k] = back_project(data[rows], poses[rows]) * soft_sphere(box, device=volumes.device)
    return volumes
