"""Run an external program within a limit of processor time, with its output in a file and its progress on the screen.

The limit counts processor time, not clock time: other work on the machine does not shorten the run of a program.
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

GRACE_SECONDS = 20.0  # between SIGTERM and SIGKILL
ONE_CORE = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # the limit counts the time of one core
PATIENCE = 4.0  # an idle program is stopped when the clock has reached the limit this many times over

Argument = str | Path | int | float  # of a command


@dataclass(frozen=True)
class Outcome:
    """The end of a program: by itself (``finished``) or at its limit.

    ``seconds`` is the processor time of the program and its children, ``clock_seconds`` the time of the clock.
    """

    finished: bool
    seconds: float
    clock_seconds: float

    def then(self, other: Outcome) -> Outcome:
        """Combine this outcome with the outcome of a second program that ran after it."""
        return Outcome(self.finished and other.finished, self.seconds + other.seconds, self.clock_seconds + other.clock_seconds)


def find_program(name: str, folder: Path | str | None = None, hint: str = "") -> str:
    """Find the absolute path of a program, in ``folder`` or on the PATH. Raises :class:`HetacumnError` where it is absent."""
    found = shutil.which(name, path=None if folder is None else str(folder))
    if found is None:
        raise HetacumnError(f"{name}: not found {f'in {folder}' if folder else 'on the PATH'}; {hint}")
    return str(Path(found).absolute())


def run_bounded(
    command: Sequence[Argument],
    log: Path,
    seconds: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    poll: float = 0.5,
) -> Outcome:
    """Run a program for at most ``seconds`` of processor time; append its output to ``log``.

    At the limit, and where this process is interrupted, the program and its children are asked to stop (SIGTERM) and killed
    after a grace period (SIGKILL). Raises :class:`HetacumnError` with the last lines of the output if the program fails.
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
        before = _ended_children_seconds()
        try:
            code, used = _watch(process, Path(words[0]).name, seconds, began, poll)
        finally:
            _stop(process)
    took, used = time.monotonic() - began, max(used, _ended_children_seconds() - before)
    if code not in (None, 0):
        last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise HetacumnError(f"{words[0]} ended with exit status {code} after {took:.0f} s; the last lines of {log}:\n{last}")
    return Outcome(code == 0, used, took)


def _watch(process: subprocess.Popen, name: str, seconds: float, began: float, poll: float) -> tuple[int | None, float]:
    """Wait for a program; return its exit status, None at the limit, and the processor time observed."""
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
    """Add up the processor time of a running process and of its children, ended ones included."""
    total, family = 0.0, []
    with suppress(psutil.NoSuchProcess):  # it ended meanwhile
        family = [main := psutil.Process(pid), *main.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _ended_children_seconds() -> float:
    """Add up the processor time of all children of this process that ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _stop(process: subprocess.Popen) -> None:
    """Stop the program, if it still runs, and all its children."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
