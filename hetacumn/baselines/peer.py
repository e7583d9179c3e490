"""One peer on one stack, from particles to the files that every method leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from hetacumn.backprojection import back_project
from hetacumn.baselines import cryodrgn, relion
from hetacumn.errors import HetacumnError
from hetacumn.mrc import write_volumes
from hetacumn.observations import Observations, observe
from hetacumn.particles import Poses
from hetacumn.predictions import Predictions
from hetacumn.prepared import prepare
from hetacumn.preprocess import Preprocessing
from hetacumn.project import git_commit, write_json
from hetacumn.settings import read_settings
from hetacumn.volumes import soft_sphere

PROGRAMS = {"relion": relion.RelionConfig, "cryodrgn": cryodrgn.CryodrgnConfig}


def run_peer(settings: dict, source: Path | str, out: Path | str, images: Preprocessing, classes: int, seconds: float,
             venv: Path | str) -> Predictions | None:
    """Run a program on all particles of a file, prepared as ``images`` says, for at most ``seconds`` of a core; its answer, or
    None.

    ``settings``: ``program`` is relion or cryodrgn, the rest fields of its config. Leaves in ``out`` the predictions,
    class volumes (our weighted back-projection at its poses and classes) and ``run.json``: seconds, whether it finished,
    and, where it gave no answer, why. A program that is missing or fails is no error here: the others go on. What it
    reads and writes itself, its log too, is in ``<out>.work``; it begins anew each time.
    """
    out = Path(out)
    work = out.with_name(f"{out.name}.work")
    settings = dict(settings)
    program = settings.pop("program", None)
    if program not in PROGRAMS:
        raise HetacumnError(f"program is '{program}'; expected one of {', '.join(PROGRAMS)}")
    config = read_settings(PROGRAMS[program], settings, f"{program}.")
    data = prepare(source, work / "stack", images)
    for earlier in (work / "run", out / "volumes"):  # what an earlier run left is no answer of this one
        shutil.rmtree(earlier, ignore_errors=True)
    for name in ("predictions.star", "latents.csv", "run.json"):
        (out / name).unlink(missing_ok=True)
    facts = {"given_seconds": seconds, "finished": False, "device": "cpu, 1 thread", "settings": settings,
             "git_commit": git_commit()}
    try:
        if program == "relion":
            diameter_A = 0.9 * data.box * data.pixel_A
            found, outcome = relion.run(data, work / "run", classes, diameter_A, seconds, config)
        else:
            found, outcome = cryodrgn.run(data, work / "run", classes, seconds, venv, config)
    except HetacumnError as error:
        write_json(out / "run.json", {**facts, "no_answer": str(error)})
        return None
    found.write(out, source)
    observations = observe(data.read())
    poses = Poses(found.rotations, data.shifts_in_prepared_A(found.shifts_A) / data.pixel_A)
    write_volumes(out / "volumes", class_volumes(observations, poses, found.classes), "class_", data.pixel_A)
    write_json(out / "run.json", {**facts, "train_seconds": round(outcome.seconds, 1),
                                "clock_seconds": round(outcome.clock_seconds, 1), "finished": outcome.finished})
    return found


def class_volumes(data: Observations, poses: Poses, classes: Tensor) -> Tensor:
    """Back-projections ``(k, box, box, box)`` of the images of each class, 0 for a class without any."""
    box = data.plane.box
    volumes = torch.zeros(int(classes.max()) + 1, box, box, box, device=data.y.device)
    for k in classes.unique().tolist():
        rows = (classes == k).nonzero().squeeze(1)
        volumes[k] = back_project(data[rows], poses[rows]) * soft_sphere(box, device=volumes.device)
    return volumes
