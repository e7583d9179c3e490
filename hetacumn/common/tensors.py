"""Safetensors files: named tensors, with further values as JSON in the metadata."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """Write named tensors atomically to a safetensors file, with the mapping ``facts`` as JSON in its metadata."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(save(tensors, {"facts": json.dumps(facts)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read a file of :func:`write_tensors`: the named tensors (on the CPU), and the mapping ``facts`` from the metadata.

    Raises:
        HetacumnError: the file is missing, is damaged, or was written by another program.
    """
    if not path.exists():
        raise HetacumnError(f"{path}: no such file; train first")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])
    except (SafetensorError, TypeError, KeyError) as error:
        raise HetacumnError(f"{path}: cannot be read ({error}); expected a safetensors file of this program") from error
