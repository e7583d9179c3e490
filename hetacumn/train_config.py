"""The settings of training: those of one run, and those that params.yaml holds of every method."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace

from hetacumn.ab_initio_config import AbInitioConfig
from hetacumn.errors import HetacumnError
from hetacumn.observations import Observations
from hetacumn.settings import merged, read_settings


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run.

    The switches name what this project adds to the bare method of the paper: ``warm_start``, ``conformation_sleep``,
    ``hypotheses`` > 1, ``feedback`` and ``second_look``; ``conditional``, ``pose_task`` and ``symmetrised`` make the
    ablations and the amortized baseline.
    """

    classes: int = 2
    latent_dim: int = 4
    seed: int = 0
    # switches
    warm_start: bool = True
    pose_task: bool = True
    conditional: bool = True
    conformation_sleep: bool = True
    hypotheses: int = 8
    feedback: tuple[tuple[int, float], ...] = ((4, 0.15), (2, 0.2), (1, 0.35), (1, 0.45))  # see joint.compete; () for none
    second_look: float = 0.05  # about the share of the images, at prediction; 0 for none
    second_rounds: tuple[tuple[int, float], ...] = ((16, 0.15), (16, 0.15), (4, 0.2), (2, 0.25))  # of that look
    faint_feedback: tuple[tuple[int, float], ...] = ((8, 0.2), (8, 0.25), (4, 0.35), (2, 0.45), (1, 0.45))  # see suited
    faint_second_look: float = 0.5
    faint_second_rounds: tuple[tuple[int, float], ...] = ((16, 0.25), (16, 0.3), (8, 0.35), (4, 0.4))
    symmetrised: bool = False
    decoder: str = "voxel"  # or "coordinate"
    # sizes
    templates: int = 768  # matched filters of the encoder's first layer; 0 for convolutions
    encoder_radius: float = 0.375  # the band that the templates see, cycles per pixel; see encoder.REACH
    width: int = 384
    padding: float = 2.0
    # schedule
    alone_steps: int = 4500  # of the pose task alone, first
    faint_alone: float = 3.0  # times as many of these, where images are faint; see suited
    joint_epochs: float = 3.0  # of both tasks, over the training particles
    pose_only_epochs: float = 0.0  # at the start of the joint phase, z held at 0
    alone_batch: int = 256
    batch: int = 128
    rate: float = 2e-3
    joint_rate: float = 2e-4
    decoder_rate: float = 1e-4  # the ab initio volumes are near the truth, the first amortized poses are not
    weight_decay: float = 1e-2
    # losses
    pose_weight: float = 1.0
    conformation_weight: float = 1.0
    kl_weight: float = 1.0
    radius: tuple[float, float] = (0.25, 0.45)  # of the reconstruction, cycles per pixel, over the joint phase
    reconstruction_weight: float = 0.01
    # run
    checkpoint_seconds: float = 60.0
    ab_initio: AbInitioConfig = field(default_factory=AbInitioConfig)

    def __post_init__(self):
        rounds = ("feedback", "second_rounds", "faint_feedback", "faint_second_rounds")
        looks = ("second_look", "faint_second_look")
        for name in rounds:
            if not all(count >= 1 and 0 < radius <= 0.5 for count, radius in getattr(self, name)):
                raise HetacumnError(f"{name} is {getattr(self, name)!r}; expected pairs of a number from 1 on, how many take "
                                    "part, and a radius over 0 and up to 0.5 cycles per pixel")
        if not self.faint_alone > 0:
            raise HetacumnError(f"faint_alone is {self.faint_alone!r}; expected a number over 0")
        for name, of in zip(looks, ("second_rounds", "faint_second_rounds"), strict=True):
            if not 0 <= getattr(self, name) <= 1:
                raise HetacumnError(f"{name} is {getattr(self, name)!r}; expected a share from 0 to 1")
            if getattr(self, name) and not getattr(self, of):
                raise HetacumnError(f"{of} is empty; expected rounds, or 0 for {name}")

    def suited(self, data: Observations) -> TrainConfig:
        """The settings for images as faint as these: where the molecule says less of the pose, searches are thorough; more
        hypotheses compete, and more images are looked at again, if feedback is wanted at all. And the encoder learns longer."""
        return self if self.ab_initio.faintness(data) == 1 else self.for_faint_images()

    def for_faint_images(self) -> TrainConfig:
        """The settings that :meth:`suited` takes for faint images."""
        steps = round(self.alone_steps * self.faint_alone)
        config = replace(self, ab_initio=self.ab_initio.thorough(), alone_steps=steps, faint_alone=1.0)
        if not self.feedback:
            return config
        second_look = self.second_look and self.faint_second_look
        return replace(config, feedback=self.faint_feedback, second_look=second_look, second_rounds=self.faint_second_rounds)

    @property
    def start_config(self) -> AbInitioConfig:
        """Those of the ab initio start, its classes and components the run's."""
        return replace(self.ab_initio, volumes=self.classes, components=self.latent_dim)

    def start_settings(self) -> dict:
        """All that a start depends on, as JSON has it."""
        return json.loads(json.dumps({**asdict(self.start_config), "seed": self.seed}))

    @classmethod
    def from_params(cls, settings: dict, **more) -> TrainConfig:
        """From nested dicts, as params.yaml or config.json hold them, with ``more`` laid over."""
        return read_settings(cls, {**settings, **more})


def method_config(params: dict, method: str, **more) -> TrainConfig:
    """The settings of a method in params.yaml: ``train``, with what the method has of its own, and ``more``."""
    known = params.get("methods") or {}
    if method not in known:
        raise HetacumnError(f"unknown method '{method}'; expected one of {', '.join(known)}")
    settings = merged({"train": params.get("train"), f"methods.{method}": known[method]})
    for name, instead in (("volumes", "classes"), ("components", "latent_dim")):
        if name in (settings.get("ab_initio") or {}):
            raise HetacumnError(f"ab_initio.{name} is set; expected {instead}, which it is taken from")
    return TrainConfig.from_params(settings, **more)


def wanted_classes(params: dict, dataset: str = "", asked: int | None = None) -> int:
    """How many classes to look for: as asked, or what ``classes`` in params.yaml says (a number, or one a dataset), or 4."""
    known = params.get("classes")
    found = known.get(dataset) if isinstance(known, dict) else known
    wanted = asked if asked is not None else 4 if found is None else found
    if not isinstance(wanted, int) or wanted < 1:
        raise HetacumnError(f"classes is {wanted!r}; expected a number from 1 on")
    return wanted
