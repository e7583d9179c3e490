"""Run an external program within a limit of processor time, with a log file and a progress bar.

The limit counts processor time and not clock time, so that other work on the machine does not shorten the run.
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
ONE_CORE = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # environment: one CPU core and no GPU
PATIENCE = 4.0  # multiple of the limit in clock time at which an idle program is stopped

Argument = str | Path | int | float  # one word of a command


@dataclass(frozen=True)
class Outcome:
    """The outcome of a program run.

    - ``finished``: True if the program ended by itself, False if it was stopped at the limit.
    - ``seconds``: processor time of the program and its child processes.
    - ``clock_seconds``: clock time.
    """

    finished: bool
    seconds: float
    clock_seconds: float

    def then(self, other: Outcome) -> Outcome:
        """Combine this outcome with a later one: add the times, and set ``finished`` if both runs finished."""
        return Outcome(self.finished and other.finished, self.seconds + other.seconds, self.clock_seconds + other.clock_seconds)


def find_program(name: str, folder: Path | str | None = None, hint: str = "") -> str:
    """Return the absolute path of a program in ``folder`` or on the PATH; raise :class:`HetacumnError` if it is missing."""
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

    At the limit, or if this process is interrupted, the function sends SIGTERM to the program and its child processes, and
    SIGKILL after a grace period of 20 s. ``poll`` is the time between two checks in seconds.

    Raises:
        HetacumnError: the program fails; the message contains the last lines of the output.
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


def run_to_end(command: Sequence[Argument], log: Path, seconds: float, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run a program as :func:`run_bounded`.

    Raises:
        HetacumnError: the program fails, or does not finish within ``seconds`` of processor time.
    """
    outcome = run_bounded(command, log, seconds, environment=environment)
    if not outcome.finished:
        raise HetacumnError(f"{log}: the program did not finish in {outcome.seconds:.0f} s; increase the time limit")
    return outcome


def _watch(process: subprocess.Popen, name: str, seconds: float, began: float, poll: float) -> tuple[int | None, float]:
    """Wait for a program; return its exit status (None if it reached the limit) and the processor time measured so far."""
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
    """Return the processor time of a running process and of its child processes, including ended ones."""
    total, family = 0.0, []
    with suppress(psutil.NoSuchProcess):  # the process has ended in the meantime
        family = [main := psutil.Process(pid), *main.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _ended_children_seconds() -> float:
    """Return the processor time of all ended child processes of this process."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _stop(process: subprocess.Popen) -> None:
    """Stop the program and its child processes, if they still run."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
