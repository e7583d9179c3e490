"""Arguments and options of the commands: type, default and help of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option


def _option(help: str, *names: str, metavar: str | None = None, default: str = "") -> Any:
    """An option; ``default`` in words where the code has None."""
    told = f"{help}  [default: {default}]" if default else help
    return Option(*names, help=told, metavar=metavar, show_default=False)


Particles = Annotated[Path, Argument(help="A STAR, .cs or .mrcs file of particles.", show_default=False)]
AnswerFolder = Annotated[Path, Argument(help="Folder of an answer (hetacumn predict).", show_default=False)]
OtherAnswer = Annotated[Path, Argument(help="Folder of another answer, for particles in common.", show_default=False)]
Dataset = Annotated[str, Argument(help="A name under datasets in params.yaml or --config.", show_default=False)]

Words = Annotated[list[str] | None, Argument(help="As python -m hetacumn.run takes them.", show_default=False)]

Out = Annotated[Path, Option(help="Folder of the results.")]
FigureFolder = Annotated[Path | None, _option("Folder of the figures.", default="FOLDER/report")]
ComparisonFolder = Annotated[Path | None, _option("Folder of the comparison.", default="FIRST/compared_SECOND")]
StackFolder = Annotated[Path | None, _option("Folder of the stack.", default="results/DATASET/particles")]
PreparedFolder = Annotated[Path | None, _option("Folder of the prepared images.", default="PARTICLES_BOXpx")]

Classes = Annotated[int | None, _option("How many classes to look for.", default="4")]
PredictedClasses = Annotated[int | None, _option("How many classes; 0: as many as BIC says.", default="as trained")]
Box = Annotated[int | None, _option("Even number of pixels after Fourier cropping.", default="32")]
Seed = Annotated[int | None, _option("Seed of all random numbers.", default="0")]
Set = Annotated[list[str] | None, _option("A setting, as train.alone_steps=600 (repeatable).", "--set", metavar="NAME=VALUE")]
Config = Annotated[Path | None, _option("A YAML file of settings.", metavar="FILE")]
Device = Annotated[str, _option("cpu, cuda or cuda:N.", default="cuda where there is one")]
Devices = Annotated[int, Option(help="How many GPUs, or processes on a CPU, share the work.")]
DataDir = Annotated[Path | None, _option("Where the table's stacks are.", metavar="FOLDER", default="around the table")]
Prepared = Annotated[Path | None, _option("Where prepared images are kept.", metavar="FOLDER", default="OUT/prepared")]
AnswerImages = Annotated[Path | None, _option("The prepared images.", metavar="FOLDER", default="where the answer says")]

Model = Annotated[Path | None, _option("Folder of the model.", metavar="FOLDER", default="OUT")]
Grade = Annotated[str, Option(help="encoder, amortized, refined, searched: from fast to precise.")]
Like = Annotated[Path | None, _option("An earlier answer, whose volumes and classes are taken.", metavar="FOLDER")]
Label = Annotated[str, _option("In the titles of figures.", default="the folder's name")]
Motions = Annotated[int, Option(help="How many independent motions to show.", min=1)]
Browser = Annotated[bool, Option(help="Open the page in a browser.")]
Port = Annotated[int, Option(help="Port of JupyterLab on this machine.", min=1, max=65535)]

Stem = Annotated[Path, _option("Writes STEM.star and STEM.mrc.", "--to", metavar="STEM")]
ClassNumber = Annotated[int | None, _option("The particles of a class, from 1 on.", "--class")]
Rows = Annotated[Path | None, _option("Text file of rows of predictions.star, from 1 on.", metavar="FILE")]

Count = Annotated[int | None, _option("How many.", "--particles", default="of the dataset")]
SimulatedBox = Annotated[int | None, _option("Even number of pixels.", "--box", default="of the dataset")]
Snr = Annotated[float | None, _option("Variance of the signal over that of the noise.", default="of the dataset")]
SimulationDevice = Annotated[str, Option(help="cpu, cuda or cuda:N.")]
Structures = Annotated[Path | None, _option("Folder of the structures.", "--data-dir", metavar="FOLDER",
                                            default="data of the project")]  # fmt: skip
