"""The settings of training, by concern: settings of one run, and settings of the methods in params.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.common.errors import HetacumnError
from hetacumn.common.run_files import read_config
from hetacumn.common.settings import check_fields, check_seed, flattened, merged, read_settings

if TYPE_CHECKING:
    from hetacumn.particles.observations import Observations

Rounds = tuple[tuple[int, float], ...]  # (how many poses take part, Fourier radius in cycles per pixel), one after the other

DECODERS = ("voxel", "coordinate")
POSITIVE, NOT_NEGATIVE = "a number of at least 1", "a number of at least 0"  # expected values in messages


@dataclass(frozen=True)
class NetworkConfig:
    """The encoder and the decoder.

    - ``hypotheses``: poses that the encoder predicts for an image.
    - ``conditional``: whether the pose depends on the conformation.
    - ``symmetrised``: whether the poses of the image turned by 180 degrees compete in task 1.
    - ``decoder``: ``voxel`` or ``coordinate``.
    - ``templates``: matched filters of the encoder's first layer; 0 for convolutions.
    - ``encoder_radius``: Fourier radius that the matched filters see, in cycles per pixel.
    - ``width``: units of a layer of the encoder.
    - ``padding``: the voxel decoder pads volumes with zeros by this factor before the Fourier transform.
    """

    hypotheses: int = 8
    conditional: bool = True
    symmetrised: bool = False
    decoder: str = "voxel"
    templates: int = 768
    encoder_radius: float = 0.375
    width: int = 384
    padding: float = 2.0

    def __post_init__(self) -> None:
        check_fields(
            self,
            decoder=(self.decoder in DECODERS, " or ".join(DECODERS)),
            templates=(self.templates >= 0, NOT_NEGATIVE),
            **{name: (getattr(self, name) >= 1, POSITIVE) for name in ("hypotheses", "width", "padding")},
        )


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss.

    - ``pose``: weight of the poses, in both tasks.
    - ``conformation``: weight of the conformation in task 2.
    - ``reconstruction``: weight of the reconstruction in task 1.
    - ``kl``: weight of the KL divergence beside the reconstruction.
    """

    pose: float = 1.0
    conformation: float = 1.0
    reconstruction: float = 0.01
    kl: float = 1.0


@dataclass(frozen=True)
class PoseEffort:
    """Effort on poses: training of the encoder, and correction by the decoder's feedback.

    - ``feedback``: rounds of :func:`~hetacumn.search.refinement.compete` between the encoder's hypotheses.
    - ``second_look``: share of the images that prediction looks at again because they fit worst; 0 for none.
    - ``second_rounds``: rounds of the second look, before the last round of feedback.
    - ``alone_factor``: multiplies ``alone_steps``.
    """

    feedback: Rounds
    second_look: float
    second_rounds: Rounds
    alone_factor: float = 1.0

    def __post_init__(self) -> None:
        pairs = "pairs of a number of states of at least 1 and a radius above 0 and up to 0.5 cycles per pixel"
        check_fields(
            self,
            feedback=(len(self.feedback) > 0 and _are_rounds(self.feedback), pairs),
            second_rounds=(_are_rounds(self.second_rounds), pairs),
            second_look=(0 <= self.second_look <= 1, "a share from 0 to 1"),
            alone_factor=(self.alone_factor > 0, "a number above 0"),
        )
        if self.second_look and not self.second_rounds:
            raise HetacumnError("second_rounds is empty; expected rounds, or 0 for second_look")


def _are_rounds(rounds: Rounds) -> bool:
    return all(count >= 1 and 0 < radius <= 0.5 for count, radius in rounds)


BRIGHT = PoseEffort(
    feedback=((4, 0.15), (2, 0.2), (1, 0.35), (1, 0.45)),
    second_look=0.05,
    second_rounds=((16, 0.15), (16, 0.15), (4, 0.2), (2, 0.25)),
)
FAINT = PoseEffort(
    feedback=((8, 0.2), (8, 0.25), (4, 0.35), (2, 0.45), (1, 0.45)),
    second_look=0.5,
    second_rounds=((16, 0.25), (16, 0.3), (8, 0.35), (4, 0.4)),
    alone_factor=3.0,
)


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run.

    Targets:

    - ``classes``: number of classes.
    - ``latent_dim``: dimensions of the latent space.
    - ``seed``: seed of all random numbers.

    Additions of this project to the method of the paper, each with a switch:

    - ``warm_start``: whether the decoder starts from the ab initio volumes.
    - ``pose_task``: whether task 2 trains the encoder on drawn poses.
    - ``conformation_sleep``: whether task 2 trains the encoder on the drawn conformation too.
    - ``feedback``: whether the decoder corrects the encoder's poses.

    Schedule:

    - ``alone_steps``: steps of the pose task alone, first; faint images take ``faint.alone_factor`` times as many.
    - ``joint_epochs``: epochs of both tasks over the training particles.
    - ``pose_only_epochs``: epochs at the start of the joint phase in which z is held at 0.
    - ``alone_batch``: drawn images in a step of the pose task alone.
    - ``batch``: particles in a step of both tasks.
    - ``rate``: Adam's rate of the encoder in the pose task alone, or throughout if there is none.
    - ``joint_rate``: likewise in the joint phase.
    - ``decoder_rate``: Adam's rate of the decoder; low, as the ab initio volumes are better than the first poses.
    - ``weight_decay``: weight decay of the encoder.
    - ``radius``: Fourier radius of the reconstruction at the start and at the end of the joint phase, cycles per pixel.
    - ``checkpoint_seconds``: seconds between two checkpoints.

    Parts:

    - ``network``, ``losses``: sizes of the networks, weights of the losses.
    - ``bright``, ``faint``: effort for bright and for faint images; ``ab_initio.brightness`` decides.
    - ``ab_initio``: the ab initio start.
    """

    classes: int = 2
    latent_dim: int = 4
    seed: int = 0
    warm_start: bool = True
    pose_task: bool = True
    conformation_sleep: bool = True
    feedback: bool = True
    alone_steps: int = 4500
    joint_epochs: float = 3.0
    pose_only_epochs: float = 0.0
    alone_batch: int = 256
    batch: int = 128
    rate: float = 2e-3
    joint_rate: float = 2e-4
    decoder_rate: float = 1e-4
    weight_decay: float = 1e-2
    radius: tuple[float, float] = (0.25, 0.45)
    checkpoint_seconds: float = 60.0
    network: NetworkConfig = field(default_factory=NetworkConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    bright: PoseEffort = BRIGHT
    faint: PoseEffort = FAINT
    ab_initio: AbInitioConfig = field(default_factory=AbInitioConfig)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        positive = ("classes", "latent_dim", "batch", "alone_batch")
        not_negative = ("alone_steps", "joint_epochs", "pose_only_epochs", "rate", "joint_rate", "decoder_rate", "weight_decay")
        check_fields(
            self,
            **{name: (getattr(self, name) >= 1, POSITIVE) for name in positive},
            **{name: (getattr(self, name) >= 0, NOT_NEGATIVE) for name in not_negative},
            radius=(all(0 < radius <= 0.5 for radius in self.radius), "radii above 0 and up to 0.5 cycles per pixel"),
            checkpoint_seconds=(self.checkpoint_seconds >= 0, NOT_NEGATIVE),
        )

    @property
    def effort(self) -> PoseEffort:
        """The preset for the brightness of the images; the bright preset until ``ab_initio`` has decided the brightness."""
        return self.faint if self.ab_initio.brightness == "faint" else self.bright

    @property
    def pose_steps(self) -> int:
        """Steps of the pose task alone, for images of this brightness."""
        return round(self.alone_steps * self.effort.alone_factor) if self.pose_task else 0

    def adapted_to(self, data: Observations) -> TrainConfig:
        """Decide the brightness by the images, and return the settings."""
        return replace(self, ab_initio=self.ab_initio.with_brightness_of(data))

    def variants(self) -> tuple[TrainConfig, ...]:
        """Return all settings that :meth:`adapted_to` may return."""
        known: tuple[Literal["auto", "bright", "faint"], ...]
        known = ("bright", "faint") if self.ab_initio.brightness == "auto" else (self.ab_initio.brightness,)
        return tuple(replace(self, ab_initio=replace(self.ab_initio, brightness=one)) for one in known)

    @property
    def start_config(self) -> AbInitioConfig:
        """Return the settings of the ab initio start, with the classes and latent dimensions of the run."""
        return replace(self.ab_initio, volumes=self.classes, components=self.latent_dim)

    def start_settings(self) -> dict:
        """Return all settings that a start depends on, as one level of JSON with names joined by dots."""
        return flattened(json.loads(json.dumps({**asdict(self.start_config), "seed": self.seed})))

    @classmethod
    def from_params(cls, settings: Mapping, **more: object) -> TrainConfig:
        """Read the settings from nested dicts, as params.yaml or config.json hold them, with ``more`` on top."""
        return read_settings(cls, {**settings, **more}, "train.")


def method_config(params: Mapping, method: str, **more: object) -> TrainConfig:
    """Merge the settings of a method in params.yaml: ``train``, then the method's own settings, then ``more``."""
    known = params.get("methods") or {}
    if method not in known:
        raise HetacumnError(f"unknown method '{method}'; expected one of {', '.join(known)}")
    settings = merged({"train": params.get("train"), f"methods.{method}": known[method]})
    check_determined(settings)
    return TrainConfig.from_params(settings, **more)


def check_determined(settings: Mapping) -> None:
    """Raise :class:`HetacumnError` where nested settings of training name a setting that another setting determines."""
    ab_initio = settings.get("ab_initio")
    for name, instead in (("volumes", "classes"), ("components", "latent_dim")):
        if isinstance(ab_initio, Mapping) and name in ab_initio:
            raise HetacumnError(f"train.ab_initio.{name} cannot be set; expected train.{instead}, which determines it")


def requested_classes(params: Mapping, dataset: str = "", asked: int | None = None) -> int:
    """Return the number of classes: ``asked``, else ``classes`` in params.yaml (one number, or one per dataset), else 4."""
    known = params.get("classes")
    found = known.get(dataset) if isinstance(known, dict) else known
    wanted = asked if asked is not None else 4 if found is None else found
    if not isinstance(wanted, int) or wanted < 1:
        raise HetacumnError(f"classes is {wanted!r}; expected a whole number of at least 1")
    return wanted


def check_share(share: float) -> None:
    """Raise :class:`HetacumnError` for a share of the particles that training cannot take."""
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise HetacumnError(f"trained_share is {share!r}; expected a number above 0 and up to 1")


def load_config(out: Path | str) -> TrainConfig:
    """Read the settings in a run's ``config.json``."""
    try:
        return TrainConfig.from_params(read_config(out)["config"])
    except KeyError as error:
        raise HetacumnError(f"{Path(out) / 'config.json'}: no {error}; expected the settings of a run") from error
