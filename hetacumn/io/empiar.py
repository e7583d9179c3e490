"""Download of a subset of the particles of an EMPIAR entry: single images, by HTTP Range requests.

Particle stacks in the archive have hundreds of GB, but one image has some hundred kB. The STAR file of the entry names the
stack of each image and the image's number in the stack; the header of the stack then determines the bytes of the image.

An interrupted download keeps its data; the same call continues the download.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, Int, Shaped
from tqdm import tqdm

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path, make_folder
from hetacumn.io import star
from hetacumn.io.remote import PATIENT, Patience, Remote, RemoteStack
from hetacumn.io.stacks import HEADER_BYTES, Layout

ARCHIVE = "https://ftp.ebi.ac.uk/empiar/world_availability"
RUN_BYTES = 2**24  # size of the largest request


@dataclass(frozen=True)
class Entry:
    """The layout of an EMPIAR entry.

    - ``number``: EMPIAR number.
    - ``star``: path of the STAR file of the particles, inside the entry.
    - ``stacks``: folder inside the entry to which the stack names in the STAR file are relative.
    """

    number: int
    star: str
    stacks: str


#: Entries of known layout; published code documents these layouts.
ENTRIES = {
    10180: Entry(10180, "data/Example/consensus_data.star", "data"),  # pre-catalytic spliceosome
    10076: Entry(10076, "data/Parameters.star", "data"),  # assembling 50S ribosome
    10028: Entry(10028, "data/Particles/shiny_2sets.star", "data"),  # 80S ribosome
}


@dataclass(frozen=True)
class Subset:
    """The choice of particles to download.

    - ``count``: number of particles.
    - ``leading``: whether to take the first particles of the entry instead of random ones.
    - ``seed``: seed of the random choice.
    """

    count: int
    leading: bool = False
    seed: int = 0


@dataclass(frozen=True)
class _Run:
    """Consecutive images of a remote stack, from index ``first`` on, and their indices ``places`` in the local stack."""

    stack: RemoteStack
    first: int
    places: list[int]


def download_subset(
    entry: Entry,
    out: Path | str,
    subset: Subset,
    base_url: str = ARCHIVE,
    patience: Patience = PATIENT,
    progress: bool = True,
) -> Path:
    """Download particles of an entry to ``particles.mrcs`` and ``particles.star`` in ``out``; return the path of the STAR file.

    The STAR file is in RELION 3.1's form and contains the rows of these particles, in the order of the entry. rlnImageName is
    the new name, and rlnImageOriginalName the name in the entry. A completed download is not repeated.

    Raises:
        HetacumnError: the server does not deliver the expected data (the message names the address), a stack is unusable, the
            entry has too few particles, or ``out`` contains another download.
    """
    out, remote = make_folder(out), Remote(f"{base_url.rstrip('/')}/{entry.number}", patience)
    written = out / "particles.star"
    requested = {"entry": asdict(entry), **asdict(subset)}
    if _note(out).exists() and json.loads(_note(out).read_text()) != requested:
        raise HetacumnError(
            f"{out}: holds another download ({_note(out).read_text().strip()}); expected {requested}, or an empty folder"
        )
    if written.exists():
        return written
    _note(out).write_text(json.dumps(requested) + "\n")
    table = star.read_table(_fetch_star(remote, entry, out))
    rows = _choose_rows(subset, len(table), remote.url(entry.star))
    names, index = table.images()
    stacks: dict[str, RemoteStack] = {}
    for name in tqdm(dict.fromkeys(names[rows]), desc="headers", unit="stack", disable=not progress):
        stacks[name] = RemoteStack.open(remote, str(PurePosixPath(entry.stacks) / name))
    _check_stacks(remote, stacks, table, rows, names, index)
    _fetch_images(remote, [stacks[name] for name in names[rows]], index[rows], out, progress)
    particles = table.particles.iloc[rows].reset_index(drop=True)
    particles["rlnImageOriginalName"] = particles["rlnImageName"]
    particles["rlnImageName"] = [f"{i + 1:06d}@particles.mrcs" for i in range(subset.count)]
    box = next(iter(stacks.values())).layout.shape[1]
    star.write_table(written, particles, table.optics.assign(rlnImageSize=box))
    for path in (_journal(out), out / "entry.star"):
        path.unlink(missing_ok=True)
    return written


def _choose_rows(subset: Subset, available: int, where: str) -> Int[np.ndarray, " count"]:
    """Return the rows of a subset, in the order of the entry."""
    if not 1 <= subset.count <= available:
        raise HetacumnError(
            f"{where}: {subset.count} particles requested; expected 1 to {available}, the particles of the entry"
        )
    if subset.leading:
        return np.arange(subset.count)
    return np.sort(np.random.default_rng(subset.seed).permutation(available)[: subset.count])


def _note(out: Path) -> Path:
    """Return the file that records the request, so that another request does not continue this download."""
    return out / "download.json"


def _journal(out: Path) -> Path:
    """Return the file that lists the images that are already on disk."""
    return out / "particles.done"


def _fetch_star(remote: Remote, entry: Entry, out: Path) -> Path:
    path = out / "entry.star"
    if not path.exists():
        content, place = bytearray(), 0
        total: int | None = None
        while total is None or place < total:
            piece, total = remote.read(entry.star, place, place + RUN_BYTES, at_end=True)
            content += piece
            place += len(piece)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return path


def _check_stacks(
    remote: Remote,
    stacks: dict[str, RemoteStack],
    table: star.ParticleTable,
    rows: Int[np.ndarray, " count"],
    names: Shaped[np.ndarray, " n"],
    index: Int[np.ndarray, " n"],
) -> None:
    """Check that all stacks have the same box and dtype, and that every chosen image exists in its stack."""
    first = next(iter(stacks.values()))
    for row in rows:
        stack = stacks[names[row]]
        layout, expected = stack.layout, first.layout
        if (layout.shape[1:], layout.dtype) != (expected.shape[1:], expected.dtype):
            raise HetacumnError(
                f"{remote.url(stack.path)}: images {layout.shape[1:]} of {layout.dtype}; expected "
                f"{expected.shape[1:]} of {expected.dtype}, as in {remote.url(first.path)}"
            )
        if not 0 <= index[row] < layout.shape[0]:
            raise HetacumnError(
                f"{table.path}: row {row + 1} names image {index[row] + 1} of {remote.url(stack.path)}, which "
                f"holds {layout.shape[0]}; expected 1 to {layout.shape[0]}"
            )


def _runs(stacks: list[RemoteStack], index: Int[np.ndarray, " count"], missing: Int[np.ndarray, " missing"]) -> Iterator[_Run]:
    """Group the missing images into runs of consecutive images of a stack, each at most :data:`RUN_BYTES` long."""
    order = sorted(missing.tolist(), key=lambda place: (stacks[place].path, index[place]))
    run = None
    for place in order:
        stack, number = stacks[place], int(index[place])
        if (
            run
            and run.stack.path == stack.path
            and number == run.first + len(run.places)
            and ((len(run.places) + 1) * stack.layout.image_bytes <= RUN_BYTES)
        ):
            run.places.append(place)
            continue
        if run:
            yield run
        run = _Run(stack, number, [place])
    if run:
        yield run


def _fetch_images(
    remote: Remote, stacks: list[RemoteStack], index: Int[np.ndarray, " count"], out: Path, progress: bool
) -> None:
    """Download the images to ``particles.mrcs.part``, list finished images in the journal, and rename the file at the end."""
    whole, part = out / "particles.mrcs", out / "particles.mrcs.part"
    if whole.exists():
        return
    size, done = stacks[0].layout.image_bytes, _start_part(part, _journal(out), stacks)
    missing = (~done).nonzero()[0]
    tqdm.write(
        f"{len(missing)} of {len(stacks)} images to download from {len({s.path for s in stacks})} stacks: "
        f"{len(missing) * size / 1e6:.1f} MB"
    )
    with (
        open(part, "r+b") as file,
        open(_journal(out), "a") as journal,
        tqdm(
            total=len(stacks) * size,
            initial=int(done.sum()) * size,
            desc="images",
            unit="B",
            unit_scale=True,
            disable=not progress,
        ) as bar,
    ):
        for run in _runs(stacks, index, missing):
            start = run.stack.layout.offset + run.first * size
            content, _ = remote.read(run.stack.path, start, start + len(run.places) * size)
            for i, place in enumerate(run.places):
                file.seek(HEADER_BYTES + place * size)
                file.write(content[i * size : (i + 1) * size])
            file.flush()
            os.fsync(file.fileno())
            journal.write("".join(f"{place}\n" for place in run.places))
            journal.flush()
            bar.update(len(content))
    os.replace(part, whole)


def _start_part(part: Path, journal: Path, stacks: list[RemoteStack]) -> Bool[np.ndarray, " count"]:
    """Open the unfinished file, or create it where it is missing; return which images it already contains."""
    done = np.zeros(len(stacks), dtype=bool)
    if part.exists() and journal.exists():
        lines = journal.read_text().rpartition("\n")[0]  # the last line may be incomplete
        places = np.array(lines.split(), dtype=np.int64)
        done[places[(places >= 0) & (places < len(done))]] = True
    else:
        journal.unlink(missing_ok=True)
        part.write_bytes(_local_header(stacks[0].layout, len(stacks)))
        os.truncate(part, HEADER_BYTES + stacks[0].layout.image_bytes * len(stacks))
    return done


def _local_header(layout: Layout, count: int) -> bytes:
    """Return the header of the local stack: the remote header, changed to ``count`` images and no extended header."""
    header = layout.header.copy()
    cell = float(header["cella"]["x"])
    header["nz"], header["mz"] = count, 1  # mz = 1 marks a stack of images, not a volume
    header["nsymbt"] = header["ispg"] = 0
    header["cella"]["z"] = cell / max(1, int(header["mx"]))
    return header.tobytes()
