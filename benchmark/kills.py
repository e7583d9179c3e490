"""Test of robustness against kills: a small `make repro`, killed at random moments and restarted, produces equal results.

The script runs a clone of the committed repository with toy settings once without kills. Then it deletes the results and runs
the clone again. It kills the run with all child processes (SIGKILL) at random moments and restarts it until it is done. It
repeats this procedure until there are enough kills. Every output must have the hash of the run without kills.

The script writes benchmark/kills.csv: kill, at_seconds (since the last start), stage (running stages), resumed (the next start
continued without an error), equal (the outputs have the expected hashes).

Usage: python benchmark/kills.py [KILLS]
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import yaml
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
KILLS = 50
LONGEST = 30.0  # longest time before a kill, in seconds
TARGET = "evaluate@adk"
TOY = {"particles": 120, "box": 64, "pixel_A": 1.6, "snr": 1.0}
QUICK = {
    "latent_dim": 2, "network": {"templates": 128, "width": 64}, "alone_steps": 400, "joint_epochs": 3.0, "batch": 20,
    "checkpoint_seconds": 0.5,
    "ab_initio": {"consensus": {"restarts": 1, "steps": 30, "grids": [[1, 8], [2, 12]]},
                  "classes": {"steps": 25, "grids": [[2, 12]]}, "subspace_steps": 8, "batch": 40,
                  "grid": {"rotations": [2, 12], "extent": 0.0}, "routes": ["classes"]},
}  # fmt: skip


class Project:
    """A clone of the repository with toy settings, which can run from scratch any number of times."""

    def __init__(self, folder: Path):
        self.folder = folder
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        (folder / "data").symlink_to(ROOT / "data")
        (folder / "data.dvc").unlink()
        params = yaml.safe_load((folder / "params.yaml").read_text())
        params["datasets"] = {"adk": params["datasets"]["adk"] | TOY}
        params["stack"]["box"] = 24
        params["train"] = QUICK
        for method in params["methods"].values():
            method.pop("joint_epochs", None)
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        self.forget()  # also removes dvc.lock of the committed results

    def forget(self) -> None:
        """Remove all results, and DVC's cache and lock."""
        for name in ("results", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "dvc.lock").unlink(missing_ok=True)

    def run(self, target: str, seconds: float | None = None) -> tuple[int | None, str]:
        """Run until done, or kill the run after ``seconds``; return the exit status (None if killed) and the output."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(self.folder), "CUDA_VISIBLE_DEVICES": "",
                       "DVC_NO_ANALYTICS": "1"}  # fmt: skip
        command = [sys.executable, "scripts/repro.py", target]
        with open(self.folder / "output", "w+") as output:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
                _kill(process)
            output.seek(0)
            return code, output.read()

    def made(self) -> dict[str, str]:
        """Return path → hash of every output in dvc.lock."""
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text())
        return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


def _kill(process: subprocess.Popen) -> None:
    """Kill a process and all its child processes, including those in other sessions."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(family, 20)
    process.wait()


def at_work(output: str) -> str:
    """Return the names of the stages that have started and are not done, from the output of scripts/repro.py."""
    started, done = (re.findall(rf"^(\S+): {word}", output, re.MULTILINE) for word in ("started", "done"))
    return "; ".join(sorted(set(started) - set(done))) or "none"


def kill_and_resume(folder: Path, kills: int, target: str, longest: float, seed: int = 0) -> pd.DataFrame:
    """Clone the project into a new folder, kill it ``kills`` times, and return the table of the kills."""
    draw, rows = random.Random(seed), []
    project = Project(folder)
    code, output = project.run(target)
    if code:
        raise RuntimeError(f"the run without kills failed:\n{output[-2000:]}")
    expected = project.made()
    with tqdm(total=kills, desc="kills") as bar:
        while len(rows) < kills:
            project.forget()
            first = len(rows)
            while True:
                wait = draw.uniform(1.0, longest) if len(rows) < kills else None
                code, output = project.run(target, wait)
                if len(rows) > first:
                    rows[-1]["resumed"] = code in (None, 0)
                if code is not None:
                    break
                rows.append({"kill": len(rows) + 1, "at_seconds": round(wait, 1), "stage": at_work(output)})
                bar.update()
            for row in rows[first:]:
                row["equal"] = code == 0 and project.made() == expected
            if code:
                print(output[-2000:], file=sys.stderr)
    return pd.DataFrame(rows)


def main(kills: int) -> int:
    """Run the test, write and summarise the table; return the exit status."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        table = kill_and_resume(Path(folder) / "project", kills, TARGET, LONGEST)
    table.to_csv(Path(__file__).with_name("kills.csv"), index=False)
    good = int((table["resumed"] & table["equal"]).sum())
    print(f"{good} of {len(table)} killed runs resumed with equal results, in {(time.monotonic() - began) / 60:.0f} min")
    return int(good < len(table))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else KILLS))
