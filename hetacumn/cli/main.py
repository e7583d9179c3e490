"""The `hetacumn` command: each subcommand checks its input, runs a notebook, and prints the command that usually follows.

Exit status: 0 for success; 1 if the notebook raised an exception (the traceback is printed); 2 for a user error, reported in
one line; 130 after an interruption by Ctrl-C or SIGTERM. Heavy modules are imported only inside the functions that need them.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import typer

from hetacumn.cli.checks import (
    Demand,
    check_dataset,
    check_devices,
    check_folders,
    check_is_file,
    check_particles,
    check_prediction,
    check_run,
    check_trained_box,
    check_words,
    requested,
)
from hetacumn.cli.command import (
    TRAINING_SECTIONS,
    collect_settings,
    execute,
    notebook_of,
    pipeline_settings,
    prepared_folder,
    run_notebook_command,
    say_next,
)
from hetacumn.cli.options import (
    Box,
    Classes,
    Config,
    Count,
    DataDir,
    Dataset,
    DatasetSet,
    Device,
    Devices,
    FocusMask,
    Grade,
    Like,
    LowPass,
    Model,
    Out,
    Particles,
    Poses,
    PredictedClasses,
    PredictedImages,
    Prepared,
    PreparedFolder,
    Reference,
    Seed,
    Set,
    SimulatedBox,
    SimulationDevice,
    Snr,
    StackFolder,
    StackSet,
    Structures,
    Symmetry,
    Words,
)
from hetacumn.cli.results import compare, explore, export, flip_hand, mask, reconstruct, report
from hetacumn.common.errors import HetacumnError
from hetacumn.common.warning_lines import print_warnings_in_lines

TABLE = "a STAR, .cs or .mrcs file of particles"

app = typer.Typer(
    rich_markup_mode=None, add_completion=False, help="Heterogeneous ab initio reconstruction in cryo-EM (HetACUMN).",
    epilog="Usual order for your own data: train, predict, reconstruct, report, explore. 'hetacumn COMMAND --help' lists the "
    "options.",
)  # fmt: skip


@app.command()
def train(
    particles: Particles,
    classes: Classes = None,
    out: Out = Path("results/mine"),
    box: Box = None,
    poses: Poses = None,
    reference: Reference = None,
    lowpass: LowPass = None,
    symmetry: Symmetry = None,
    mask: FocusMask = None,
    seed: Seed = None,
    set_: Set = None,
    config: Config = None,
    device: Device = "",
    devices: Devices = 1,
    data_dir: DataDir = None,
    prepared: Prepared = None,
) -> None:
    """Train a model on a particle stack, or resume training."""
    check_is_file(particles, TABLE)
    initial = {"poses": poses, "reference": reference and str(reference), "lowpass_A": lowpass, "mask": mask and str(mask)}
    options = {"classes": classes, "seed": seed, "stack": {"box": box}, "initial": initial,
               "train": {"ab_initio": {"consensus": {"symmetry": symmetry}}}}  # fmt: skip
    settings = collect_settings(config, set_, options, TRAINING_SECTIONS)
    check_folders(out=out, prepared=prepared)
    check_devices(device, devices)
    check_run(settings, particles, out, prepared)
    check_particles(particles, data_dir, requested(settings, devices), warn_of_few=True)
    given = {"particles": str(particles), "out": str(out), "prepared": str(prepared or ""), "data_dir": str(data_dir or ""),
             "device": device, "devices": devices, "settings": "", "overrides": settings}  # fmt: skip
    execute(notebook_of("train"), given)
    places = [*(["--data-dir", data_dir] if data_dir else []), *(["--prepared", prepared] if prepared else [])]
    say_next(out, ["predict", particles, "--out", out, *places])


@app.command()
def predict(
    particles: Particles,
    out: Out = Path("results/mine"),
    grade: Grade = "amortized",
    classes: PredictedClasses = None,
    like: Like = None,
    model: Model = None,
    set_: StackSet = None,
    config: Config = None,
    device: Device = "",
    devices: Devices = 1,
    data_dir: DataDir = None,
    prepared: PredictedImages = None,
) -> None:
    """Predict pose, class and conformation of every particle."""
    check_is_file(particles, TABLE)
    settings = collect_settings(config, set_, {}, ("stack",))
    check_prediction(particles, model or out, grade, classes, like)
    check_trained_box(model or out, (settings.get("stack") or {}).get("box"))
    check_folders(out=out, prepared=prepared)
    check_devices(device, devices)
    check_particles(particles, data_dir, Demand(classes=classes or 1, devices=devices))
    given = {"particles": str(particles), "out": str(out), "model": str(model or ""), "grade": grade, "classes": classes,
             "like": str(like or ""), "prepared": str(prepared or ""), "data_dir": str(data_dir or ""), "device": device,
             "devices": devices, "settings": "", "overrides": settings}  # fmt: skip
    execute(notebook_of("predict"), given)
    say_next(out, ["report", out])


for command in (reconstruct, report, compare, explore, flip_hand, export, mask):
    app.command()(command)


@app.command()
def simulate(
    dataset: Dataset,
    out: StackFolder = None,
    particles: Count = None,
    box: SimulatedBox = None,
    snr: Snr = None,
    seed: Seed = None,
    set_: DatasetSet = None,
    config: Config = None,
    device: SimulationDevice = "cpu",
    data_dir: Structures = None,
) -> None:
    """Simulate a particle stack with known truth."""
    base, folder = pipeline_settings()
    options = {"datasets": {dataset: {"particles": particles, "box": box, "snr": snr}}}
    settings = collect_settings(config, set_, options, ("datasets",))
    data_dir = data_dir or folder
    check_dataset(settings, base, dataset, data_dir, seed or 0)
    check_folders(out=out)
    check_devices(device, 1)
    out = out or Path("results") / dataset / "particles"
    given = {"dataset": dataset, "seed": seed or 0, "out": str(out), "settings": base, "overrides": settings, "device": device,
             "data_dir": str(data_dir)}  # fmt: skip
    execute(notebook_of("simulate"), given)
    say_next(out, ["train", out / "particles.star", "--out", "results/mine"])


@app.command()
def prepare(
    particles: Particles,
    out: PreparedFolder = None,
    box: Box = None,
    set_: StackSet = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Normalise and Fourier-crop a stack; plot its noise spectrum."""
    check_is_file(particles, TABLE)
    settings = collect_settings(config, set_, {"stack": {"box": box}}, ("stack",))
    out = out or prepared_folder(particles, settings)
    check_folders(out=out)
    check_particles(particles, data_dir, Demand(requested(settings).box))
    given = {"particles": str(particles), "out": str(out), "data_dir": str(data_dir or ""), "settings": "",
             "overrides": settings}  # fmt: skip
    execute(notebook_of("prepare"), given)
    say_next(out, ["train", particles, "--prepared", out, "--out", "results/mine"])


@app.command("run", add_help_option=False, context_settings={"ignore_unknown_options": True})
def run_(words: Words = None) -> None:
    """Run a notebook: NOTEBOOK -p NAME VALUE ... [-o FILE.ipynb]."""
    raise typer.Exit(run_notebook_command(words or []))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    print_warnings_in_lines()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        check_words(words)
        status = app(args=words or ["--help"], prog_name="hetacumn", standalone_mode=False)
    except HetacumnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except typer.TyperException as error:  # a wrong option or argument
        print(f"error: {' '.join(error.format_message().split())}", file=sys.stderr)
        return 2
    return status if isinstance(status, int) else 0


def run_command() -> None:
    """Run the command line as the installed script; SIGTERM ends it like Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clusters send SIGTERM; this also interrupts the kernel
    sys.exit(main())
