"""HetACUMN: heterogeneous ab initio reconstruction in cryo-EM by amortized inference.

An open implementation of the method of arXiv 2308.04956. To read the code, start at :mod:`hetacumn.network.model`.

The Python API (the command ``hetacumn`` offers the same steps in a shell, see ``hetacumn --help``)::

    stack = hetacumn.prepare("my/particles.star", box=64)
    run = hetacumn.train(stack, classes=4, out="results/mine")
    answer = run.predict(grade="refined")
    hetacumn.open("results/mine")  # read the saved prediction

``hetacumn.plots`` plots figures. ``hetacumn.evaluation.scores`` scores predictions against a known truth.

Conventions of the whole package
--------------------------------
Arrays
    Images are ``(..., y, x)``, volumes ``(..., z, y, x)``, vectors ``(x, y)`` or ``(x, y, z)``. The box (number of
    pixels along a side) is even, and the origin is at index ``box // 2``.
Rotations
    ``R`` is ``(..., 3, 3)``, left-multiplies column vectors and maps object to view: ``x_view = R x_object``.
    The image is the projection along view z. In Fourier space a slice reads the volume at ``Rᵀ (kx, ky, 0)``.
    Euler angles are RELION's (rot, tilt, psi), ZYZ, in degrees.
Hand
    A volume and its mirror image have the same set of projections, so images do not determine the hand. Poses are
    therefore compared up to one global rotation and in both hands.
Shifts
    A shift ``t`` moves the image by ``+t``. Its unit is Å in files and pixels in memory, as names state (``shifts_A``,
    ``shifts_px``). RELION's origin is minus this shift.
Optics
    Defocus is in Å; positive values are underfocus. The CTF has RELION's sign: it is ``+w`` (the amplitude contrast) at
    the origin.
Contrast
    Protein is bright in memory, whatever its contrast in the file.
Noise
    Images are normalised to noise of unit variance per pixel. Two-dimensional transforms are orthonormal, so the noise
    has unit variance per Fourier coefficient too. SNR is the variance of the clean image divided by the variance of the
    noise, both over the whole box.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hetacumn import evaluation, plots
    from hetacumn.ab_initio.config import AbInitioConfig
    from hetacumn.common.errors import HetacumnError
    from hetacumn.io.mrc import read_volumes
    from hetacumn.network.config import TrainConfig
    from hetacumn.particles.prepared_stack import PreparedStack
    from hetacumn.particles.preprocessing import Preprocessing
    from hetacumn.physics.alignment import align_volume
    from hetacumn.physics.fourier import crop_volumes
    from hetacumn.prediction.answer import Answer
    from hetacumn.run.api import Run, open, prepare, simulate, train
    from hetacumn.simulation.settings import Simulation
    from hetacumn.simulation.truth import Truth

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch puts large arrays into large pages of memory, where Linux has them

__version__ = "0.2.0"
__all__ = [
    "AbInitioConfig", "Answer", "HetacumnError", "PreparedStack", "Preprocessing", "Run", "Simulation", "TrainConfig", "Truth",
    "align_volume", "crop_volumes", "evaluation", "open", "plots", "prepare", "read_volumes", "simulate", "train",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``import hetacumn`` alone stays fast."""
    if name == "evaluation":
        import_module("hetacumn.evaluation.scores")
    if name in ("evaluation", "plots"):
        return import_module(f"hetacumn.{name}")
    if name in __all__:
        return getattr(import_module("hetacumn.run.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
