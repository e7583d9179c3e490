"""The commands that read predictions or maps: reconstruct, report, compare, explore, flip-hand, export and mask."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hetacumn.cli.checks import ANSWER_FILES, check_devices, check_folders, check_holds, check_is_file, check_symmetry
from hetacumn.cli.command import NOTEBOOKS, execute, export_particles, notebook_of, open_answer, say_next
from hetacumn.cli.options import (
    AnswerFolder,
    AnswerImages,
    Browser,
    ClassNumber,
    ComparisonFolder,
    Device,
    ExpandedSymmetry,
    Extend,
    FigureFolder,
    FlippedFolder,
    Label,
    LocalResolution,
    Map,
    MapBox,
    MapClass,
    MapFolder,
    MapSymmetry,
    Mask,
    MaskFile,
    MinGain,
    Motion,
    Motions,
    OtherAnswer,
    Points,
    Port,
    Refine,
    Rows,
    Soft,
    Sphere,
    SplitSeed,
    Stem,
    Threshold,
)
from hetacumn.common.errors import HetacumnError


def reconstruct(
    folder: AnswerFolder,
    box: MapBox = None,
    out: MapFolder = None,
    class_: MapClass = None,
    rows: Rows = None,
    motion: Motion = None,
    points: Points = 10,
    refine: Refine = True,
    mask: Mask = None,
    local_resolution: LocalResolution = False,
    symmetry: MapSymmetry = "C1",
    seed: SplitSeed = 0,
    device: Device = "",
    prepared: AnswerImages = None,
) -> None:
    """Reconstruct maps at the full box from the raw images."""
    chosen = {"--class": class_, "--rows": rows, "--motion": motion}
    if len(both := [name for name, value in chosen.items() if value is not None]) > 1:
        raise HetacumnError(f"{' and '.join(both)} given; expected at most one of {', '.join(chosen)}")
    if motion is not None and (mask is not None or not refine or symmetry != "C1"):
        raise HetacumnError("--mask, --no-refine or --symmetry given with --motion; expected none of them")
    check_symmetry(symmetry)
    for file, what in ((rows, "a text file of row numbers"), (mask, "an MRC file of a mask")):
        if file is not None:
            check_is_file(file, what)
    check_holds(folder, ANSWER_FILES, "predictions", "hetacumn predict")
    check_devices(device, 1)
    names = {f"maps_class_{class_}": class_, "maps_selection": rows, f"motion_{motion}": motion}
    out = out or folder / next((name for name, value in names.items() if value is not None), "maps")
    check_folders(out=out)
    given = {"predictions": str(folder), "out": str(out), "box": box, "seed": seed, "device": device,
             "prepared": str(prepared or "")}  # fmt: skip
    if motion is None:
        one = {
            "number": class_,
            "rows": str(rows or ""),
            "refine": refine,
            "mask": str(mask or ""),
            "local_resolution": local_resolution,
            "symmetry": symmetry,
        }
        execute(notebook_of("reconstruct"), given | one)
    else:
        execute(notebook_of("motion"), given | {"motion": motion, "points": points})
    say_next(out, ["report", folder])


def report(
    folder: AnswerFolder,
    out: FigureFolder = None,
    label: Label = "",
    motions: Motions = 2,
    prepared: AnswerImages = None,
) -> None:
    """Plot half-map FSC, latent space, motions, viewing directions."""
    check_holds(folder, ANSWER_FILES, "predictions", "hetacumn predict")
    out = out or folder / "report"
    check_folders(out=out)
    given = {"predictions": str(folder), "label": label or folder.resolve().name, "motions": motions, "out": str(out),
             "prepared": str(prepared or "")}  # fmt: skip
    execute(notebook_of("report"), given)
    say_next(out, ["explore", folder])


def compare(first: AnswerFolder, second: OtherAnswer, out: ComparisonFolder = None) -> None:
    """Compare classes, poses and volumes of two predictions."""
    for folder in (first, second):
        check_holds(folder, ANSWER_FILES, "predictions", "hetacumn predict")
    out = out or first / f"compared_{second.resolve().name}"
    execute(notebook_of("compare"), {"first": str(first), "second": str(second), "out": str(out)})
    say_next(out, ["export", first, "--class", "1", "--to", first / "class_1"])


def explore(
    folder: AnswerFolder,
    browser: Browser = True,
    port: Port = 8888,
) -> None:
    """Explore latent space, particles and motions in JupyterLab."""
    from hetacumn.run.notebook import write_with_parameters

    check_holds(folder, ANSWER_FILES, "predictions", "hetacumn predict")
    notebook = folder / NOTEBOOKS["explore"]
    if not notebook.exists():  # keep a copy that the user may have edited
        write_with_parameters(notebook_of("explore"), {"folder": str(folder.resolve())}, notebook)
    here, at = Path.cwd(), notebook.resolve()
    root = here if at.is_relative_to(here) else at.parent
    command = [sys.executable, "-m", "jupyterlab", str(at), f"--ServerApp.root_dir={root}", f"--port={port}",
               *([] if browser else ["--no-browser"])]  # fmt: skip
    print(f"JupyterLab opens {notebook}; press Ctrl-C to stop it", flush=True)
    os.execv(sys.executable, command)


def flip_hand(folder: AnswerFolder, out: FlippedFolder = None, prepared: AnswerImages = None) -> None:
    """Mirror volumes, maps and poses into a new folder."""
    from hetacumn.run.hand import flip_hand

    check_holds(folder, ANSWER_FILES, "predictions", "hetacumn predict")
    out = out or folder.with_name(f"{folder.resolve().name}_flipped")
    check_folders(out=out)
    flip_hand(open_answer(folder, prepared), out)
    say_next(out, ["report", out])


def export(
    folder: AnswerFolder,
    to: Stem,
    class_: ClassNumber = None,
    min_gain: MinGain = None,
    rows: Rows = None,
    symmetry: ExpandedSymmetry = "C1",
    prepared: AnswerImages = None,
) -> None:
    """Write selected particles (STAR, .cs) and their volume (MRC)."""
    if (class_ is None and min_gain is None) == (rows is None):
        raise HetacumnError("expected --rows, or at least one of --class and --min-gain")
    if rows is not None:
        check_is_file(rows, "a text file of row numbers")
    symmetry = check_symmetry(symmetry)
    check_holds(folder, ANSWER_FILES, "predictions", "hetacumn predict")
    answer = open_answer(folder, prepared)
    paths = export_particles(answer, to, rows, class_, min_gain, symmetry)
    if symmetry == "C1":
        follows = ["train", paths[0], "--data-dir", answer.stack.stack_folder, "--out", f"{to}_trained"]
    else:  # an expanded table names each image several times; training refuses it
        follows = ["reconstruct", folder, "--symmetry", symmetry]
    say_next(to.parent, follows)


def mask(
    volume: Map,
    threshold: Threshold = None,
    sphere: Sphere = None,
    extend: Extend = 0.0,
    soft: Soft = 10.0,
    out: MaskFile = Path("mask.mrc"),
) -> None:
    """Make a soft mask of a region of a map, for train --mask."""
    check_is_file(volume, "an MRC file of a map")
    if out.resolve() == volume.resolve():
        raise HetacumnError(f"--out: {out} is the map; expected another file")
    from hetacumn.reconstruction.masks import MaskSettings, write_mask

    inside_A3 = write_mask(volume, MaskSettings(threshold, sphere, extend, soft), out)
    print(f"{out}: {inside_A3:.4g} Å³ inside the mask")
    say_next(out.parent, ["train", "PARTICLES", "--poses", "fixed", "--mask", out])
