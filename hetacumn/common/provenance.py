"""The versions and the git commit that made a result."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version


def provenance() -> dict[str, str | None]:
    """Collect the versions and the git commit that make a result, to be written beside the result.

    ``git_commit`` is the commit of the working directory, with "+dirty" after it where tracked code or settings differ, and
    None outside git. Files that pipelines write (locks, tables, figures) do not count.
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
    """Return the commit that is checked out, "+dirty" after it where tracked code or settings differ; None outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        written_by_hand = [f":/*.{kind}" for kind in ("py", "ipynb", "yaml")]
        differ = git("status", "--porcelain", "--untracked-files=no", "--", *written_by_hand)
        return commit + ("+dirty" if differ else "")
    except (OSError, subprocess.CalledProcessError):
        return None
