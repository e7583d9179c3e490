"""The hand of a result: mirrored volumes, maps and poses.

Images do not determine the hand of a molecule. The projection of the mirrored volume ``V(-x)`` at the pose ``MIRROR R`` equals
the projection of ``V(x)`` at ``R``, so that a mirrored result fits the images equally well.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import make_folder, write_json
from hetacumn.common.provenance import provenance
from hetacumn.common.run_files import read_json, read_run
from hetacumn.io.mrc import read_mrc, write_mrc
from hetacumn.particles.predictions import Predictions
from hetacumn.physics.rotations import MIRROR
from hetacumn.physics.volumes import mirror
from hetacumn.prediction.answer import Answer
from hetacumn.reconstruction.maps import NOTE, UNDER_WAY, VOLUMES

PREDICTIONS = "predictions.star"


def flip_hand(answer: Answer, out: Path | str) -> Answer:
    """Write the mirror image of a result to a new folder, and return the new result.

    The function mirrors the volumes and the poses; shifts, classes and latents stay. It also mirrors the maps of finished
    reconstructions in subfolders, such as ``maps`` and ``motion_1``. It copies neither the trained model, whose hand does not
    change, nor the files of a report. ``run.json`` names no model, so that no prediction combines the model with these volumes.

    Raises:
        HetacumnError: ``out`` is not an empty or new folder, or a file is missing.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise HetacumnError(f"{out}: not empty; expected a new folder for the mirrored result")
    make_folder(out)
    _mirror_volumes(answer.folder, out)
    for note in sorted(answer.folder.glob(f"*/{NOTE}")):
        if not (note.parent / UNDER_WAY).exists():
            _mirror_reconstruction(answer, note.parent, out / note.parent.name)
    facts = {name: value for name, value in read_run(answer.folder).items() if name != "model"}
    write_json(out / "run.json", {**facts, "prepared": str(answer.stack.folder), "flipped_from": str(answer.folder)})
    _mirror_poses(answer, answer.predictions, out)  # written last: the file of the predictions marks a complete folder
    return Answer.open(out, answer.stack.folder)


def _mirror_volumes(folder: Path, out: Path) -> None:
    for path in sorted((folder / VOLUMES).glob("*.mrc")):
        volume, voxel_A = read_mrc(path)
        write_mrc(make_folder(out / VOLUMES) / path.name, mirror(volume), voxel_A)


def _mirror_reconstruction(answer: Answer, folder: Path, out: Path) -> None:
    """Mirror the maps and poses of a reconstruction, and copy its tables and scripts."""
    make_folder(out)
    _mirror_volumes(folder, out)
    if (folder / PREDICTIONS).is_file():
        _mirror_poses(answer, Predictions.read(folder), out)
    for path in [path for kind in ("csv", "cxc") for path in folder.glob(f"*.{kind}") if not (out / path.name).exists()]:
        shutil.copy(path, out)
    kind = read_json(folder / NOTE, "the record of a reconstruction")["kind"]
    write_json(out / NOTE, {"kind": kind, "flipped_from": str(folder), **provenance()})


def _mirror_poses(answer: Answer, predictions: Predictions, out: Path) -> None:
    rotations = MIRROR.to(predictions.rotations) @ predictions.rotations
    stack = answer.stack
    replace(predictions, rotations=rotations).write(out, stack.source, data_dir=stack.data_dir or None)
