"""The folder of a reconstruction: what it was made from, and whether its files are complete.

``reconstruction.json`` records the input as a digest of all arrays and settings. A reconstruction continues only if its input
is the same, and a finished one is returned only if its files are complete.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import make_folder, write_json
from hetacumn.common.provenance import provenance
from hetacumn.common.run_files import read_json
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.source_images import SourceImages

NOTE = "reconstruction.json"
VOLUMES = "volumes"  # folder of the maps, in the folder of the reconstruction
UNDER_WAY = "under_way"  # folder of the poses and numbers of finished parts, until all parts are finished


@dataclass(frozen=True)
class OutputFolder:
    """The folder of a reconstruction.

    - ``path``: the folder.
    - ``kind``: what it contains, ``maps`` or ``motion``.
    - ``files``: all files of a finished reconstruction, relative to the folder; the last one is written last.
    """

    path: Path
    kind: str
    files: Sequence[str]

    def begin(self, digest: str) -> bool:
        """Record the digest of the input, and remove the files of another input; return whether this input is finished.

        Raises:
            HetacumnError: the folder holds files of another kind, such as predictions.
        """
        make_folder(self.path)
        note = self.path / NOTE
        earlier = read_json(note, "the record of a reconstruction") if note.is_file() else None
        taken = [name for name in (VOLUMES, "predictions.star", "points.csv") if (self.path / name).exists()]
        if (earlier is None and taken) or (earlier is not None and earlier.get("kind") != self.kind):
            raise HetacumnError(
                f"{self.path}: holds other results ({', '.join(taken) or NOTE}); expected an empty folder, or one of earlier "
                f"{self.kind}; choose another folder"
            )
        if earlier is not None and earlier.get("made_from") == digest:
            if all((self.path / name).is_file() for name in self.files):
                return True
            if (self.path / self.files[-1]).is_file():  # finished, but a file is gone
                self._clear()
        else:
            self._clear()
        write_json(note, {"made_from": digest, "kind": self.kind, **provenance()})
        return False

    def _clear(self) -> None:
        for folder in (VOLUMES, UNDER_WAY):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        for name in (*self.files, "fsc.png"):
            (self.path / name).unlink(missing_ok=True)

    def part(self, name: str) -> Path:
        """Return the path of a file of a finished part, which is removed at the end."""
        return self.path / UNDER_WAY / name

    def end(self) -> None:
        """Remove the files of the parts."""
        shutil.rmtree(self.path / UNDER_WAY)


def digest_of(*values: object) -> str:
    """Return a digest of arrays, tensors and other values, which must have a unique ``repr``."""
    digest = hashlib.sha256()
    for value in values:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        if isinstance(array, np.ndarray):
            digest.update(repr((array.dtype.str, array.shape)).encode() + np.ascontiguousarray(array).tobytes())
        else:
            digest.update(repr(array).encode())
    return digest.hexdigest()[:32]


def check_particles(images: SourceImages, predictions: Predictions) -> None:
    """Raise :class:`HetacumnError` if the predictions are not those of the images, or a number is not finite."""
    stack = images.stack
    if predictions.names != stack.metadata.names:
        raise HetacumnError(
            f"{stack.folder}: holds other particles than the predictions ({len(stack)} and {len(predictions)}); expected the "
            "predicted particles in the same order"
        )
    for name in ("rotations", "shifts_A", "latents"):
        finite = torch.isfinite(getattr(predictions, name)).flatten(1).all(1)
        if not finite.all():
            raise HetacumnError(f"predictions: row {int((~finite).int().argmax()) + 1}: {name} is not finite; predict again")
