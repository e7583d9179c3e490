"""One other program on one stack, from particles to the files that every method leaves."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hetacumn.baselines import cryodrgn, relion
from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import write_json
from hetacumn.common.provenance import git_commit
from hetacumn.common.settings import read_settings
from hetacumn.io.mrc import write_volumes
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations, observe
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.volumes import soft_sphere
from hetacumn.reconstruction.back_projection import back_project

PROGRAMS = {"relion": relion.RelionConfig, "cryodrgn": cryodrgn.CryodrgnConfig}


@dataclass(frozen=True)
class PeerTask:
    """What a program is given: the particles of the table ``source``, prepared as ``images`` says, the number of ``classes`` to
    look for, at most ``seconds`` of a core, and the environment ``venv`` of cryoDRGN."""

    source: Path | str
    images: Preprocessing
    classes: int
    seconds: float
    venv: Path | str


def run_peer(settings: dict, task: PeerTask, out: Path | str) -> Predictions | None:
    """Run a program on a task; return its predictions, or None where it gave none.

    ``settings``: ``program`` is relion or cryodrgn, the rest are fields of its config. Leaves in ``out`` the predictions,
    class volumes (our weighted back-projection at its poses and classes) and ``run.json``: seconds, whether the program
    finished, and, where it gave no answer, the reason. A missing or failing program raises no error: other programs go on.
    ``<out>.work`` holds the files that the program reads and writes, and its log; it begins anew each time.
    """
    out = Path(out)
    work = out.with_name(f"{out.name}.work")
    settings = dict(settings)
    program = settings.pop("program", None)
    if program not in PROGRAMS:
        raise HetacumnError(f"program is '{program}'; expected one of {', '.join(PROGRAMS)}")
    config = read_settings(PROGRAMS[program], settings, f"{program}.")
    data = prepare_stack(task.source, work / "stack", task.images)
    for earlier in (work / "run", out / "volumes"):  # of an earlier run
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
        if program == "relion":
            diameter_A = 0.9 * data.box * data.pixel_A
            found, outcome = relion.run(data, work / "run", task.classes, diameter_A, task.seconds, config)
        else:
            found, outcome = cryodrgn.run(data, work / "run", task.classes, task.seconds, task.venv, config)
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


def class_volumes(data: Observations, poses: Poses, classes: Tensor) -> Tensor:
    """Back-project the images of each class: ``(k, box, box, box)``, 0 for a class without images."""
    box = data.plane.box
    volumes = torch.zeros(int(classes.max()) + 1, box, box, box, device=data.y.device)
    for k in classes.unique().tolist():
        rows = (classes == k).nonzero().squeeze(1)
        volumes[k] = back_project(data[rows], poses[rows]) * soft_sphere(box, device=volumes.device)
    return volumes
