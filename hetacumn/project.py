"""Where the project is, what it is set to, what ran it; and files that are whole or not there."""

import ctypes
import errno
import json
import os
import platform
import re
import resource
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from hetacumn.errors import HetacumnError
from hetacumn.settings import check_sections, merged

PIPELINE_SETTINGS = "params.yaml"
#: What the settings of a command begin with. All that is not here has the default of its dataclass.
DEFAULTS = {"seed": 0, "stack": {"box": 32, "trained_share": 0.7}, "methods": {"hetacumn": {}, "em": {}}}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, a quota, the largest file allowed


def root() -> Path:
    """The project's folder: the nearest one, from the working directory up, with dvc.yaml and params.yaml.

    The search begins in the working directory, not beside this file: DVC runs queued experiments in a copy of the project.

    Raises:
        HetacumnError: no such folder.
    """
    folder = find_root()
    if folder is None:
        raise HetacumnError(f"no folder from {Path.cwd()} upwards holds both dvc.yaml and params.yaml: "
                            "run this inside the project")
    return folder


def find_root() -> Path | None:
    """The folder of :func:`root`; None outside a project."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / PIPELINE_SETTINGS).is_file():
            return folder
    return None


def params(over: str | os.PathLike | Mapping = "", settings: str | os.PathLike = PIPELINE_SETTINGS) -> dict:
    """The settings of the paper's pipeline, or the defaults, as nested dicts, with other settings laid over them.

    ``settings``: params.yaml stands for the file of the project around the working directory, and for the defaults where
    there is no project; any other name for that file; an empty one for the defaults. ``over``: a YAML file or a mapping.

    Raises:
        HetacumnError: no such file, not valid YAML, or an unknown section.
    """
    if str(settings) == PIPELINE_SETTINGS:
        folder = find_root()
        settings = folder / PIPELINE_SETTINGS if folder else ""
    base = _read_yaml(Path(settings)) if settings else DEFAULTS
    name = "overrides" if isinstance(over, Mapping) else str(over)
    return merged({str(settings) or "defaults": base, name: read_overrides(over)})


def read_overrides(over: str | os.PathLike | Mapping = "") -> dict:
    """The settings of a YAML file, none if none is named; a mapping as it is.

    Raises:
        HetacumnError: no such file, or not valid YAML.
    """
    if isinstance(over, Mapping):
        return dict(over)
    return _read_yaml(Path(over)) if over else {}


def _read_yaml(path: Path) -> dict:
    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except OSError:
        raise HetacumnError(f"{path}: no such file; expected settings in YAML") from None
    except (yaml.YAMLError, ValueError) as error:
        raise HetacumnError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise HetacumnError(f"{path}: holds a {type(settings).__name__}; expected names and values")
    check_sections(settings, str(path))
    return settings


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


def peak_memory_mb() -> float:
    """The most memory this process has held so far (resident set, MB of 10⁶ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def keep_freed_memory() -> None:
    """Let the process keep what it frees, up to 512 MB, and take arrays of up to 256 MB from it (glibc only).

    For loops whose arrays of tens of MB come and go at every step: fresh pages for each cost more than the arithmetic.
    Not for arrays of ever new sizes, which would leave holes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 2**28)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**29)  # M_TRIM_THRESHOLD


def make_folder(path: str | os.PathLike) -> Path:
    """Make a folder for output, with its parents, unless it exists; return its path.

    Raises:
        HetacumnError: the path or one of its parents is a file, or the folder cannot be made or written into.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(place for place in (path, *path.parents) if place.exists() and not place.is_dir())
        raise HetacumnError(f"{file}: is a file; expected a folder to write into") from None
    except OSError as error:
        raise HetacumnError(f"{path}: cannot be made ({os.strerror(error.errno)}); expected a folder to write into") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise HetacumnError(f"{path}: is read-only; expected a folder to write into")
    return path


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` at the end, or remove it after an error.

    A reader sees the old file or the whole new one, never a half. The temporary name keeps the suffix, by
    which writers choose their format, and says who writes: what a process of this machine that was killed has left is
    removed. Missing parent folders are made.

    Raises:
        HetacumnError: the disk, or a quota, is full; or the folder cannot be written into, see :func:`make_folder`.
    """
    path = Path(path)
    make_folder(path.parent)
    machine = re.sub(r"\W", "_", platform.node())
    _remove_orphans(path, machine)
    temporary = path.with_name(f".{path.stem}.{machine}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        before = "what it held before is still there" if path.exists() else "it was not made"
        raise HetacumnError(f"{path}: cannot be written ({os.strerror(error.errno)}); {before}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _remove_orphans(path: Path, machine: str) -> None:
    """Remove temporary files of a path whose processes are no more."""
    written = re.compile(rf"{re.escape(f'.{path.stem}.{machine}-')}(\d+)-[0-9a-f]+{re.escape(path.suffix)}")
    for other in path.parent.iterdir():
        found = written.fullmatch(other.name)
        if found and not _is_alive(int(found[1])):
            other.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


def write_json(path: str | os.PathLike, content: object) -> None:
    """Write `content` as indented JSON, atomically; keys stay in their order."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


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
