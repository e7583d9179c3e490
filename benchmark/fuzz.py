"""Fuzz test of the readers: damaged stacks, tables and settings either load, or the package raises its own error.

The script mutates small valid files of each kind at random. It changes, cuts and repeats bytes, replaces numbers by extreme
numbers, and removes, duplicates and exchanges lines, columns, keys and values. A case is a fault if it raises another
exception or takes longer than SECONDS. A kind has one more fault if its memory grows by more than MEMORY_MB.

The script writes benchmark/fuzz.csv: kind, cases, loaded, refused, faults, slowest_seconds, memory_mb (growth of the memory).

Usage: python benchmark/fuzz.py [CASES_OF_EACH_KIND]
"""

from __future__ import annotations

import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from hetacumn.common.errors import HetacumnError
from hetacumn.common.memory import peak_memory_mb
from hetacumn.common.project import read_params
from hetacumn.io import star
from hetacumn.io.stacks import new_stack
from hetacumn.network.config import method_config
from hetacumn.particles.metadata import ParticleMetadata, write_star
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.particles.reader import read_particles
from hetacumn.physics.optics import Optics
from hetacumn.simulation.settings import Simulation

CASES = 1700
SECONDS = 10
MEMORY_MB = 1000
EXTREMES = [
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-1e308",
    "1e400",
    "0",
    "-0",
    "-1",
    "1",
    "2147483648",
    "-2147483649",
    "1" + 30 * "0",
    "0.1",
    "true",
    "null",
    "''",
    "x",
    "[]",
    "{}",
    "[1]",
    "é",
    "000001@",
    "@",
    "9@stack.mrcs",
    "<NA>",
    "None",
    "0x10",
]
Mutation = Callable[[random.Random, bytes], bytes]


# Valid files -------------------------------------------------------------------------------------------------


def seeds(folder: Path) -> dict[str, Path]:
    """Write a small valid file of each kind into a folder; return the paths by kind."""
    draw, n, box = np.random.default_rng(0), 24, 16
    middle = np.exp(-((np.arange(box) - box // 2) ** 2) / 8)
    with new_stack(folder / "stack.mrcs", n, box, 4.0) as stack:
        stack[:] = draw.standard_normal((n, box, box)) + 6 * middle * middle[:, None]
    ramp = torch.linspace(0, 1, n)
    defocus_A, zero = 8000 + 4000 * ramp, 0 * ramp
    optics = Optics(defocus_A, defocus_A, zero, zero + 300, zero + 2.7, zero + 0.1, zero, 4.0)
    names = [f"{i + 1:06d}@stack.mrcs" for i in range(n)]
    write_star(
        folder / "relion31.star", ParticleMetadata(names, optics), box, shifts_A=torch.from_numpy(draw.normal(0, 3, (n, 2)))
    )
    table = star.read_table(folder / "relion31.star")
    flat = table.particles.merge(table.optics, on=star.GROUP)
    flat.drop(columns=["rlnOpticsGroupName", "rlnOpticsGroup"]).to_csv(folder / "stack.csv", index=False)
    columns = [
        "rlnImageName",
        "rlnDefocusU",
        "rlnDefocusV",
        "rlnDefocusAngle",
        "rlnVoltage",
        "rlnSphericalAberration",
        "rlnAmplitudeContrast",
    ]
    rows = [[*row, 10000.0, 4.0] for row in flat[columns].astype(str).to_numpy().tolist()]
    heads = [f"_{name} #{i + 1}" for i, name in enumerate([*columns, "rlnMagnification", "rlnDetectorPixelSize"])]
    lines = ["data_", "", "loop_", *heads, *(" ".join(map(str, row)) for row in rows), ""]
    (folder / "relion30.star").write_text("\n".join(lines))
    numbers = [
        "blob/psize_A",
        "ctf/df1_A",
        "ctf/df2_A",
        "ctf/df_angle_rad",
        "ctf/phase_shift_rad",
        "ctf/accel_kv",
        "ctf/cs_mm",
        "ctf/amp_contrast",
    ]
    cs = np.zeros(n, dtype=[("blob/path", "S12"), ("blob/idx", "<u4"), ("blob/shape", "<u4", 2),
                            *((name, "<f4") for name in numbers), ("alignments3D/pose", "<f4", 3),
                            ("alignments3D/shift", "<f4", 2)])  # fmt: skip
    cs["blob/path"], cs["blob/idx"], cs["blob/shape"], cs["blob/psize_A"] = b"stack.mrcs", np.arange(n), box, 4.0
    cs["ctf/df1_A"] = cs["ctf/df2_A"] = 9000
    cs["ctf/accel_kv"], cs["ctf/cs_mm"], cs["ctf/amp_contrast"] = 300, 2.7, 0.1
    with open(folder / "table.cs", "wb") as file:
        np.save(file, cs)
    shutil.copy(Path(__file__).resolve().parents[1] / "params.yaml", folder / "params.yaml")
    names = {
        "MRC stack": "stack.mrcs",
        "RELION 3.1 STAR": "relion31.star",
        "RELION 3.0 STAR": "relion30.star",
        "cryoSPARC .cs": "table.cs",
        "CSV beside a stack": "stack.csv",
        "settings": "params.yaml",
    }
    return {kind: folder / name for kind, name in names.items()}


def load(path: Path) -> None:
    """Read a file as the package reads it."""
    if path.suffix == ".yaml":
        settings = read_params(path)
        for dataset in ("adk", "ribosome", "spliceosome"):
            Simulation.of_dataset(settings, dataset)
        Preprocessing.from_params(settings["stack"])
        for method in ("em", "hetacumn", "amortized"):
            method_config(settings, method)
        return
    target = {".csv": path.with_suffix(".mrcs"), ".mrcs": path.with_name("relion31.star")}.get(path.suffix, path)
    read_particles(target, progress=False)


# Mutations ---------------------------------------------------------------------------------------------------


def _flip(draw: random.Random, raw: bytes) -> bytes:
    """Change a few bytes, often near the beginning, where headers are."""
    damaged = bytearray(raw)
    for _ in range(draw.choice((1, 1, 2, 8))):
        damaged[draw.randrange(min(len(raw), draw.choice((64, 1024, len(raw)))))] = draw.randrange(256)
    return bytes(damaged)


def _word(draw: random.Random, raw: bytes) -> bytes:
    """Replace a four-byte word in the first kilobyte (sizes, modes, lengths) by an extreme value."""
    at = 4 * draw.randrange(min(len(raw), 1024) // 4)
    word = draw.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\xc0\x7f", b"\1\0\0\0"))
    return raw[:at] + word + raw[at + 4 :]


def _cut(draw: random.Random, raw: bytes) -> bytes:
    return raw[: draw.randrange(len(raw))]


def _splice(draw: random.Random, raw: bytes) -> bytes:
    """Copy a piece of the bytes to another place; insert it or overwrite the bytes there."""
    begin, at, length = draw.randrange(len(raw)), draw.randrange(len(raw)), draw.choice((1, 7, 64, 4096))
    return raw[:at] + raw[begin : begin + length] + raw[at + draw.choice((0, length)) :]


def _extreme(draw: random.Random, raw: bytes) -> bytes:
    """Replace a word of a text (a number, a name, a value) by an extreme value."""
    words = list(re.finditer(rb"[^\s,:\[\]{}]+", raw)) or [re.match(b"", raw)]
    word = draw.choice(words)
    return raw[: word.start()] + draw.choice(EXTREMES).encode() + raw[word.end() :]


def _lines(draw: random.Random, raw: bytes) -> bytes:
    """Remove, duplicate, move, indent or cut a line of a text."""
    lines = raw.split(b"\n")
    at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
    line = lines.pop(at)
    lines[to:to] = draw.choice(([], [line], [line, line], [b"  " + line], [line[: len(line) // 2]]))
    return b"\n".join(lines)


BINARY, TEXT = (_flip, _word, _cut, _splice), (_flip, _cut, _splice, _extreme, _extreme, _extreme, _lines, _lines)


# Test --------------------------------------------------------------------------------------------------------


def fuzz(kind: str, cases: int, seed: int = 0) -> dict:
    """Damage and read one kind of file ``cases`` times; return the counts, and descriptions of the faults in ``examples``."""
    with get_context("fork").Pool(1) as pool:  # a separate process, to measure its memory
        return pool.apply(_fuzz, (kind, cases, seed))


def _fuzz(kind: str, cases: int, seed: int) -> dict:
    def alarm(*_):
        raise TimeoutError(f"longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, alarm)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts, examples, slowest = Counter(), [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = seeds(Path(folder))[kind]
        good = path.read_bytes()
        load(path)
        before = peak_memory_mb()
        limit = int((before + 4 * MEMORY_MB) * 2**20)  # address space: more than any valid case needs
        resource.setrlimit(resource.RLIMIT_AS, (max(limit, _addresses()) + MEMORY_MB * 2**20, resource.RLIM_INFINITY))
        for case in tqdm(range(cases), desc=kind, mininterval=5):
            draw = random.Random(f"{seed} {kind} {case}")
            damaged = good
            for _ in range(draw.choice((1, 1, 1, 2, 3))):
                damaged = draw.choice(BINARY if path.suffix in (".mrcs", ".cs") else TEXT)(draw, damaged) or b"\0"
            path.write_bytes(damaged)
            began = time.monotonic()
            signal.alarm(SECONDS)
            try:
                load(path)
                counts["loaded"] += 1
            except BaseException as error:
                refused = isinstance(error, HetacumnError) and "\n" not in str(error)
                counts["refused" if refused else "faults"] += 1
                if not refused:
                    examples.append(f"{kind}, case {case}: {type(error).__name__}: {error!r}")
            finally:
                signal.alarm(0)
            slowest = max(slowest, time.monotonic() - began)
        peak = peak_memory_mb()
    if peak - before > MEMORY_MB:
        counts["faults"] += 1
        examples.append(f"{kind}: memory grew by {peak - before:.0f} MB")
    return {"kind": kind, "cases": cases, "loaded": counts["loaded"], "refused": counts["refused"], "faults": counts["faults"],
            "slowest_seconds": round(slowest, 2), "memory_mb": round(peak - before), "examples": examples}  # fmt: skip


def _addresses() -> int:
    """Return the size of the address space of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main(cases: int) -> int:
    """Test all kinds of files, and print and write the table; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = list(seeds(Path(folder)))
    found = [fuzz(kind, cases) for kind in kinds]
    for line in (line for one in found for line in one.pop("examples")):
        print(line)
    table = pd.DataFrame(found)
    print(table.to_string(index=False))
    table.to_csv(Path(__file__).with_name("fuzz.csv"), index=False)
    return int(table["faults"].sum() > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else CASES))
