"""Reference programs of cryobench.py at true poses: RECOVAR (``make recovar``) and cryoDRGN (``make peers``), on one CPU core.

The programs read the prepared images and the true poses. Both make the compared volumes by their own means: RECOVAR by kernel
regression, cryoDRGN by its decoder. A Gaussian mixture of the latents gives the classes, as in hetacumn.baselines.cryodrgn.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from hetacumn.baselines import cryodrgn, recovar
from hetacumn.common.files import write_json
from hetacumn.common.project import project_root
from hetacumn.common.run_files import read_run
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.prediction.classes import classify

REFERENCES = {"recovar": (recovar, ".venv-recovar"), "cryodrgn": (cryodrgn, ".venv-peers")}  # module, environment


def embed_once(method: str, stack: PreparedStack, classes: int, seconds: float, out: Path) -> dict:
    """Run a program and write its predictions, unless this was done; return the processor ``seconds`` and the ``device``.

    The files of the program are in ``<out>/run``. ``seconds`` is the limit of processor time.
    """
    if not (run := read_run(out)):
        module, venv = REFERENCES[method]
        shutil.rmtree(out / "run", ignore_errors=True)  # files of an interrupted run
        z, outcome = module.embed(stack, out / "run", seconds, project_root() / venv)
        metadata, poses = stack.metadata, stack.metadata.poses
        shifts_A = metadata.shifts_in_source_A(poses.shifts_px * stack.pixel_A)
        Predictions(metadata.names, poses.rotations, shifts_A, classify(z, classes).labels, z).write(out, stack.source)
        run = {"seconds": round(outcome.seconds, 1), "device": "cpu, 1 threads"}
        write_json(out / "run.json", run)
    return {name: run[name] for name in ("seconds", "device")}


def reference_volumes(method: str, points: Float[Tensor, "m q"], seconds: float, out: Path) -> Float[Tensor, "m box box box"]:
    """Compute volumes at latents by the program that :func:`embed_once` ran."""
    module, venv = REFERENCES[method]
    return module.make_volumes(out / "run", points, seconds, project_root() / venv)[0]
