"""The Python API: the functions that ``import hetacumn`` provides.

.. code-block:: python

    stack = hetacumn.prepare("my/particles.star", box=64)
    run = hetacumn.train(stack, classes=4, out="results/mine")
    answer = run.predict(grade="refined")
    hetacumn.open("results/mine")

The functions take many options as keyword arguments, so that a user does not need a dataclass to set one option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np

from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path
from hetacumn.common.project import BOX, TRAINED_SHARE, find_project
from hetacumn.common.settings import check_seed, merged, nested, with_settings
from hetacumn.compute.devices import pick_device
from hetacumn.compute.launching import DeviceRequest
from hetacumn.io.mrc import read_volumes
from hetacumn.network.checks import check_training
from hetacumn.network.config import TrainConfig, check_determined, load_config, requested_classes
from hetacumn.network.training import TrainingJob, train_stack, training_share
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.prepared_stack import PreparedStack, reopen
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.particles.run_paths import folder_beside
from hetacumn.physics.alignment import align_volume
from hetacumn.physics.fourier import crop_volumes
from hetacumn.prediction.answer import Answer
from hetacumn.prediction.predict import PredictionJob, run_prediction
from hetacumn.prediction.request import PredictionRequest
from hetacumn.run.lock import hold
from hetacumn.search.initial import InitialSettings
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.truth import Truth

__all__ = [
    "AbInitioConfig", "Answer", "HetacumnError", "PreparedStack", "Preprocessing", "Run", "Simulation", "TrainConfig", "Truth",
    "align_volume", "crop_volumes", "open", "prepare", "read_volumes", "simulate", "train",
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A trained model with its training stack.

    - ``folder``: folder of the run.
    - ``stack``: the stack that the model was trained on.
    - ``device``: device for predictions: cpu, cuda or cuda:N; None for CUDA if available, else the CPU.
    - ``devices``: number of GPUs, or of processes on the CPU.
    """

    folder: Path
    stack: PreparedStack
    device: str | None = None
    devices: int = 1

    @classmethod
    def open(cls, folder: Path | str, prepared: Path | str = "", device: str | None = None, devices: int = 1) -> Run:
        """Open a finished run.

        ``prepared`` is the folder of its prepared training images; the default is ``<folder>/prepared``.

        Raises:
            HetacumnError: the folder has no settings of a run, or there are no prepared images.
        """
        load_config(folder)
        return cls(Path(folder), reopen(prepared or Path(folder) / "prepared"), device, devices)

    @property
    def trained_rows(self) -> np.ndarray:
        """The rows, from 0, of the particle table that training used."""
        return np.load(self.folder / "train_rows.npy")

    def predict(
        self,
        grade: str = "amortized",
        stack: PreparedStack | None = None,
        out: Path | str | None = None,
        classes: int | None = None,
        like: Path | str | None = None,
    ) -> Answer:
        """Predict the pose, class and latent of every particle, and write the predictions.

        The method warns of each class whose poses the images do not determine (:mod:`hetacumn.prediction.trust`).

        Args:
            grade: encoder, amortized, refined or searched, from the fastest to the most precise.
            stack: the particles; None for the stack of the run.
            out: folder for the predictions; None for the folder of the run.
            classes: number of classes; None for the number of the training run.
            like: folder of an earlier prediction whose volumes and classes are reused.

        Raises:
            HetacumnError: the grade is unknown, the stack has another box or pixel size than the training stack, or another
                process uses the folder.
        """
        out = self.folder if out is None else Path(out)
        stack = self.stack if stack is None else stack
        _check_kind("stack", stack, PreparedStack, "a PreparedStack, as hetacumn.prepare returns it")
        with hold(out):
            request = PredictionRequest(grade, classes, like)
            return run_prediction(stack, PredictionJob(self.folder, request, out), DeviceRequest(self.device, self.devices))


def prepare(
    particles: Path | str,
    folder: Path | str = "",
    *,
    box: int | None = BOX,
    data_dir: Path | str | None = None,
    progress: bool = True,
    **settings: Any,
) -> PreparedStack:
    """Preprocess a particle stack, or open the prepared stack of an earlier call with equal settings.

    Args:
        particles: a STAR, .cs or .mrcs file.
        folder: folder for the prepared images; empty for ``<particles>_<box>px`` beside the file.
        box: box in pixels after Fourier cropping, even; None for the box of the file.
        data_dir: folder to which stack names are relative; None searches the folder of the table and its parents.
        progress: whether to show a progress bar.
        settings: further fields of :class:`~hetacumn.particles.preprocessing.Preprocessing`.

    Raises:
        HetacumnError: a setting is unknown, or a file or a row is invalid.
    """
    preprocessing, source = Preprocessing.from_params(settings, box=box), Path(particles)
    if not source.is_file():
        raise HetacumnError(f"{source}: no such file; expected a STAR, .cs or .mrcs file of particles")
    return prepare_stack(source, folder or folder_beside(source, box), preprocessing, data_dir, progress)


def train(
    stack: PreparedStack,
    classes: int | None = None,
    out: Path | str = "results/mine",
    *,
    poses: str = "search",
    reference: Path | str = "",
    lowpass_A: float = 40.0,
    symmetry: str = "C1",
    mask: Path | str = "",
    config: TrainConfig | None = None,
    device: str | None = None,
    devices: int = 1,
    **settings: Any,
) -> Run:
    """Train HetACUMN on a prepared stack, or resume an interrupted training. A finished training is not repeated.

    Args:
        stack: the particles, from :func:`prepare`.
        classes: number of classes; None for the number in ``config``. With 0, or without both, the start finds the number.
        out: folder of the run.
        poses: ``search`` to determine the poses from the images alone; ``given`` to start from the angles and origins in the
            particle table and refine them; ``fixed`` to keep them (:class:`~hetacumn.search.initial.InitialSettings`).
        reference: MRC file of a map with which the pose search begins; empty for random volumes.
        lowpass_A: resolution in Å of the low-pass filter for the reference.
        symmetry: point group of the consensus volume, such as C7. The start then relaxes it, so that the volumes of single
            particles may break it (:mod:`hetacumn.ab_initio.relaxation`). With C1, ``config`` determines the symmetry.
        mask: MRC file of a soft mask inside which the conformation varies (:mod:`~hetacumn.search.focus`), for ``poses`` given
            or fixed; empty for the whole molecule.
        config: all training settings; None for the defaults.
        device: cpu, cuda or cuda:N; None for CUDA if available, else the CPU.
        devices: number of GPUs of this machine, or of processes on its CPU, that share each batch.
        settings: fields of :class:`~hetacumn.network.config.TrainConfig` that replace fields of ``config``, by name
            (``alone_steps=600``), nested (``network={"width": 64}``) or dotted (``**{"network.width": 64}``);
            and ``trained_share``, the fraction of the particles to train on (default 0.7).

    Raises:
        HetacumnError: a setting is unknown, the particle table lacks the angles that ``poses`` needs, the reference or the
            mask is not usable, ``out`` holds a run with other settings, or another process uses the folder.
    """
    _check_kind("stack", stack, PreparedStack, "a PreparedStack, as hetacumn.prepare returns it")
    _check_kind("config", config, TrainConfig | None, "a TrainConfig")
    share = settings.pop("trained_share", TRAINED_SHARE)
    asked = classes if classes is not None or config is None else config.classes
    own = {"classes": requested_classes({}, asked=asked)}
    given = nested(settings)
    if symmetry != "C1":
        given = merged({"settings": given, "symmetry": {"ab_initio": {"consensus": {"symmetry": symmetry}}}})
    check_determined(given)
    complete = with_settings(config or TrainConfig(), merged({"settings": given, "classes": own}), "train.")
    known = {"poses": poses, "reference": str(reference or ""), "lowpass_A": lowpass_A, "mask": str(mask or "")}
    initial = InitialSettings.from_params({"initial": known})
    job, request = TrainingJob("hetacumn", complete, out, share, initial=initial), DeviceRequest(device, devices)
    request.check()
    chosen = training_share(len(stack), share)
    check_training(job, stack.settings, stack.source, stack.folder)
    with hold(out):
        train_stack(stack, job, request)
        with atomic_path(Path(out) / "train_rows.npy") as path:
            np.save(path, stack.rows[chosen])
    return Run(Path(out), stack, device, devices)


def open(folder: Path | str, prepared: Path | str = "") -> Answer:  # noqa: A001
    """Read the predictions in a folder.

    ``prepared`` is the folder of the prepared images; if it is empty, the function uses the folder named in ``run.json``.

    Raises:
        HetacumnError: a file is missing, or the prepared images are not those of the predicted particles.
    """
    return Answer.open(folder, prepared)


def simulate(
    molecule: Mapping | Simulation,
    out: Path | str,
    *,
    seed: int = 0,
    data_dir: Path | str | None = None,
    device: str | None = "cpu",
    progress: bool = True,
    **settings: Any,
) -> Truth:
    """Simulate a particle stack with known truth: particles.star, particles.mrcs, truth.npz and true volumes.

    Args:
        molecule: the structure and its states, such as ``{"structure": "adk", "states": ["open", "closed"]}``; or a
            :class:`~hetacumn.simulation.settings.Simulation`, which contains all settings.
        out: folder for the files.
        seed: seed of all random numbers; equal seeds produce equal files.
        data_dir: folder of the structures; None for ``data`` in the project around the working directory.
        device: device that computes the images: cpu, cuda or cuda:N; None for CUDA if available, else the CPU.
        progress: whether to show a progress bar.
        settings: fields of :class:`~hetacumn.simulation.settings.Simulation`, such as ``particles``, ``box`` (px),
            ``pixel_A``, ``snr``.

    Raises:
        HetacumnError: a structure or setting is unknown, or the folder of the structures is missing.
    """
    check_seed(seed)
    _check_kind("molecule", molecule, Mapping | Simulation, 'a mapping such as {"structure": "adk"}, or a Simulation')
    if isinstance(molecule, Mapping):
        molecule = Simulation.from_params({**molecule, **settings})
    elif settings:
        raise HetacumnError(
            f"simulate: both a Simulation and {', '.join(settings)} given; expected all settings in the Simulation"
        )
    folder = data_dir or (root / "data" if (root := find_project()) else "data")
    return simulate_stack(molecule, out, seed, folder, progress, pick_device(device))


def _check_kind(name: str, value: object, kind: type | UnionType, expected: str) -> None:
    """Raise :class:`HetacumnError` if an argument has the wrong type."""
    if not isinstance(value, kind):
        raise HetacumnError(f"{name} is {value!r}; expected {expected}")
