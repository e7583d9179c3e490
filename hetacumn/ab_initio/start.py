"""The result of a start, its file, and the files of the finished steps of an interrupted start."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hetacumn.common.errors import HetacumnError
from hetacumn.common.tensors import read_tensors, write_tensors
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import StackFingerprint
from hetacumn.physics.fourier import resize_volumes

Tensors = dict[str, Tensor]  # by name
SHARED_STEPS = ("consensus", "shift extent", "consensus, wide shifts")  # steps that do not depend on the number of volumes
START, MODEL = "start.safetensors", "model.safetensors"
UNDER_WAY = "start_under_way"
START_NAMES = {
    "volumes": "classes",
    "components": "latent_dim",
    "box": "ab_initio.box",
}  # setting of a start: training setting that sets it


@dataclass(frozen=True)
class StateNumber:
    """The number of states of a start, the number of fitted volumes, and the reason for the number of states."""

    states: int
    volumes: int
    reason: str = "requested"


@dataclass(frozen=True)
class Start:
    """The result of the *ab initio* start: a linear subspace of volumes, and the pose and latent of each image.

    - ``basis``: the mean volume and the ``q`` components, scaled for z ~ N(0, I).
    - ``poses``, ``latents``: the state of each image.
    - ``route``: the chosen route.
    - ``scores``: the held-out log-likelihood per image, by route. Another score chooses between ``noise`` and other routes.
    - ``shift_extent``: extent of the shift grid of the searches, as a fraction of the box; None if unknown.
    - ``number``: the number of states, requested or found; None if unknown.
    - ``frame_error_deg``: the largest angle between the frame of a volume and the common frame of all volumes, in degrees, by
      :func:`~hetacumn.search.clusters.place_again`; 180 in the other hand; None if unknown.
    """

    basis: Float[Tensor, "volumes box box box"]
    poses: Poses
    latents: Float[Tensor, "n q"]
    route: str
    scores: dict[str, float]
    shift_extent: float | None = None
    number: StateNumber | None = None
    frame_error_deg: float | None = None

    def to(self, device: torch.device | str) -> Start:
        """Copy to another device."""
        return replace(self, basis=self.basis.to(device), poses=self.poses.to(device), latents=self.latents.to(device))

    def resized(self, box: int) -> Start:
        """Return the start for images of ``box`` pixels over the same field of view: volumes are Fourier-cropped or padded."""
        before = self.basis.shape[-1]
        if box == before:
            return self
        poses = replace(self.poses, shifts_px=self.poses.shifts_px * (box / before))
        return replace(self, basis=resize_volumes(self.basis, box) * (before / box) ** 2, poses=poses)

    def tensors(self) -> Tensors:
        """Return the tensors by name, without the other fields."""
        return {
            "basis": self.basis,
            "rotations": self.poses.rotations,
            "shifts_px": self.poses.shifts_px,
            "latents": self.latents,
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], route: str, scores: dict[str, float]) -> Start:
        """Rebuild a start from its :meth:`tensors`."""
        return cls(tensors["basis"], Poses(tensors["rotations"], tensors["shifts_px"]), tensors["latents"], route, scores)


def save_start(path: Path, start: Start, stack: StackFingerprint, settings: dict) -> None:
    """Write a start as safetensors, with the fingerprint of its stack.

    ``settings`` are the settings of the start, from :func:`~hetacumn.network.training.start_settings`.
    """
    facts = {
        "route": start.route,
        "scores": start.scores,
        "shift_extent": start.shift_extent,
        "number": start.number and asdict(start.number),
        "frame_error_deg": start.frame_error_deg,
        "stack": stack.to_json(),
        "settings": settings,
    }
    write_tensors(path, start.tensors(), facts)


def load_start(path: Path, stack: StackFingerprint | None = None) -> Start:
    """Read a start. Raises :class:`HetacumnError` if ``stack`` is given and the start was computed from another stack."""
    tensors, facts = read_tensors(path)
    if stack is not None:
        check_stack(path, facts, stack)
    start, number = Start.of(tensors, facts["route"], facts["scores"]), facts.get("number")
    if number is None and (volumes := facts["settings"].get("volumes")):  # a start of an earlier version
        number = {"states": volumes, "volumes": volumes}
    number = number and StateNumber(**number)
    extent, error_deg = facts.get("shift_extent"), facts.get("frame_error_deg")
    return replace(start, shift_extent=extent, number=number, frame_error_deg=error_deg)


def saved_settings(path: Path) -> dict:
    """Read the settings of a start, or of one step of an unfinished start."""
    return read_tensors(path)[1]["settings"]


def check_settings(path: Path, settings: dict, requested: dict) -> None:
    """Raise :class:`HetacumnError` if the ``settings`` of a saved start or step differ from the ``requested`` settings."""
    if settings != requested:
        differing = (name for name in {**requested, **settings} if requested.get(name) != settings.get(name))
        names = ", ".join(START_NAMES.get(name, name) for name in differing)
        raise HetacumnError(
            f"{path}: made with other values of {names} than requested; delete it to begin anew, or choose another folder"
        )


def check_stack(path: Path, facts: dict, stack: StackFingerprint) -> None:
    """Raise :class:`HetacumnError` if a saved start or step was computed from another stack than ``stack``."""
    saved = StackFingerprint.from_json(facts["stack"], path)
    if not saved.matches(stack):
        raise HetacumnError(f"{path}: made from another stack ({saved}); expected {stack}; delete it or choose another folder")


@dataclass(frozen=True)
class Steps:
    """The steps of a start. Finished steps are kept and not repeated.

    - ``log``: receives lines of text about the progress.
    - ``done``: the tensors of finished steps, by name.
    - ``keep``: receives the name and the tensors of each step as it ends; None keeps nothing.
    - ``label``: prefix of the names of all steps that depend on the number of volumes.
    """

    log: Callable[[str], object]
    done: Mapping[str, Tensors] = field(default_factory=dict)
    keep: Callable[[str, Tensors], object] | None = None
    label: str = ""

    def name(self, step: str) -> str:
        """Return the name under which a step is kept."""
        return step if step in SHARED_STEPS else self.label + step

    def once(
        self,
        step: str,
        make: Callable[[], Tensors],
        generator: torch.Generator,
        progress: tqdm,
        device: torch.device | str = "cpu",
    ) -> Tensors:
        """Run ``make`` and keep its tensors, or restore kept tensors with the states of ``generator`` and ``progress``.

        Kept tensors are restored to ``device``.
        """
        kept = self.done.get(self.name(step))
        if kept is None:
            made = make()
            if self.keep is not None:
                done = torch.tensor([progress.n, progress.total])
                self.keep(self.name(step), {**made, "random": generator.get_state(), "steps": done})
            return made
        made = {name: value.to(device) for name, value in kept.items()}
        generator.set_state(made.pop("random").cpu())
        at, progress.total = made.pop("steps").tolist()
        progress.update(at - progress.n)
        return made


class UnfinishedStart:
    """The finished steps of an unfinished start, one file per step in ``out/start_under_way/``, for one stack and settings.

    ``seconds`` is the time that the steps took. The folder is removed when the start is complete.
    """

    def __init__(self, out: Path, stack: StackFingerprint, settings: dict) -> None:
        self.folder, self.stack, self.settings, self.seconds = out / UNDER_WAY, stack, settings, 0.0

    @staticmethod
    def files(out: Path) -> list[Path]:
        """List the files of the finished steps in ``out``, one per step."""
        return sorted((out / UNDER_WAY).glob("[!.]*.safetensors"))

    def read(self) -> dict[str, dict[str, Tensor]]:
        """Read the steps by name. Raises :class:`HetacumnError` if a step is from another stack or has other settings."""
        steps = {}
        for path in self.files(self.folder.parent):
            steps[path.stem], facts = read_tensors(path)
            check_stack(self.folder, facts, self.stack)
            check_settings(self.folder, facts["settings"], self.settings)
            self.seconds = max(self.seconds, facts["seconds"])
        return steps

    def write(self, name: str, tensors: dict[str, Tensor], seconds: float) -> None:
        """Write the tensors of a step; ``seconds`` is the time from the beginning of the start to the end of the step."""
        facts = {"stack": self.stack.to_json(), "settings": self.settings, "seconds": seconds}
        write_tensors(self.folder / f"{name}.safetensors", tensors, facts)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
