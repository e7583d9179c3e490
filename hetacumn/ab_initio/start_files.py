"""Files of an ab initio start: the finished start, and the finished steps of one that was interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import Tensor

from hetacumn.ab_initio.start import Start
from hetacumn.common.errors import HetacumnError
from hetacumn.common.tensors import read_tensors, write_tensors
from hetacumn.particles.observations import StackFingerprint

START, MODEL = "start.safetensors", "model.safetensors"
UNDER_WAY = "start_under_way"
START_NAMES = {"volumes": "classes", "components": "latent_dim"}  # the user's names of settings of a start


def save_start(path: Path, start: Start, stack: StackFingerprint, settings: dict) -> None:
    """Write an ab initio start as safetensors, with the fingerprint of its stack.

    ``settings`` are the :meth:`~hetacumn.network.config.TrainConfig.start_settings` that the start was made with.
    """
    facts = {"route": start.route, "scores": start.scores, "stack": stack.to_json(), "settings": settings}
    write_tensors(path, start.tensors(), facts)


def load_start(path: Path, stack: StackFingerprint | None = None) -> Start:
    """Read an ab initio start. Raises :class:`HetacumnError` where its stack does not match a given fingerprint."""
    tensors, facts = read_tensors(path)
    if stack is not None:
        check_stack(path, facts, stack)
    return Start.of(tensors, facts["route"], facts["scores"])


def saved_settings(path: Path) -> dict:
    """Read the settings that a start was made with."""
    return read_tensors(path)[1]["settings"]


def check_settings(path: Path, settings: dict, requested: dict) -> None:
    """Raise :class:`HetacumnError` where a start, or a part of one, was made with other settings than requested."""
    if settings != requested:
        differing = (name for name in requested if requested[name] != settings.get(name))
        names = ", ".join(START_NAMES.get(name, name) for name in differing)
        raise HetacumnError(f"{path}: made with other {names}; delete it to begin anew, or choose another folder")


def check_stack(path: Path, facts: dict, stack: StackFingerprint) -> None:
    """Raise :class:`HetacumnError` where a start, or a part of one, was made from another stack than ``stack``."""
    saved = StackFingerprint.from_json(facts["stack"], path)
    if not saved.matches(stack):
        raise HetacumnError(f"{path}: made from another stack ({saved}); expected {stack}; delete it or choose another folder")


class UnfinishedStart:
    """The finished steps of an ab initio start: ``out/start_under_way/`` has one file per step, for one stack and settings.

    ``seconds`` is the time that the steps took. The folder is removed when the start is complete.
    """

    def __init__(self, out: Path, stack: StackFingerprint, settings: dict) -> None:
        self.folder, self.stack, self.settings, self.seconds = out / UNDER_WAY, stack, settings, 0.0

    @staticmethod
    def files(out: Path) -> list[Path]:
        """List the files of the finished steps of a start under way in ``out``, one a step."""
        return sorted((out / UNDER_WAY).glob("[!.]*.safetensors"))

    def read(self) -> dict[str, dict[str, Tensor]]:
        """Read the steps by name. Raises :class:`HetacumnError` where a step has another stack or other settings."""
        steps = {}
        for path in self.files(self.folder.parent):
            steps[path.stem], facts = read_tensors(path)
            check_stack(self.folder, facts, self.stack)
            check_settings(self.folder, facts["settings"], self.settings)
            self.seconds = max(self.seconds, facts["seconds"])
        return steps

    def write(self, name: str, tensors: dict[str, Tensor], seconds: float) -> None:
        """Write a step that ended ``seconds`` after the beginning."""
        facts = {"stack": self.stack.to_json(), "settings": self.settings, "seconds": seconds}
        write_tensors(self.folder / f"{name}.safetensors", tensors, facts)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
