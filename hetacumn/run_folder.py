"""The folder of a run: models, ab initio starts, settings and facts, written and read back.

``model.safetensors`` or, of the ``em`` baseline, ``start.safetensors``; ``config.json``: of which settings, of which stack and
how prepared; ``run.json``: what differs from run to run.
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
from hetacumn.classes import classify
from hetacumn.errors import HetacumnError
from hetacumn.model import HetACUMN, build_model
from hetacumn.observations import same_stack
from hetacumn.preprocess import Preprocessing
from hetacumn.project import atomic_path, provenance, write_json
from hetacumn.settings import merged
from hetacumn.train_config import TrainConfig

START, MODEL = "start.safetensors", "model.safetensors"
UNDER_WAY = "start_under_way"


def read_run(out: Path | str) -> dict:
    """The facts of a run that differ from run to run (seconds, memory, device), kept apart from its results."""
    path = Path(out) / "run.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_facts(out: Path, facts: dict) -> None:
    """``config.json``, once there is what it speaks of: until then that of an earlier model there stays beside it."""
    write_json(out / "config.json", {**facts, **provenance()})


def read_config(out: Path | str) -> dict:
    """A run's ``config.json``: method, ``config``, box, pixel size, stack and versions."""
    path = Path(out) / "config.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HetacumnError(f"{path}: expected the settings of a run ({error})") from error


def load_config(out: Path | str) -> TrainConfig:
    """The settings in a run's ``config.json``."""
    try:
        return TrainConfig.from_params(read_config(out)["config"])
    except KeyError as error:
        raise HetacumnError(f"{Path(out) / 'config.json'}: expected the settings of a run (no {error})") from error


def trained_preprocessing(out: Path | str, stack: object, over: object = None) -> Preprocessing:
    """How the images were prepared that the model of a folder was made from, or, if it does not say, ``stack`` of the
    settings; in either case with other settings of ``stack`` laid ``over``."""
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
    """Weights and, in the file's header, what they are: config, box and pixel size."""
    _write_tensors(path, model.state_dict(), {"config": asdict(config), "box": box, "pixel_A": pixel_A})


@dataclass(frozen=True)
class Trained:
    """A model read back: with its config, box and pixel size in Å."""

    model: HetACUMN
    config: TrainConfig
    box: int
    pixel_A: float

    def basis(self) -> Tensor:
        """Mean and components ``(1 + q, box, box, box)`` that stand for the decoder's volumes."""
        with torch.no_grad():
            return self.model.decoder.linear_basis()


def load_model(out: Path | str, device: torch.device | str = "cpu") -> Trained:
    """The model of a finished run's folder."""
    tensors, facts = _read_tensors(Path(out) / MODEL)
    config = TrainConfig.from_params(facts["config"])
    model = build_model(config, facts["box"])
    model.load_state_dict(tensors)
    return Trained(model.to(device).eval(), config, facts["box"], facts["pixel_A"])


def save_start(path: Path, start: Start, stack: str, settings: dict) -> None:
    """An ab initio start, as safetensors, with the :func:`~hetacumn.observations.stack_identity` it is of and
    the :meth:`~hetacumn.train_config.TrainConfig.start_settings` it was made with."""
    facts = {"route": start.route, "scores": start.scores, "stack": stack, "settings": settings}
    _write_tensors(path, start.tensors(), facts)


def load_start(path: Path, stack: str | None = None) -> Start:
    """What :func:`save_start` wrote. Raises :class:`HetacumnError` where that is of another stack than the one of this
    :func:`~hetacumn.observations.stack_identity`, if given."""
    tensors, facts = _read_tensors(path)
    if stack is not None:
        _check_stack(path, facts, stack)
    return Start.of(tensors, facts["route"], facts["scores"])


def saved_settings(path: Path) -> dict:
    """The settings that :func:`save_start` wrote."""
    return _read_tensors(path)[1]["settings"]


def check_settings(path: Path, settings: dict, wanted: dict) -> None:
    """Raises :class:`HetacumnError` where a start, or what is done of one, was made with other settings."""
    if settings != wanted:
        names = ", ".join(name for name in wanted if wanted[name] != settings.get(name))
        raise HetacumnError(f"{path}: made with other {names}; delete it to begin anew, or choose another folder")


def _check_stack(path: Path, facts: dict, stack: str) -> None:
    if not same_stack(facts["stack"], stack):
        raise HetacumnError(f"{path}: of another stack ({facts['stack']}); expected {stack}; delete it or "
                            "choose another folder")


class StartUnderWay:
    """What is done of an ab initio start: ``out/start_under_way/``, a file a step, of one stack and settings; ``seconds`` that
    it took. Gone when the start is whole."""

    def __init__(self, out: Path, stack: str, settings: dict):
        self.folder, self.facts, self.seconds = out / UNDER_WAY, {"stack": stack, "settings": settings}, 0.0

    def read(self) -> dict[str, dict[str, Tensor]]:
        """The steps, by name. Raises :class:`HetacumnError` where they are of another stack or other settings."""
        steps = {}
        for path in self.folder.glob("[!.]*.safetensors"):
            steps[path.stem], facts = _read_tensors(path)
            _check_stack(self.folder, facts, self.facts["stack"])
            check_settings(self.folder, facts["settings"], self.facts["settings"])
            self.seconds = max(self.seconds, facts["seconds"])
        return steps

    def write(self, name: str, tensors: dict[str, Tensor], seconds: float) -> None:
        """A step, so many seconds after the start."""
        _write_tensors(self.folder / f"{name}.safetensors", tensors, {**self.facts, "seconds": seconds})

    def remove(self) -> None:
        """All of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Searcher:
    """The ``em`` baseline read back: what :class:`Trained` is to a network."""

    start: Start
    config: TrainConfig
    box: int
    pixel_A: float
    centres: Tensor

    def basis(self) -> Tensor:
        """Mean and components of the volumes."""
        return self.start.basis


def load_em(folder: Path | str, device: torch.device | str = "cpu") -> Searcher:
    """The ab initio start of a folder, and the latent centres of its classes."""
    start, config = load_start(Path(folder) / START), load_config(folder)
    start = start.to(device)
    centres = classify(start.latents, config.classes, config.seed).centres.to(device)
    return Searcher(start, config, start.basis.shape[-1], read_config(folder)["pixel_A"], centres)
