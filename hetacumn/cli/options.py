"""Types, defaults and help texts of the arguments and options of the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option


def _option(help: str, *names: str, metavar: str | None = None, default: str = "") -> Any:
    """Create an option; ``default`` describes the default in the help text if its value in the code is None or empty."""
    text = f"{help}  [default: {default}]" if default else help
    return Option(*names, help=text, metavar=metavar, show_default=False)


Particles = Annotated[Path, Argument(help="STAR, .cs or .mrcs file of particles.", show_default=False)]
AnswerFolder = Annotated[Path, Argument(help="Folder of predictions, from hetacumn predict.", show_default=False)]
OtherAnswer = Annotated[Path, Argument(help="Second folder; must share particles with the first.", show_default=False)]
Dataset = Annotated[str, Argument(help="Name of a dataset in params.yaml or --config.", show_default=False)]

Words = Annotated[list[str] | None, Argument(help="Arguments of python -m hetacumn.run.", show_default=False)]

Out = Annotated[Path, Option(help="Folder for the results.")]
FigureFolder = Annotated[Path | None, _option("Folder for the figures.", default="FOLDER/report")]
FlippedFolder = Annotated[Path | None, _option("New folder for the mirrored result.", default="FOLDER_flipped")]
ComparisonFolder = Annotated[Path | None, _option("Folder for the comparison.", default="FIRST/compared_SECOND")]
StackFolder = Annotated[Path | None, _option("Folder for the stack.", default="results/DATASET/particles")]
PreparedFolder = Annotated[Path | None, _option("Folder for the prepared images.", default="PARTICLES_BOXpx")]

Classes = Annotated[int | None, _option("Number of classes.", default="as many as the images need")]
PredictedClasses = Annotated[int | None, _option("Number of classes.", default="as in training")]
Poses = Annotated[str | None, _option("Poses: search, given or fixed.", default="search")]
Reference = Annotated[Path | None, _option("Initial map, an MRC file.", metavar="FILE", default="none")]
LowPass = Annotated[float | None, _option("Low-pass of the map, in Å.", "--lowpass", default="40")]
Symmetry = Annotated[str | None, _option("Point group, such as C7, D2 or O.", default="C1")]
FocusMask = Annotated[Path | None, _option("Soft mask of the conformation, MRC.", "--mask", metavar="FILE", default="none")]
Box = Annotated[int | None, _option("Fourier-cropped box in pixels; even.", default="32")]
Seed = Annotated[int | None, _option("Seed of all random numbers.", default="0")]


def _settings(example: str) -> Any:
    """Create the option ``--set`` with an example of a setting that the command reads."""
    return _option(f"One setting, e.g. {example}; repeatable.", "--set", metavar="NAME=VALUE")


Set = Annotated[list[str] | None, _settings("train.alone_steps=600")]
StackSet = Annotated[list[str] | None, _settings("stack.diameter_A=200")]
DatasetSet = Annotated[list[str] | None, _settings("datasets.adk.shift_px=2")]
Config = Annotated[Path | None, _option("YAML file of settings; --set overrides it.", metavar="FILE")]
Device = Annotated[str, _option("cpu, cuda or cuda:N.", default="cuda if available")]
Devices = Annotated[int, Option(help="Number of GPUs, or of processes on a CPU.")]
DataDir = Annotated[Path | None, _option("Folder of the image stacks.", metavar="FOLDER", default="above PARTICLES")]
Prepared = Annotated[Path | None, _option("Folder for the prepared images.", metavar="FOLDER", default="OUT/prepared")]
PredictedImages = Annotated[
    Path | None,
    _option(
        "Folder for the prepared images.",
        "--prepared",
        metavar="FOLDER",
        default="MODEL/prepared if it holds PARTICLES, else OUT/prepared",
    ),
]
AnswerImages = Annotated[
    Path | None, _option("Folder of the prepared images.", metavar="FOLDER", default="from FOLDER/run.json")
]

Model = Annotated[Path | None, _option("Folder of the trained model.", metavar="FOLDER", default="OUT")]
Grade = Annotated[str, Option(help="From fast to thorough: encoder, amortized, refined, searched.")]
Like = Annotated[Path | None, _option("Earlier prediction whose volumes and classes to reuse.", metavar="FOLDER")]
Label = Annotated[str, _option("Name in the figure titles.", default="name of FOLDER")]
Motions = Annotated[int, Option(help="Number of independent motions to show.", min=1)]
Browser = Annotated[bool, Option(help="Open JupyterLab in a browser.")]
Port = Annotated[int, Option(help="Port of JupyterLab on this machine; 0: any free port.", min=0, max=65535)]

Stem = Annotated[Path, _option("Output files STEM.star, STEM.mrc, ….", "--to", metavar="STEM")]
ClassNumber = Annotated[int | None, _option("Class to export, counted from 1.  [default: all]", "--class")]
MinGain = Annotated[float | None, _option("Least log-likelihood gain, in nats.", "--min-gain", default="no limit")]
ExpandedSymmetry = Annotated[str, Option("--symmetry", help="Write all equivalent poses of each particle (STAR).")]
Rows = Annotated[Path | None, _option("Text file of rows of predictions.star, from 1.", metavar="FILE")]

MapBox = Annotated[int | None, _option("Voxels per side; even.", "--box", default="box of the files")]
MapFolder = Annotated[Path | None, _option("Folder for the maps.", default="in FOLDER")]
MapClass = Annotated[int | None, _option("Reconstruct only this class, from 1.", "--class")]
Motion = Annotated[int | None, _option("Maps along this motion, from 1.", "--motion")]
Points = Annotated[int, Option(help="Number of maps along the motion.", min=2)]
Refine = Annotated[bool, Option(help="Refine the poses at this box.")]
Mask = Annotated[Path | None, _option("MRC file of a soft mask.", metavar="FILE", default="from each map")]
MapSymmetry = Annotated[str, Option("--symmetry", help="Point group imposed on the maps.")]
LocalResolution = Annotated[
    bool, Option("--local-resolution", help="Also map the local resolution.  [default: off]", show_default=False)
]
SplitSeed = Annotated[int, Option(help="Seed of the half sets.", min=0)]

Map = Annotated[Path, Argument(help="MRC file of a map of the molecule.", show_default=False)]
Threshold = Annotated[float | None, _option("The region is the density above it.", metavar="DENSITY", default="none")]
Sphere = Annotated[tuple[float, float, float, float] | None, _option(
    "The region is in this sphere, in Å.", metavar="X Y Z RADIUS", default="none")]  # fmt: skip
Extend = Annotated[float, Option(help="Distance in Å by which the mask exceeds the region.", min=0)]
Soft = Annotated[float, Option(help="Width of the soft edge in Å.", min=0)]
MaskFile = Annotated[Path, Option(help="File for the mask.")]

Count = Annotated[int | None, _option("Number of particles.", "--particles", default="as in the dataset")]
SimulatedBox = Annotated[int | None, _option("Box in pixels; even.", "--box", default="as in the dataset")]
Snr = Annotated[float | None, _option("Signal variance over noise variance.", default="as in the dataset")]
SimulationDevice = Annotated[str, Option(help="cpu, cuda or cuda:N.")]
Structures = Annotated[Path | None, _option("Folder of the structures.", "--data-dir", metavar="FOLDER",
                                            default="data/ of the project")]  # fmt: skip
