"""Run an external program within a limit of processor time, with its output in a file and its progress on the screen.

Processor time and not that of the clock: what else the machine does takes nothing from what a program is given.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from tqdm import tqdm

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import make_folder

GRACE_SECONDS = 20.0  # between asking a program to stop and making it
ONE_CORE = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # what is counted is the time of a core
PATIENCE = 4.0  # a program that does little is stopped after so many times its seconds by the clock


@dataclass(frozen=True)
class Outcome:
    """How a program ended: by itself (``finished``) or at its limit; the seconds of processors it took, its children's too,
    and those of the clock."""

    finished: bool
    seconds: float
    clock_seconds: float

    def then(self, other: Outcome) -> Outcome:
        """This and another after it."""
        return Outcome(self.finished and other.finished, self.seconds + other.seconds, self.clock_seconds + other.clock_seconds)


def find_program(name: str, folder: Path | str | None = None, hint: str = "") -> str:
    """The absolute path of a program, in ``folder`` or on the PATH. Raises :class:`HetacumnError`: it is not there."""
    found = shutil.which(name, path=None if folder is None else str(folder))
    if found is None:
        raise HetacumnError(f"{name}: not found {f'in {folder}' if folder else 'on the PATH'}; {hint}")
    return str(Path(found).absolute())


def run_bounded(
    command: Sequence[str | Path | int | float],
    log: Path,
    seconds: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    poll: float = 0.5,
) -> Outcome:
    """Run a program for at most ``seconds`` of processor time; its output goes to ``log``, which is appended to.

    At the limit, and where this process is interrupted, the program and its children are asked to stop (SIGTERM) and
    after a while made to (SIGKILL). Raises :class:`HetacumnError` with the last lines of its output if it fails by itself.
    """
    make_folder(log.parent)
    words, began = [str(word) for word in command], time.monotonic()
    with open(log, "a") as output:
        output.write(f"$ {' '.join(words)}\n")
        output.flush()
        process = subprocess.Popen(
            words,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            start_new_session=True,
            env={**os.environ, **ONE_CORE, **(environment or {})},
        )
        before = _of_ended_children()
        try:
            code, used = _watch(process, Path(words[0]).name, seconds, began, poll)
        finally:
            _stop(process)
    took, used = time.monotonic() - began, max(used, _of_ended_children() - before)
    if code not in (None, 0):
        last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise HetacumnError(f"{words[0]} ended with exit status {code} after {took:.0f} s; {log} says at its end:\n{last}")
    return Outcome(code == 0, used, took)


def _watch(process: subprocess.Popen, name: str, seconds: float, began: float, poll: float) -> tuple[int | None, float]:
    """The exit status, or None if the time is up first; and the processor time seen."""
    used = 0.0
    with tqdm(total=round(seconds), desc=name, unit="s", mininterval=10) as bar:
        while True:
            try:
                return process.wait(poll), used
            except subprocess.TimeoutExpired:
                used = max(used, _processor_seconds(process.pid))
                bar.update(min(round(used), bar.total) - bar.n)
                if used >= seconds or time.monotonic() - began >= PATIENCE * seconds:
                    return None, used


def _processor_seconds(pid: int) -> float:
    """What a running process and its children have used, those that ended too."""
    total, family = 0.0, []
    with suppress(psutil.NoSuchProcess):  # it ended as we looked
        family = [main := psutil.Process(pid), *main.children(recursive=True)]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _of_ended_children() -> float:
    """What this process's children have used that ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _stop(process: subprocess.Popen) -> None:
    """Nothing of the program is left running, its children neither, whether it still runs or not."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
