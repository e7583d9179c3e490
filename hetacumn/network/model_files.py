"""Files of the network: weights with their settings, and checkpoints of training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.ab_initio.start import MODEL
from hetacumn.common.errors import HetacumnError
from hetacumn.common.run_files import read_config
from hetacumn.common.settings import merged
from hetacumn.common.tensors import read_tensors, write_tensors
from hetacumn.network.config import TrainConfig
from hetacumn.network.model import HetACUMN, build_model
from hetacumn.particles.observations import StackFingerprint
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.search.focus import Focus

CHECKPOINT = "checkpoint.pt"


def trained_preprocessing(out: Path | str, stack: object, over: object = None) -> Preprocessing:
    """Read the preprocessing of the training images from the run folder ``out``, overridden by the settings ``over``.

    If the folder does not record the preprocessing, the function uses ``stack``, the section of the settings file.
    """
    facts = read_config(out)
    return Preprocessing.from_params(merged({"": facts.get("preprocessing") or stack, "stack": over}), box=facts["box"])


def save_model(path: Path, model: HetACUMN, config: TrainConfig, box: int, pixel_A: float) -> None:
    """Write the weights as safetensors, with config, box and pixel size in the header of the file."""
    write_tensors(path, model.state_dict(), {"config": asdict(config), "box": box, "pixel_A": pixel_A})


@dataclass(frozen=True)
class TrainedModel:
    """A network read from its file, with its config, box in pixels and pixel size in Å."""

    model: HetACUMN
    config: TrainConfig
    box: int
    pixel_A: float

    def basis(self) -> Float[Tensor, "j {self.box} {self.box} {self.box}"]:
        """Return mean and components of the linear approximation of the decoder's volumes."""
        with torch.no_grad():
            return self.model.decoder.linear_basis()


def load_model(out: Path | str, device: torch.device | str = "cpu") -> TrainedModel:
    """Read the network in the folder ``out`` of a finished run."""
    tensors, facts = read_tensors(Path(out) / MODEL)
    config = TrainConfig.from_params(facts["config"])
    model = build_model(config, facts["box"], focus=Focus.of_run(out))
    if set(tensors) != set(model.state_dict()):
        raise HetacumnError(f"{Path(out) / MODEL}: weights of another version of HetACUMN; train again")
    model.load_state_dict(tensors)
    return TrainedModel(model.to(device).eval(), config, facts["box"], facts["pixel_A"])


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict:
    """Read the state of an interrupted training run. Raises :class:`HetacumnError` if the file is no checkpoint."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds of errors, with messages of many lines
        raise HetacumnError(f"{path}: not a readable checkpoint; delete it to begin anew") from error


def checkpoint_settings(config: TrainConfig) -> str:
    """Convert the settings to the form that a checkpoint stores."""
    return json.dumps(asdict(config))


def check_checkpoint(path: Path, state: dict, config: TrainConfig, stack: StackFingerprint) -> None:
    """Raise :class:`HetacumnError` if a checkpoint is from a run with other settings or another stack."""
    same = StackFingerprint.from_json(state.get("stack"), path).matches(stack)
    if not same or state["config"] != checkpoint_settings(config):
        raise HetacumnError(f"{path}: from a run with other settings or particles; delete it to begin anew")
