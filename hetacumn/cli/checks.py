"""Checks of a command's input before the kernel of a notebook starts."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hetacumn.common.errors import HetacumnError

ANSWER_FILES = ("predictions.star",)
FEW_PARTICLES = 500  # with fewer an ab initio start is a matter of luck
SMALL_TABLE_BYTES = 5_000_000  # a table up to this length is read whole
HEADER_BYTES = 100_000
LEAST_BOX = 8  # pixels


def check_words(words: Sequence[str]) -> None:
    """Raise :class:`HetacumnError` for an empty argument, as a shell makes of an unset variable; `run` may have some."""
    if words[:1] == ["run"]:
        return
    for before, word in zip(["hetacumn", *words], words, strict=False):
        is_empty_option = word.startswith("--") and word.endswith("=")
        if not word or is_empty_option:
            raise HetacumnError(f"nothing is given after {word[:-1] or before}; expected a value")


def check_is_file(path: Path, what: str) -> None:
    """Raise :class:`HetacumnError` where ``path`` is not a file; ``what`` describes the expected file."""
    if not path.is_file():
        raise HetacumnError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected {what}")


def check_holds(folder: Path, names: tuple[str, ...], what: str, command: str) -> None:
    """Raise :class:`HetacumnError` where a folder holds none of the files ``names``; ``command`` makes them."""
    if not any((folder / name).is_file() for name in names):
        raise HetacumnError(f"{folder}: no {' or '.join(names)}; expected the folder of {what}; see {command}")


def check_folders(**options: Path | None) -> None:
    """Raise :class:`HetacumnError` where the folder of an option for output, or a folder above it, is a file."""
    for option, path in options.items():
        for place in (path, *path.parents) if path else ():
            if place.exists() and not place.is_dir():
                raise HetacumnError(f"--{option}: {place} is a file; expected a folder to write into")


@dataclass(frozen=True)
class Demand:
    """What a command asks of a particle stack.

    ``box`` is the box in pixels to crop to, None for the box of the stack; ``classes`` and ``devices`` share the particles.
    """

    box: int | None = None
    classes: int = 1
    devices: int = 1


def requested(settings: Mapping, devices: int = 1) -> Demand:
    """Read from a user's settings what training or preparation asks of a stack."""
    from hetacumn.common.project import read_params
    from hetacumn.network.config import requested_classes

    complete = read_params(settings, settings="")
    return Demand(complete["stack"]["box"], requested_classes(complete), devices)


def check_particles(path: Path, data_dir: Path | None, demand: Demand, warn_of_few: bool = False) -> None:
    """Refuse a particle table that cannot be read or give what is asked of it, and warn of a small one if asked to.

    A small table is read whole, and the headers of its stacks; of a large one only the labels.

    Raises:
        HetacumnError: not a table of particles; a column, a row or a stack is wrong; a box that is odd or larger than the
            images; more classes or devices than particles.
    """
    box = demand.box
    if box is not None and (box % 2 or box < LEAST_BOX):
        raise HetacumnError(f"stack.box is {box}; expected an even number of pixels of at least {LEAST_BOX}")
    if path.suffix == ".star" and path.stat().st_size > SMALL_TABLE_BYTES:
        with open(path, errors="replace") as file:
            if "_rlnImageName" not in file.read(HEADER_BYTES):
                raise HetacumnError(
                    f"{path}: no column rlnImageName in its first {HEADER_BYTES} bytes; expected a STAR file of particles"
                )
        return
    import numpy as np

    from hetacumn.io.stack_reader import StackReader
    from hetacumn.io.star import read_table

    table = read_table(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notebook repeats them
        images = StackReader(table, np.arange(len(table)), data_dir)
    largest = 2 * round(images.field_A / images.coarsest_A() / 2)
    if box is not None and box > largest:
        raise HetacumnError(f"stack.box is {box}; expected an even number up to {largest}, the box of {path}'s images")
    for name, count in (("classes", demand.classes), ("--devices", demand.devices)):
        if count > len(table):
            raise HetacumnError(f"{name} is {count}; expected at most {len(table)}, the particles of {path}")
    if warn_of_few and len(table) < FEW_PARTICLES:
        print(f"warning: {path}: {len(table)} particles are few; expected {FEW_PARTICLES} or more for a reliable "
              "ab initio start", file=sys.stderr)  # fmt: skip


def check_devices(device: str, devices: int) -> None:
    """Raise :class:`HetacumnError` where this machine has no such device, or not so many."""
    from hetacumn.compute.launching import DeviceRequest

    try:
        DeviceRequest(device or None, devices).check()
    except HetacumnError as error:  # it begins with the name of the option
        raise HetacumnError(f"--{error}") from None


def check_run(settings: Mapping, particles: Path, out: Path, prepared: Path | None) -> None:
    """Raise :class:`HetacumnError` where a folder holds a run that training with a user's settings cannot go on with."""
    from hetacumn.common.project import read_params
    from hetacumn.network.checks import check_training
    from hetacumn.network.config import method_config, requested_classes
    from hetacumn.network.training import TrainingJob
    from hetacumn.particles.preprocessing import Preprocessing

    complete = read_params(settings, settings="")
    config = method_config(complete, "hetacumn", classes=requested_classes(complete), seed=complete["seed"])
    job = TrainingJob("hetacumn", config, out, complete["stack"]["trained_share"])
    check_training(job, Preprocessing.from_params(complete["stack"]), particles, prepared or out / "prepared")


def check_prediction(model: Path, grade: str, classes: int | None, like: Path | None) -> None:
    """Raise :class:`HetacumnError` for a prediction that cannot be: a wrong option, or a folder that lacks what is needed."""
    from hetacumn.prediction.request import PredictionRequest

    try:
        PredictionRequest(grade, classes, like)
    except HetacumnError as error:  # it begins with the name of the option
        raise HetacumnError(f"--{error}") from None
    if grade == "searched":
        check_holds(model, ("start.safetensors",), "an ab initio start", "hetacumn train, or give --model")
    else:
        check_holds(model, ("model.safetensors",), "a trained model", "hetacumn train, or give --model")
    if like is not None:
        check_holds(like, ANSWER_FILES, "an answer", "hetacumn predict")
        from hetacumn.prediction.earlier import EarlierPrediction, model_digest

        EarlierPrediction.read(like, model_digest(model, grade), grade)


def check_trained_box(model: Path, box: int | None) -> None:
    """Raise :class:`HetacumnError` where a setting asks for another box than that of the trained model."""
    from hetacumn.common.run_files import read_config

    trained = read_config(model).get("box")
    if box not in (None, trained):
        raise HetacumnError(f"stack.box is {box}; expected {trained}, the box that {model} was trained on, or no such setting")


def check_dataset(settings: Mapping, base: str, dataset: str, data_dir: Path | None, seed: int) -> None:
    """Raise :class:`HetacumnError` for an unknown dataset, wrong settings of it or structures that are not there.

    ``base`` is the settings file under the user's ``settings``, empty for none.
    """
    from hetacumn.common.project import read_params
    from hetacumn.common.settings import check_seed, suggestion
    from hetacumn.simulation.settings import Simulation
    from hetacumn.simulation.structures import load_motion, load_states

    check_seed(seed)
    params = read_params(settings, base)
    datasets = params.get("datasets") or {}  # with a user's options, which name no structure
    known = [name for name, value in datasets.items() if not isinstance(value, Mapping) or "structure" in value]
    if dataset not in known:
        near = suggestion(dataset, known) if known else "expected a name under datasets of a settings file: give --config"
        raise HetacumnError(f"unknown dataset {dataset!r}; {near}")
    simulation = Simulation.of_dataset(params, dataset)
    if data_dir is None or not data_dir.is_dir():
        raise HetacumnError(f"{data_dir or 'data'}: no such folder; expected the folder of the structures (--data-dir)")
    (load_motion if simulation.continuous else load_states)(simulation.molecule, data_dir)
