"""A subset of an EMPIAR entry, without downloading the rest: single images by HTTP Range requests.

Particle stacks in the archive are hundreds of gigabytes; an image of one is some hundred kilobytes at a known place. The
STAR of the entry says which stack and which image; the header of the stack says where.

What was downloaded stays: an interrupted download, called again with the same arguments, goes on where it was.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import numpy as np
import requests
from tqdm import tqdm

from hetacumn import star
from hetacumn.errors import HetacumnError
from hetacumn.project import atomic_path, make_folder
from hetacumn.stacks import HEADER_BYTES, Layout

ARCHIVE = "https://ftp.ebi.ac.uk/empiar/world_availability"
RUN_BYTES = 2**24  # the most that is asked for in one request


@dataclass(frozen=True)
class Entry:
    """Where an entry's particles are: its number, its STAR, and the folder that stacks are named from; both within it."""

    number: int
    star: str
    stacks: str


#: Entries of known layout, as published code documents it.
ENTRIES = {
    10180: Entry(10180, "data/Example/consensus_data.star", "data"),  # pre-catalytic spliceosome
    10076: Entry(10076, "data/Parameters.star", "data"),  # assembling 50S ribosome
    10028: Entry(10028, "data/Particles/shiny_2sets.star", "data"),  # 80S ribosome
}


@dataclass(frozen=True)
class Patience:
    """How a connection is treated: seconds without an answer, tries of one request, seconds before the second try
    (doubled each time)."""

    timeout: float = 30.0
    tries: int = 6
    pause: float = 1.0


class _Trouble(Exception):
    """What may go away if tried again."""


class Remote:
    """Files of an archive, read in parts."""

    def __init__(self, base_url: str, patience: Patience = Patience()):
        self.base_url, self.patience, self.session = base_url.rstrip("/"), patience, requests.Session()

    def url(self, path: str) -> str:
        """The address of a file."""
        return f"{self.base_url}/{quote(path)}"

    def read(self, path: str, start: int, stop: int, at_end: bool = False) -> tuple[bytes, int]:
        """Bytes ``start`` to ``stop`` of a file, and the file's length. ``at_end``: fewer, where the file ends before.

        A connection that breaks or stalls is taken up again from the last byte received. Raises :class:`HetacumnError`
        where the server does not serve ranges, has no such file, has too short a file, or fails again and again.
        """
        got, total, failures = bytearray(), None, 0
        while total is None or start + len(got) < stop:
            before = len(got)
            try:
                total = self._receive(path, start, stop, got, at_end)
                if at_end:
                    stop = min(stop, total)
            except _Trouble as trouble:
                failures = 1 if len(got) > before else failures + 1  # what advances is not failing
                if failures >= self.patience.tries:
                    raise HetacumnError(f"{self.url(path)}: bytes {start + len(got)} to {stop}: {trouble}; tried "
                                        f"{failures} times; run it again later, what was downloaded stays") from None
                time.sleep(self.patience.pause * 2 ** (failures - 1))
        return bytes(got), total

    def _receive(self, path: str, start: int, stop: int, got: bytearray, at_end: bool) -> int:
        """Ask once for what is missing and add what comes to ``got``; the file's length."""
        url, first = self.url(path), start + len(got)
        headers = {"Range": f"bytes={first}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            with self.session.get(url, headers=headers, stream=True, timeout=self.patience.timeout) as answer:
                self._check_status(answer, url)
                sent = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
                if not sent or int(sent[1]) != first:
                    raise HetacumnError(f"{url}: Content-Range is '{answer.headers.get('Content-Range')}'; expected bytes "
                                        f"{first}-{stop - 1} of the file")
                total = int(sent[3])
                if total < stop and not at_end:
                    raise HetacumnError(f"{url}: {total} bytes long; expected at least {stop}")
                answer.raw.enforce_content_length = False  # what came of a broken answer is kept; its length is seen below
                for piece in answer.iter_content(2**16):
                    got += piece[: stop - start - len(got)]
        except requests.RequestException as error:
            raise _Trouble(f"{type(error).__name__}") from None
        if start + len(got) < min(stop, total):
            raise _Trouble("the connection ended too soon")
        return total

    @staticmethod
    def _check_status(answer: requests.Response, url: str) -> None:
        if answer.status_code == 206:
            return
        if answer.status_code == 200:
            raise HetacumnError(f"{url}: the server sends the whole file; expected it to serve ranges (status 206)")
        if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
            raise _Trouble(f"status {answer.status_code}")
        raise HetacumnError(f"{url}: status {answer.status_code}; expected 206")


@dataclass(frozen=True)
class RemoteStack:
    """A stack in the archive: its path and what its header says."""

    path: str
    layout: Layout

    @classmethod
    def open(cls, remote: Remote, path: str) -> RemoteStack:
        """Read and check a header. Raises :class:`HetacumnError` where it is none, or the file too short for it."""
        raw, total = remote.read(path, 0, HEADER_BYTES)
        layout = Layout.parse(raw, remote.url(path))
        if total < layout.end:
            raise HetacumnError(f"{remote.url(path)}: {total} bytes long; expected {layout.end}, {layout.shape[0]} images as "
                                "its header says")
        return cls(path, layout)


@dataclass(frozen=True)
class _Run:
    """Neighbouring images ``first`` to ``first + len(places)`` of a stack, and where each goes in the local one."""

    stack: RemoteStack
    first: int
    places: list[int]


def download_subset(
    entry: Entry, out: Path | str, count: int, leading: bool = False, seed: int = 0, base_url: str = ARCHIVE,
    patience: Patience = Patience(), progress: bool = True,
) -> Path:
    """Download ``count`` particles of an entry, the leading ones or random ones, as ``particles.mrcs`` and
    ``particles.star`` in ``out``; the STAR's path.

    The STAR has the rows of these particles, in the entry's order, in RELION 3.1's form, with new rlnImageName; whence they
    came stays in rlnImageOriginalName. Raises :class:`HetacumnError`, naming the address and what was expected.
    """
    out, remote = make_folder(out), Remote(f"{base_url.rstrip('/')}/{entry.number}", patience)
    made = out / "particles.star"
    asked = {"entry": asdict(entry), "count": count, "leading": leading, "seed": seed}
    if _note(out).exists() and json.loads(_note(out).read_text()) != asked:
        raise HetacumnError(f"{out}: holds another download ({_note(out).read_text().strip()}); expected {asked}, or an empty "
                            "folder")
    if made.exists():
        return made
    _note(out).write_text(json.dumps(asked) + "\n")
    table = star.read_table(_fetch_star(remote, entry, out))
    if not 1 <= count <= len(table):
        raise HetacumnError(f"{count} particles of {len(table)} in {remote.url(entry.star)}; expected 1 to {len(table)}")
    rows = np.arange(count) if leading else np.sort(np.random.default_rng(seed).permutation(len(table))[:count])
    names, index = table.images()
    stacks = {}
    for name in tqdm(dict.fromkeys(names[rows]), desc="headers", unit="stack", disable=not progress):
        stacks[name] = RemoteStack.open(remote, str(PurePosixPath(entry.stacks) / name))
    _check_alike(remote, stacks, table, rows, names, index)
    _fetch_images(remote, [stacks[name] for name in names[rows]], index[rows], out, progress)
    particles = table.particles.iloc[rows].reset_index(drop=True)
    particles["rlnImageOriginalName"] = particles["rlnImageName"]
    particles["rlnImageName"] = [f"{i + 1:06d}@particles.mrcs" for i in range(count)]
    box = next(iter(stacks.values())).layout.shape[1]
    star.write_table(made, particles, table.optics.assign(rlnImageSize=box))
    for path in (_journal(out), out / "entry.star"):
        path.unlink(missing_ok=True)
    return made


def _note(out: Path) -> Path:
    return out / "download.json"


def _journal(out: Path) -> Path:
    return out / "particles.done"


def _fetch_star(remote: Remote, entry: Entry, out: Path) -> Path:
    path = out / "entry.star"
    if not path.exists():
        content, place, total = bytearray(), 0, None
        while total is None or place < total:
            piece, total = remote.read(entry.star, place, place + RUN_BYTES, at_end=True)
            content += piece
            place += len(piece)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return path


def _check_alike(remote: Remote, stacks: dict[str, RemoteStack], table: star.ParticleTable, rows: np.ndarray,
                 names: np.ndarray, index: np.ndarray) -> None:
    first = next(iter(stacks.values()))
    for row in rows:
        stack = stacks[names[row]]
        here, there = stack.layout, first.layout
        if (here.shape[1:], here.dtype) != (there.shape[1:], there.dtype):
            raise HetacumnError(f"{remote.url(stack.path)}: images {here.shape[1:]} of {here.dtype}; expected "
                                f"{there.shape[1:]} of {there.dtype}, as in {remote.url(first.path)}")
        if not 0 <= index[row] < here.shape[0]:
            raise HetacumnError(f"{table.path}: row {row + 1} names image {index[row] + 1} of {remote.url(stack.path)}, which "
                                f"holds {here.shape[0]}")


def _runs(stacks: list[RemoteStack], index: np.ndarray, missing: np.ndarray) -> Iterator[_Run]:
    """Missing images grouped into neighbours, stack by stack; the order in which they lie in the archive."""
    order = sorted(missing.tolist(), key=lambda place: (stacks[place].path, index[place]))
    run = None
    for place in order:
        stack, number = stacks[place], int(index[place])
        if run and run.stack.path == stack.path and number == run.first + len(run.places) and (
            (len(run.places) + 1) * stack.layout.image_bytes <= RUN_BYTES
        ):
            run.places.append(place)
            continue
        if run:
            yield run
        run = _Run(stack, number, [place])
    if run:
        yield run


def _fetch_images(remote: Remote, stacks: list[RemoteStack], index: np.ndarray, out: Path, progress: bool) -> None:
    """Fill ``particles.mrcs``; the journal says which images of the unfinished one are there."""
    whole, part = out / "particles.mrcs", out / "particles.mrcs.part"
    if whole.exists():
        return
    size, done = stacks[0].layout.image_bytes, np.zeros(len(stacks), dtype=bool)
    if part.exists() and _journal(out).exists():
        lines = _journal(out).read_text().rpartition("\n")[0]  # the last may be cut short
        here = np.array(lines.split(), dtype=np.int64)
        done[here[(here >= 0) & (here < len(done))]] = True
    else:
        _journal(out).unlink(missing_ok=True)
        part.write_bytes(_local_header(stacks[0].layout, len(stacks)))
        os.truncate(part, HEADER_BYTES + size * len(stacks))
    missing = (~done).nonzero()[0]
    tqdm.write(f"{len(missing)} of {len(stacks)} images to download from {len({s.path for s in stacks})} stacks: "
               f"{len(missing) * size / 1e6:.1f} MB")
    with open(part, "r+b") as file, open(_journal(out), "a") as journal, tqdm(
        total=len(stacks) * size, initial=int(done.sum()) * size, desc="images", unit="B", unit_scale=True,
        disable=not progress,
    ) as bar:
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


def _local_header(layout: Layout, count: int) -> bytes:
    """The remote stack's header, of ``count`` images and without an extension."""
    header = layout.header.copy()
    cell = float(header["cella"]["x"])
    header["nz"], header["mz"] = count, 1  # a stack of images, not a volume
    header["nsymbt"] = header["ispg"] = 0
    header["cella"]["z"] = cell / max(1, int(header["mx"]))
    return header.tobytes()
