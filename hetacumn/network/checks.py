"""Checks, before any file is written, that a training run can continue from the files in its folder.

Training refuses a folder whose files belong to another stack or to other settings, but only after the preparation of the stack.
By then, preparation would have replaced the stack that the predictions of the earlier run refer to. The checks of this module
therefore run first. They compare the values known before preparation: the source of the stack, its preprocessing and the
settings of training. The fingerprint of the stack is known only after preparation.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from hetacumn.ab_initio.start import MODEL, START, UnfinishedStart, check_settings, load_start, saved_settings
from hetacumn.common.errors import HetacumnError
from hetacumn.common.run_files import read_config
from hetacumn.io.mrc import read_mrc
from hetacumn.network.config import TrainConfig
from hetacumn.network.model_files import CHECKPOINT, checkpoint_settings, read_checkpoint
from hetacumn.network.training import TrainingJob, start_settings
from hetacumn.particles.prepared_stack import read_made_from, table_digest
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.search.focus import MASK, read_mask

SAME_MASK = 0.01  # largest difference between the voxels of two equal masks
REMEDY = "delete it to begin anew, or choose another folder"


def check_training(job: TrainingJob, settings: Preprocessing, source: Path | str, prepared: Path | str) -> None:
    """Refuse a training run that cannot continue from the files in its folder, before any file is prepared or written.

    Args:
        job: the training job; its ``out`` may hold a finished run, a checkpoint, a start, or nothing.
        settings: the requested preprocessing of the stack.
        source: the table of the particles.
        prepared: the folder of the prepared stack. If it lies in ``out``, its source and settings must match the run.

    Raises:
        HetacumnError: a file does not fit the requested run; the message names the file and the setting that differs.
    """
    out = Path(job.out)
    variants = job.config.variants()  # the images, not yet read, decide which variant applies
    job.initial.check_files(source)
    if job.initial.mask:
        _check_mask(Path(job.initial.mask), out / MASK)
    if job.config.warm_start or job.method == "em":
        _check_start(job, variants, settings)
    if job.method != "em" and (out / CHECKPOINT).exists():
        if (path := Path(job.start or out) / START).exists() and job.config.warm_start:
            start = load_start(path)  # training uses the values that the start found
            variants = tuple(config.with_start(start) for config in variants)
        if read_checkpoint(out / CHECKPOINT)["config"] not in map(checkpoint_settings, variants):
            raise HetacumnError(f"{out / CHECKPOINT}: from a run with other settings; {REMEDY}")
    if (out / "config.json").exists():  # written at the end of a run
        _check_finished(out / "config.json", settings)
    if Path(prepared).resolve().is_relative_to(out.resolve()) and _holds_run(out):
        _check_prepared(Path(prepared), settings, Path(source))


def _holds_run(out: Path) -> bool:
    """Return whether a folder holds a finished or an interrupted run."""
    return bool(UnfinishedStart.files(out)) or any((out / name).exists() for name in (START, CHECKPOINT, MODEL))


def _check_start(job: TrainingJob, variants: tuple[TrainConfig, ...], settings: Preprocessing) -> None:
    """Refuse a start whose settings, box or number of components are not the requested ones."""
    path = Path(job.start or job.out) / START
    requested = [start_settings(config, job.initial) for config in variants]
    if not job.start:
        for file in [path] if path.exists() else UnfinishedStart.files(path.parent):
            saved = saved_settings(file)
            check_settings(file, saved, min(requested, key=lambda one: _differences(saved, one)))
    if job.start or path.exists():
        basis = load_start(path).basis
        if settings.box not in (None, basis.shape[-1]):
            raise HetacumnError(f"{path}: made with stack.box {basis.shape[-1]}; expected {settings.box}; {REMEDY}")
        outside = job.initial.outside_components if job.initial.mask else 0
        found, expected = len(basis) - 1 - outside, job.config.latent_dim
        if expected not in (0, found):
            raise HetacumnError(f"{path}: the start has {found} components; expected {expected}, the value of latent_dim")


def _check_mask(mask: Path, own: Path) -> None:
    """Refuse a mask in the file ``own`` that the run writes, and a mask that differs from the mask of an existing run."""
    if mask.resolve() == own.resolve():
        raise HetacumnError(f"{own}: the run writes this file; expected the mask in another file")
    if own.exists() and _holds_run(own.parent):
        saved, voxel_A = read_mrc(own)
        if not torch.allclose(read_mask(mask, len(saved), voxel_A), saved, rtol=0, atol=SAME_MASK):
            raise HetacumnError(
                f"{mask}: differs from {own}, the mask of the run; delete the run to begin anew, or choose another folder"
            )


def _differences(saved: dict, requested: dict) -> int:
    """Count the settings that differ."""
    return sum(saved.get(name) != value for name, value in requested.items())


def _check_finished(path: Path, settings: Preprocessing) -> None:
    """Refuse a finished run whose images have another box or preprocessing than requested."""
    facts = read_config(path.parent)
    if settings.box not in (None, facts["box"]):
        raise HetacumnError(
            f"{path}: a run made with stack.box {facts['box']}; expected {settings.box}; delete its folder to "
            "begin anew, or choose another folder"
        )
    _compare(path, facts.get("preprocessing"), settings)


def _check_prepared(folder: Path, settings: Preprocessing, source: Path) -> None:
    """Refuse a preparation that would replace the stack of an existing run by another stack."""
    made_from = read_made_from(folder)
    if made_from is None:
        return
    _compare(folder, made_from["settings"], settings)
    if source.exists() and made_from.get("table", digest := table_digest(source)) != digest:
        raise HetacumnError(
            f"{folder}: prepared from another table than {source}, and used by an existing run; choose another folder"
        )


def _compare(path: Path, saved: dict | None, settings: Preprocessing) -> None:
    """Raise :class:`HetacumnError` for the first saved preprocessing setting that is not the requested one."""
    requested = json.loads(json.dumps(asdict(settings)))
    known = {**requested, **(saved or {})}
    differing = [name for name in requested if known[name] != requested[name]]
    if differing:
        name = differing[0]
        raise HetacumnError(
            f"{path}: made with stack.{name} {known[name]!r}; expected {requested[name]!r}; delete the run to "
            "begin anew, or choose another folder"
        )
