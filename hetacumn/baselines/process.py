"""Run an external program within a time limit, with its output in a file and its progress on the screen."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from hetacumn.errors import HetacumnError

GRACE_SECONDS = 20.0  # between asking a program to stop and making it


class PeerMissing(HetacumnError):
    """A program that is not installed: reported as missing, never scored as zero."""


@dataclass(frozen=True)
class Outcome:
    """How a program ended: by itself (``finished``) or at its limit, and the seconds it ran."""

    finished: bool
    seconds: float


def find_program(name: str, folder: Path | str | None = None, hint: str = "") -> str:
    """The absolute path of a program, in ``folder`` or on the PATH. Raises :class:`PeerMissing`."""
    found = shutil.which(name, path=None if folder is None else str(folder))
    if found is None:
        raise PeerMissing(f"{name}: not found {f'in {folder}' if folder else 'on the PATH'}; {hint}")
    return str(Path(found).absolute())


def run_bounded(
    command: Sequence[str | Path | int | float], log: Path, seconds: float, cwd: Path | None = None,
    environment: Mapping[str, str] | None = None, poll: float = 0.5,
) -> Outcome:
    """Run a program for at most ``seconds``; its output goes to ``log``, which is appended to.

    At the limit, and where this process is interrupted, the program and its children are asked to stop (SIGTERM) and
    after a while made to (SIGKILL). Raises :class:`HetacumnError` with the last lines of its output if it fails by itself.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    words, began = [str(word) for word in command], time.monotonic()
    with open(log, "a") as output:
        output.write(f"$ {' '.join(words)}\n")
        output.flush()
        process = subprocess.Popen(
            words, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=cwd, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            code = _watch(process, Path(words[0]).name, seconds, began, poll)
        finally:
            _stop(process)
    took = time.monotonic() - began
    if code not in (None, 0):
        last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise HetacumnError(f"{words[0]} ended with exit status {code} after {took:.0f} s; {log} says at its end:\n{last}")
    return Outcome(code == 0, took)


def _watch(process: subprocess.Popen, name: str, seconds: float, began: float, poll: float) -> int | None:
    """The exit status, or None if the time is up first."""
    with tqdm(total=round(seconds), desc=name, unit="s", mininterval=10) as bar:
        while True:
            try:
                return process.wait(poll)
            except subprocess.TimeoutExpired:
                gone = time.monotonic() - began
                bar.update(min(round(gone), bar.total) - bar.n)
                if gone >= seconds:
                    return None


def _stop(process: subprocess.Popen) -> None:
    """Nothing of the program is left running."""
    for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
