"""cryoDRGN-AI on one GPU, at its default settings and for a limit of clock time."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from hetacumn.baselines.cryodrgn import CryodrgnConfig, read_predictions
from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import make_folder
from hetacumn.common.project import project_root
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack

LATENT_DIM = 8  # cryoDRGN has no default; CryoBench sets 8
CONFIG = CryodrgnConfig(command="abinit")


def find_cryodrgn() -> str | None:
    """Return the path of cryoDRGN in the environment of `make peers`, or on the PATH; None if it is not installed."""
    own = project_root() / ".venv-peers/bin"
    return shutil.which("cryodrgn", path=f"{own}{os.pathsep}{os.environ.get('PATH', '')}")


def run_cryodrgn_ai(stack: PreparedStack, out: Path, classes: int, seconds: float) -> tuple[Predictions, dict]:
    """Train cryoDRGN-AI on a prepared stack; return the predictions of its last complete epoch, its epochs and its seconds.

    ``out`` receives its files and its log, ``cryodrgn.log``; files of an earlier call are removed.

    Raises:
        HetacumnError: cryoDRGN is missing or fails, or it completes no epoch in the limit of ``seconds``.
    """
    program = find_cryodrgn()
    if program is None:
        raise HetacumnError("cryodrgn: not found; expected the environment of `make peers`")
    shutil.rmtree(out, ignore_errors=True)
    out, began = make_folder(out).resolve(), time.monotonic()
    run_until([program, "parse_ctf_star", str(stack.star.resolve()), "-o", str(out / "ctf.pkl")], out, stack.folder, seconds)
    command = [program, "abinit", str(stack.stack.resolve()), "--ctf", str(out / "ctf.pkl"), "--zdim", str(LATENT_DIM),
               "--checkpoint", "1", "--no-analysis", "-o", str(out)]  # fmt: skip
    finished = run_until(command, out, stack.folder, seconds - (time.monotonic() - began))
    took, epochs = time.monotonic() - began, complete_epochs(out)
    if not epochs:
        raise HetacumnError(f"{out / 'cryodrgn.log'}: cryoDRGN-AI completed no epoch in {took:.0f} s; expected more time")
    found = read_predictions(out, epochs[-1], stack, classes, CONFIG)
    return found, {"epochs": len(epochs), "finished": finished, "seconds": took}


def run_until(command: list[str], out: Path, folder: Path, seconds: float) -> bool:
    """Run a program in ``folder``; stop it after so many seconds of clock time; return whether it finished.

    Raises:
        HetacumnError: the program fails.
    """
    log = out / "cryodrgn.log"
    with open(log, "a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True)
        try:
            code = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise HetacumnError(f"{command[0]} ended with exit status {code}; the last lines of {log}:\n{last}")
    return True


def complete_epochs(out: Path) -> list[int]:
    """List the epochs with weights, which cryoDRGN-AI writes after the latents and the poses of an epoch."""
    names = (re.fullmatch(r"weights\.(\d+)\.pkl", path.name) for path in out.iterdir())
    return sorted(int(name[1]) for name in names if name)
