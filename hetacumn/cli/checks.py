"""Checks of the input of a command, before the kernel of a notebook starts."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hetacumn.common.errors import HetacumnError

ANSWER_FILES = ("predictions.star",)
FEW_PARTICLES = 500  # with fewer particles an *ab initio* start is unreliable
SMALL_TABLE_BYTES = 5_000_000  # tables up to this size are read completely
HEADER_BYTES = 100_000
LEAST_BOX = 8  # pixels


def check_words(words: Sequence[str]) -> None:
    """Raise :class:`HetacumnError` for an empty argument, such as an unset shell variable; only `hetacumn run` allows it."""
    if words[:1] == ["run"]:
        return
    for before, word in zip(["hetacumn", *words], words, strict=False):
        is_empty_option = word.startswith("--") and word.endswith("=")
        if not word or is_empty_option:
            raise HetacumnError(f"nothing is given after {word[:-1] or before}; expected a value")


def check_is_file(path: Path, what: str) -> None:
    """Raise :class:`HetacumnError` if ``path`` is not a file; ``what`` describes the expected file."""
    if not path.is_file():
        raise HetacumnError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected {what}")


def check_holds(folder: Path, names: tuple[str, ...], what: str, command: str) -> None:
    """Raise :class:`HetacumnError` if a folder contains none of the files ``names``.

    The message names the expected content ``what`` and the ``command`` that writes the files.
    """
    if not any((folder / name).is_file() for name in names):
        raise HetacumnError(f"{folder}: no {' or '.join(names)}; expected a folder with {what}, written by {command}")


def check_folders(**options: Path | None) -> None:
    """Raise :class:`HetacumnError` if the folder of an output option, or one of its parent folders, is a file."""
    for option, path in options.items():
        for place in (path, *path.parents) if path else ():
            if place.exists() and not place.is_dir():
                raise HetacumnError(f"--{option}: {place} is a file; expected a folder to write into")


@dataclass(frozen=True)
class Demand:
    """The requirements of a command on a particle stack.

    - ``box``: box in pixels after cropping; None for the box of the stack.
    - ``classes``, ``devices``: number of classes and of devices; the stack needs at least one particle for each.
    - ``mask``: MRC file of a mask that must cover the field of view of the images; empty for none.
    """

    box: int | None = None
    classes: int = 1
    devices: int = 1
    mask: str = ""


def requested(settings: Mapping, devices: int = 1) -> Demand:
    """Return the requirements of training or preparation with a user's settings on a particle stack."""
    from hetacumn.common.project import read_params
    from hetacumn.network.config import requested_classes
    from hetacumn.search.initial import InitialSettings

    complete = read_params(settings, settings="")
    mask = InitialSettings.from_params(complete).mask
    return Demand(complete["stack"]["box"], max(1, requested_classes(complete)), devices, mask)


def check_particles(path: Path, data_dir: Path | None, demand: Demand, warn_of_few: bool = False) -> None:
    """Check that a particle table is readable and meets the requirements of a command.

    The function reads small tables completely, and the headers of their stacks. It reads only the column names of large
    tables. With ``warn_of_few`` it prints a warning if the table has too few particles for a reliable *ab initio* start.

    Raises:
        HetacumnError: the file is not a particle table; a column, a row or a stack is invalid; the box is odd or larger than
            the images; there are more classes or devices than particles; or the mask has another field of view or
            is too small.
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
        warnings.simplefilter("ignore")  # the notebook repeats these warnings
        images = StackReader(table, np.arange(len(table)), data_dir)
    largest = 2 * round(images.field_A / images.coarsest_A() / 2)
    if box is not None and box > largest:
        raise HetacumnError(f"stack.box is {box}; expected an even number up to {largest}, the box of the images in {path}")
    for name, count in (("classes", demand.classes), ("--devices", demand.devices)):
        if count > len(table):
            raise HetacumnError(f"{name} is {count}; expected at most {len(table)}, the number of particles in {path}")
    if demand.mask:
        from hetacumn.search.focus import read_mask

        read_mask(demand.mask, box or largest, images.field_A / (box or largest))
    if warn_of_few and len(table) < FEW_PARTICLES:
        print(f"warning: {path}: {len(table)} particles are few; expected {FEW_PARTICLES} or more for a reliable "
              "ab initio start", file=sys.stderr)  # fmt: skip


def check_symmetry(name: str) -> str:
    """Return the name of a point group in capital letters. Raises :class:`HetacumnError` if ``name`` is no such name."""
    from hetacumn.common.point_groups import group_name

    try:
        return group_name(name)
    except HetacumnError as error:  # the message starts with the name of the option
        raise HetacumnError(f"--{error}") from None


def check_devices(device: str, devices: int) -> None:
    """Raise :class:`HetacumnError` if this machine lacks the device or has too few devices."""
    from hetacumn.compute.launching import DeviceRequest

    try:
        DeviceRequest(device or None, devices).check()
    except HetacumnError as error:  # the message starts with the name of the option
        raise HetacumnError(f"--{error}") from None


def check_run(settings: Mapping, particles: Path, out: Path, prepared: Path | None) -> None:
    """Raise :class:`HetacumnError` if the output folder holds a run that the user's settings cannot resume."""
    from hetacumn.common.project import read_params
    from hetacumn.network.checks import check_training
    from hetacumn.network.config import method_config, requested_classes
    from hetacumn.network.training import TrainingJob
    from hetacumn.particles.preprocessing import Preprocessing
    from hetacumn.search.initial import InitialSettings

    complete = read_params(settings, settings="")
    config = method_config(complete, "hetacumn", classes=requested_classes(complete), seed=complete["seed"])
    share, initial = complete["stack"]["trained_share"], InitialSettings.from_params(complete)
    job = TrainingJob("hetacumn", config, out, share, initial=initial)
    check_training(job, Preprocessing.from_params(complete["stack"]), particles, prepared or out / "prepared")


def check_prediction(particles: Path, model: Path, grade: str, classes: int | None, like: Path | None) -> None:
    """Check the options of a prediction.

    Raises:
        HetacumnError: an option is invalid, a folder lacks a required file, or the table ``particles`` lacks the angles that a
            model at fixed poses needs.
    """
    from hetacumn.prediction.request import FITTED, EarlierPrediction, PredictionRequest, model_digest
    from hetacumn.search.initial import InitialSettings

    try:
        PredictionRequest(grade, classes, like)
    except HetacumnError as error:  # the message starts with the name of the option
        raise HetacumnError(f"--{error}") from None
    if grade == "searched":
        check_holds(model, ("start.safetensors",), "an ab initio start", "hetacumn train, or another --model")
    else:
        check_holds(model, ("model.safetensors",), "a trained model", "hetacumn train, or another --model")
    if grade in FITTED and (initial := InitialSettings.of_run(model)).poses == "fixed":
        initial.check_angles(particles)
    if like is not None:
        check_holds(like, ANSWER_FILES, "predictions", "hetacumn predict")
        EarlierPrediction.read(like, model_digest(model, grade), grade)


def check_trained_box(model: Path, box: int | None) -> None:
    """Raise :class:`HetacumnError` if the box in the settings is not the box of the trained model."""
    from hetacumn.common.run_files import read_config

    trained = read_config(model).get("box")
    if box not in (None, trained):
        raise HetacumnError(f"stack.box is {box}; expected {trained}, the training box of {model}, or no setting of stack.box")


def check_dataset(settings: Mapping, base: str, dataset: str, data_dir: Path | None, seed: int) -> None:
    """Raise :class:`HetacumnError` if a dataset is unknown, its settings are invalid, or its structures are missing.

    ``base`` is the settings file that the user's ``settings`` override; it may be empty.
    """
    from hetacumn.common.project import read_params
    from hetacumn.common.settings import check_seed, suggestion
    from hetacumn.simulation.settings import Simulation
    from hetacumn.simulation.structures import load_motion, load_states

    check_seed(seed)
    params = read_params(settings, base)
    datasets = params.get("datasets") or {}  # command options alone create an entry without a structure
    known = [name for name, value in datasets.items() if not isinstance(value, Mapping) or "structure" in value]
    if dataset not in known:
        near = suggestion(dataset, known) if known else "expected a name in the section datasets of a --config file"
        raise HetacumnError(f"unknown dataset {dataset!r}; {near}")
    simulation = Simulation.of_dataset(params, dataset)
    if data_dir is None or not data_dir.is_dir():
        raise HetacumnError(f"{data_dir or 'data'}: no such folder; expected the folder of the structures (--data-dir)")
    (load_motion if simulation.continuous else load_states)(simulation.molecule, data_dir)
