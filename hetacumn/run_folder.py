"""The folder of a run: models, ab initio starts, settings and facts, written and read back.

``model.safetensors`` or, for the ``em`` baseline, ``start.safetensors``; ``config.json``: the settings, the stack and its
preprocessing; ``run.json``: what differs from run to run.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hetacumn.ab_initio import Start
from hetacumn.errors import HetacumnError
from hetacumn.fingerprint import StackFingerprint
from hetacumn.model import HetACUMN, build_model
from hetacumn.preprocess import Preprocessing
from hetacumn.project import atomic_path, provenance, write_json
from hetacumn.settings import merged
from hetacumn.train_config import TrainConfig

START, MODEL = "start.safetensors", "model.safetensors"
UNDER_WAY = "start_under_way"
CHECKPOINT = "checkpoint.pt"
START_NAMES = {"volumes": "classes", "components": "latent_dim"}  # the user's names of settings of a start


def read_run(out: Path | str) -> dict:
    """Read the facts that differ from run to run (seconds, memory, device), which are kept apart from the results."""
    path = Path(out) / "run.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_facts(out: Path, facts: dict) -> None:
    """Write ``config.json``; called once the model exists, so that the file of an earlier model stays beside that model."""
    write_json(out / "config.json", {**facts, **provenance()})


def read_config(out: Path | str) -> dict:
    """Read a run's ``config.json``: method, ``config``, box, pixel size, stack and versions."""
    path = Path(out) / "config.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HetacumnError(f"{path}: expected the settings of a run ({error})") from error


def load_config(out: Path | str) -> TrainConfig:
    """Read the settings in a run's ``config.json``."""
    try:
        return TrainConfig.from_params(read_config(out)["config"])
    except KeyError as error:
        raise HetacumnError(f"{Path(out) / 'config.json'}: expected the settings of a run (no {error})") from error


def trained_preprocessing(out: Path | str, stack: object, over: object = None) -> Preprocessing:
    """Read how the training images of a folder's model were preprocessed, with settings ``over`` laid on top.

    Where the folder does not say, ``stack`` of the settings file stands in.
    """
    facts = read_config(out)
    return Preprocessing.from_params(merged({"": facts.get("preprocessing") or stack, "stack": over}), box=facts["box"])


def _write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(save(tensors, {"facts": json.dumps(facts)}))


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    if not path.exists():
        raise HetacumnError(f"{path}: no such file; train first")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])
    except (SafetensorError, TypeError, KeyError) as error:
        raise HetacumnError(f"{path}: expected a safetensors file of this program ({error})") from error


def save_model(path: Path, model: HetACUMN, config: TrainConfig, box: int, pixel_A: float) -> None:
    """Write the weights and, in the file's header, config, box and pixel size."""
    _write_tensors(path, model.state_dict(), {"config": asdict(config), "box": box, "pixel_A": pixel_A})


@dataclass(frozen=True)
class TrainedModel:
    """A network read back, with its config, box in pixels and pixel size in Å."""

    model: HetACUMN
    config: TrainConfig
    box: int
    pixel_A: float

    def basis(self) -> Tensor:
        """Mean and components ``(1 + q, box, box, box)`` that stand for the decoder's volumes."""
        with torch.no_grad():
            return self.model.decoder.linear_basis()


def load_model(out: Path | str, device: torch.device | str = "cpu") -> TrainedModel:
    """Read the network of a finished run's folder."""
    tensors, facts = _read_tensors(Path(out) / MODEL)
    config = TrainConfig.from_params(facts["config"])
    model = build_model(config, facts["box"])
    model.load_state_dict(tensors)
    return TrainedModel(model.to(device).eval(), config, facts["box"], facts["pixel_A"])


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict:
    """Read the state of an interrupted training. Raises :class:`HetacumnError` where the file is no checkpoint."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds of errors, over many lines
        raise HetacumnError(f"{path}: not a readable checkpoint; delete it to begin anew") from error


def checkpoint_settings(config: TrainConfig) -> str:
    """The settings as a checkpoint stores them."""
    return json.dumps(asdict(config))


def check_checkpoint(path: Path, state: dict, config: TrainConfig, stack: StackFingerprint) -> None:
    """Raise :class:`HetacumnError` where a checkpoint is of other settings or another stack."""
    same = StackFingerprint.from_json(state.get("stack"), path).matches(stack)
    if not same or state["config"] != checkpoint_settings(config):
        raise HetacumnError(f"{path}: from a run with other settings or particles; delete it to begin anew")


def save_start(path: Path, start: Start, stack: StackFingerprint, settings: dict) -> None:
    """Write an ab initio start as safetensors, with the fingerprint of its stack and the
    :meth:`~hetacumn.train_config.TrainConfig.start_settings` that it was made with."""
    facts = {"route": start.route, "scores": start.scores, "stack": stack.to_json(), "settings": settings}
    _write_tensors(path, start.tensors(), facts)


def load_start(path: Path, stack: StackFingerprint | None = None) -> Start:
    """Read an ab initio start. Raises :class:`HetacumnError` where its stack does not match a given fingerprint."""
    tensors, facts = _read_tensors(path)
    if stack is not None:
        _check_stack(path, facts, stack)
    return Start.of(tensors, facts["route"], facts["scores"])


def saved_settings(path: Path) -> dict:
    """Read the settings that a start was made with."""
    return _read_tensors(path)[1]["settings"]


def check_settings(path: Path, settings: dict, requested: dict) -> None:
    """Raise :class:`HetacumnError` where a start, or a part of one, was made with other settings than requested."""
    if settings != requested:
        differing = (name for name in requested if requested[name] != settings.get(name))
        names = ", ".join(START_NAMES.get(name, name) for name in differing)
        raise HetacumnError(f"{path}: made with other {names}; delete it to begin anew, or choose another folder")


def _check_stack(path: Path, facts: dict, stack: StackFingerprint) -> None:
    saved = StackFingerprint.from_json(facts["stack"], path)
    if not saved.matches(stack):
        raise HetacumnError(f"{path}: made from another stack ({saved}); expected {stack}; delete it or choose another folder")


class StartUnderWay:
    """The finished steps of an ab initio start: ``out/start_under_way/``, a file a step, for one stack and settings.

    ``seconds`` is the time they took. The folder is removed when the start is complete.
    """

    def __init__(self, out: Path, stack: StackFingerprint, settings: dict):
        self.folder, self.stack, self.settings, self.seconds = out / UNDER_WAY, stack, settings, 0.0

    @staticmethod
    def files(out: Path) -> list[Path]:
        """The files of the finished steps of a start under way in ``out``, one a step."""
        return sorted((out / UNDER_WAY).glob("[!.]*.safetensors"))

    def read(self) -> dict[str, dict[str, Tensor]]:
        """Read the steps, by name. Raises :class:`HetacumnError` where they are of another stack or other settings."""
        steps = {}
        for path in self.files(self.folder.parent):
            steps[path.stem], facts = _read_tensors(path)
            _check_stack(self.folder, facts, self.stack)
            check_settings(self.folder, facts["settings"], self.settings)
            self.seconds = max(self.seconds, facts["seconds"])
        return steps

    def write(self, name: str, tensors: dict[str, Tensor], seconds: float) -> None:
        """Write a step that was finished so many seconds after the beginning."""
        facts = {"stack": self.stack.to_json(), "settings": self.settings, "seconds": seconds}
        _write_tensors(self.folder / f"{name}.safetensors", tensors, facts)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class SearchModel:
    """The ``em`` baseline read back: to an ab initio start what :class:`TrainedModel` is to a network."""

    start: Start
    config: TrainConfig
    box: int
    pixel_A: float

    def basis(self) -> Tensor:
        """Mean and components ``(1 + q, box, box, box)`` of the volumes."""
        return self.start.basis


def load_em(folder: Path | str, device: torch.device | str = "cpu") -> SearchModel:
    """Read the ab initio start of a folder, as a model for prediction by search."""
    start, config = load_start(Path(folder) / START), load_config(folder)
    return SearchModel(start.to(device), config, start.basis.shape[-1], read_config(folder)["pixel_A"])
