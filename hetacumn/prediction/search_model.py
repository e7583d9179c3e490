"""The ``em`` baseline: an *ab initio* start used as a model, with prediction by exhaustive search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.ab_initio.start import START, Start, load_start
from hetacumn.common.run_files import read_config
from hetacumn.network.config import TrainConfig, load_config


@dataclass(frozen=True)
class SearchModel:
    """The model of the ``em`` baseline: an *ab initio* start, its training config, box in pixels and pixel size in Å."""

    start: Start
    config: TrainConfig
    box: int
    pixel_A: float

    def basis(self) -> Float[Tensor, "j {self.box} {self.box} {self.box}"]:
        """Return the mean volume, followed by the components."""
        return self.start.basis


def load_em(folder: Path | str, device: torch.device | str = "cpu") -> SearchModel:
    """Read the *ab initio* start in a folder as a model for prediction by exhaustive search."""
    start = load_start(Path(folder) / START)
    config = load_config(folder).with_start(start)
    return SearchModel(start.to(device), config, start.basis.shape[-1], read_config(folder)["pixel_A"])
