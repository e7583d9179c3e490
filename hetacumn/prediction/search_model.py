"""An ab initio start as a model that predicts by exhaustive search: the ``em`` baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.ab_initio.start import Start
from hetacumn.ab_initio.start_files import START, load_start
from hetacumn.common.run_files import read_config
from hetacumn.network.config import TrainConfig, load_config


@dataclass(frozen=True)
class SearchModel:
    """The ``em`` baseline read back: an ab initio start with its config, box in pixels and pixel size in Å."""

    start: Start
    config: TrainConfig
    box: int
    pixel_A: float

    def basis(self) -> Float[Tensor, "j {self.box} {self.box} {self.box}"]:
        """Return the mean and the components of the volumes."""
        return self.start.basis


def load_em(folder: Path | str, device: torch.device | str = "cpu") -> SearchModel:
    """Read the ab initio start of a folder, as a model for prediction by search."""
    start, config = load_start(Path(folder) / START), load_config(folder)
    return SearchModel(start.to(device), config, start.basis.shape[-1], read_config(folder)["pixel_A"])
