"""The versions and the git commit that made a result."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version


def provenance() -> dict[str, str | None]:
    """What a result was made by: versions and git commit, to be written beside the result.

    `git_commit` is that of the working directory, with "+dirty" after it where tracked code or settings differ
    (what pipelines write themselves, locks, tables and figures, says nothing), and None outside git.
    """
    import numpy
    import torch

    try:
        own_version = version("hetacumn")
    except PackageNotFoundError:  # run from a checkout that was never installed
        own_version = None
    return {
        "hetacumn": own_version,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit that is checked out, "+dirty" after it where tracked code or settings differ; None outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        written_by_hand = [f":/*.{kind}" for kind in ("py", "ipynb", "yaml")]
        differ = git("status", "--porcelain", "--untracked-files=no", "--", *written_by_hand)
        return commit + ("+dirty" if differ else "")
    except (OSError, subprocess.CalledProcessError):
        return None
