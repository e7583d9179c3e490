"""The software versions and the git commit that produced a result."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version


def provenance() -> dict[str, str | None]:
    """Return the versions of hetacumn, Python, PyTorch and NumPy, and :func:`git_commit`, to be saved with a result.

    The version of hetacumn is None where the package is not installed.
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
    """Return the checked-out commit of the working directory; None outside git.

    "+dirty" is appended where tracked ``.py``, ``.ipynb`` or ``.yaml`` files differ from the commit. Changes of other files,
    which pipelines write (locks, tables, figures), do not count.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        written_by_hand = [f":/*.{kind}" for kind in ("py", "ipynb", "yaml")]
        differ = git("status", "--porcelain", "--untracked-files=no", "--", *written_by_hand)
        return commit + ("+dirty" if differ else "")
    except (OSError, subprocess.CalledProcessError):
        return None
