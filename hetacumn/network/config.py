"""The settings of training: dataclasses for one run, and functions that read the settings of a method in params.yaml.

Training chooses one of two presets by the images: ``bright`` for high-signal images, and ``faint`` for low-signal images, whose
mean log-likelihood gain per image is below ``ab_initio.bright_nats``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hetacumn.ab_initio.config import AbInitioConfig, components_for
from hetacumn.common.errors import HetacumnError
from hetacumn.common.run_files import read_config
from hetacumn.common.settings import check_fields, check_seed, flattened, merged, read_settings

if TYPE_CHECKING:
    from hetacumn.ab_initio.start import Start
    from hetacumn.particles.observations import Observations

Rounds = tuple[tuple[int, float], ...]  # (poses that take part, Fourier radius in cycles per pixel) of each round

DECODERS = ("voxel", "coordinate")
POSITIVE, NOT_NEGATIVE = "a number of at least 1", "a number of at least 0"  # expected values in messages


@dataclass(frozen=True)
class NetworkConfig:
    """Settings of the encoder and the decoder.

    - ``hypotheses``: number of pose hypotheses that the encoder predicts per image.
    - ``conditional``: whether the predicted pose depends on z.
    - ``symmetrised``: whether task 1 adds the hypotheses for the image rotated in plane by 180° (symmetrised loss).
    - ``decoder``: ``voxel`` for explicit volumes, ``coordinate`` for an MLP of Fourier coordinates.
    - ``templates``: number of matched filters in the encoder's first layer; 0 for convolutions instead.
    - ``encoder_radius``: largest Fourier radius that the matched filters read, in cycles per pixel.
    - ``width``: units per hidden layer of the encoder; the first dense layer has 1.5 times as many.
    - ``padding``: zero-padding factor of the voxel decoder's volumes before the Fourier transform.
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

    - ``pose``: weight of the pose loss, in both tasks.
    - ``conformation``: weight of the conformation loss of task 2.
    - ``reconstruction``: weight of the sum of misfit and KL divergence in task 1.
    - ``kl``: weight of the KL divergence relative to the misfit, within this sum.
    """

    pose: float = 1.0
    conformation: float = 1.0
    reconstruction: float = 0.01
    kl: float = 1.0


@dataclass(frozen=True)
class PoseEffort:
    """Settings that determine the computing time for poses (decoder feedback: see :mod:`hetacumn.network.model`).

    Each round of :func:`~hetacumn.search.refinement.compete` is a pair: the number of hypotheses, and the Fourier radius in
    cycles per pixel.

    - ``feedback``: rounds of decoder feedback. Preset ``bright``: from 4 hypotheses at 0.15 to 1 at 0.45. Preset ``faint``:
      from 8 at 0.2 to 1 at 0.45.
    - ``second_look``: fraction of the images, the worst fitting ones, that prediction compares with slices on a grid of
      rotations; 0 for none. Preset ``bright``: 0.05. Preset ``faint``: 1.
    - ``second_rounds``: rounds of this second look, in which the likeliest grid poses compete by steps of the pose alone; the
      last two rounds of ``feedback`` follow them. The grid is compared within the radius of the first round. Preset
      ``bright``: from 12 poses at 0.25 to 2 at 0.35. Preset ``faint``: from 20 at 0.3 to 5 at 0.45.
    - ``alone_factor``: factor that multiplies ``alone_steps``, the number of training steps of task 2 alone. Preset ``bright``:
      1. Preset ``faint``: 3.
    """

    feedback: Rounds
    second_look: float
    second_rounds: Rounds
    alone_factor: float = 1.0

    def __post_init__(self) -> None:
        pairs = "pairs of at least 1 pose and a radius above 0 and up to 0.5 cycles per pixel"
        check_fields(
            self,
            feedback=(len(self.feedback) > 0 and _are_rounds(self.feedback), pairs),
            second_rounds=(_are_rounds(self.second_rounds), pairs),
            second_look=(0 <= self.second_look <= 1, "a number from 0 to 1"),
            alone_factor=(self.alone_factor > 0, "a number above 0"),
        )
        if self.second_look and not self.second_rounds:
            raise HetacumnError("second_rounds is empty; expected at least one round, or second_look 0")


def _are_rounds(rounds: Rounds) -> bool:
    return all(count >= 1 and 0 < radius <= 0.5 for count, radius in rounds)


BRIGHT = PoseEffort(
    feedback=((4, 0.15), (2, 0.2), (1, 0.35), (1, 0.45)),
    second_look=0.05,
    second_rounds=((12, 0.25), (4, 0.25), (2, 0.35)),
)
FAINT = PoseEffort(
    feedback=((8, 0.2), (8, 0.25), (4, 0.35), (2, 0.45), (1, 0.45)),
    second_look=1.0,
    second_rounds=((20, 0.3), (10, 0.4), (5, 0.45)),
    alone_factor=3.0,
)


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run.

    Targets:

    - ``classes``: number of classes; 0 for the number of states that the *ab initio* start finds.
    - ``latent_dim``: number of dimensions of z; 0 stands for ``classes`` - 1, but at least 4.
    - ``seed``: seed of all random numbers.

    Options. All except ``pose_task`` (task 2) are additions of this project to the paper's method:

    - ``warm_start``: whether the decoder starts from the volumes of the *ab initio* start.
    - ``pose_task``: whether task 2 trains the encoder to predict sampled poses from rendered images.
    - ``conformation_sleep``: whether task 2 also trains the encoder to predict the sampled z.
    - ``feedback``: whether the decoder scores and refines the encoder's poses (decoder feedback).

    Schedule. Task 2 alone trains the encoder first; the joint phase trains both tasks:

    - ``alone_steps``: steps of task 2 alone. Preset ``faint`` takes ``faint.alone_factor`` (3) times as many.
    - ``joint_epochs``: length of the joint phase, in epochs over the training particles.
    - ``pose_only_epochs``: epochs at the beginning of the joint phase in which z is 0.
    - ``alone_batch``: rendered images in a step of task 2 alone.
    - ``batch``: particles in a step of the joint phase.
    - ``rate``: peak learning rate of the encoder in task 2 alone, or in the joint phase if task 2 has no steps alone.
    - ``joint_rate``: peak learning rate of the encoder in a joint phase that follows task 2 alone.
    - ``decoder_rate``: peak learning rate of the decoder in the joint phase. It is low because the volumes of the start are
      better than the encoder's first poses.
    - ``weight_decay``: weight decay of the encoder.
    - ``radius``: Fourier radius of the reconstruction at the beginning and at the end of the joint phase, in cycles per pixel.
    - ``checkpoint_seconds``: least time between two checkpoints, in seconds.

    Parts:

    - ``network``: settings of the encoder and the decoder.
    - ``losses``: weights of the losses.
    - ``bright``, ``faint``: the two presets of :class:`PoseEffort`; ``ab_initio.brightness`` selects one of them.
    - ``ab_initio``: settings of the *ab initio* start.
    """

    classes: int = 2
    latent_dim: int = 0
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
        if self.latent_dim == 0 and self.classes:
            object.__setattr__(self, "latent_dim", components_for(self.classes))
        positive = ("batch", "alone_batch")
        rates = ("rate", "joint_rate", "decoder_rate", "weight_decay")
        not_negative = ("classes", "latent_dim", "alone_steps", "joint_epochs", "pose_only_epochs", *rates)
        check_fields(
            self,
            **{name: (getattr(self, name) >= 1, POSITIVE) for name in positive},
            **{name: (getattr(self, name) >= 0, NOT_NEGATIVE) for name in not_negative},
            radius=(all(0 < radius <= 0.5 for radius in self.radius), "radii above 0 and up to 0.5 cycles per pixel"),
            checkpoint_seconds=(self.checkpoint_seconds >= 0, NOT_NEGATIVE),
            warm_start=(self.warm_start or self.classes > 0, "true for classes 0, because only the start finds the number"),
        )

    @property
    def effort(self) -> PoseEffort:
        """The preset that ``ab_initio.brightness`` selects, ``bright`` or ``faint``; ``bright`` if it is still ``auto``."""
        return self.faint if self.ab_initio.brightness == "faint" else self.bright

    @property
    def pose_steps(self) -> int:
        """Number of steps of task 2 alone: ``alone_steps`` times the ``alone_factor`` of the preset."""
        return round(self.alone_steps * self.effort.alone_factor) if self.pose_task else 0

    def adapted_to(self, data: Observations) -> TrainConfig:
        """Return the settings with ``ab_initio.brightness`` chosen by the images where it is ``auto``."""
        return replace(self, ab_initio=self.ab_initio.with_brightness_of(data))

    def with_start(self, start: Start) -> TrainConfig:
        """Return the settings with the values of a start: extent of the shift grid, number of classes, latent dimensions."""
        classes = self.classes or (start.number.states if start.number else 0)
        ab_initio = self.ab_initio.with_extent(start.shift_extent)
        return replace(self, ab_initio=ab_initio, classes=classes, latent_dim=len(start.basis) - 1)

    def variants(self) -> tuple[TrainConfig, ...]:
        """Return the settings that :meth:`adapted_to` may return, one per possible preset."""
        known: tuple[Literal["auto", "bright", "faint"], ...]
        known = ("bright", "faint") if self.ab_initio.brightness == "auto" else (self.ab_initio.brightness,)
        return tuple(replace(self, ab_initio=replace(self.ab_initio, brightness=one)) for one in known)

    @property
    def start_config(self) -> AbInitioConfig:
        """Return the settings of the *ab initio* start, with the classes and latent dimensions of the run."""
        return replace(self.ab_initio, volumes=self.classes, components=self.latent_dim)

    def start_settings(self) -> dict:
        """Return all settings that a start depends on, in JSON types, by dotted name."""
        return flattened(json.loads(json.dumps({**asdict(self.start_config), "seed": self.seed})))

    @classmethod
    def from_params(cls, settings: Mapping, **more: object) -> TrainConfig:
        """Read settings from nested dicts, as in params.yaml or config.json; the settings ``more`` take precedence."""
        return read_settings(cls, {**settings, **more}, "train.")


def method_config(params: Mapping, method: str, **more: object) -> TrainConfig:
    """Return the settings of a method in params.yaml: ``train``, overridden by ``methods.<method>``, then by ``more``.

    Raises:
        HetacumnError: params.yaml has no such method, or a setting is wrong.
    """
    known = params.get("methods") or {}
    if method not in known:
        raise HetacumnError(f"unknown method '{method}'; expected one of {', '.join(known)}")
    settings = merged({"train": params.get("train"), f"methods.{method}": known[method]})
    check_determined(settings)
    return TrainConfig.from_params(settings, **more)


def check_determined(settings: Mapping) -> None:
    """Raise :class:`HetacumnError` if nested settings of training contain a setting that another setting determines."""
    ab_initio = settings.get("ab_initio")
    for name, instead in (("volumes", "classes"), ("components", "latent_dim")):
        if isinstance(ab_initio, Mapping) and name in ab_initio:
            raise HetacumnError(f"train.ab_initio.{name} cannot be set; expected train.{instead}, which determines it")


def requested_classes(params: Mapping, dataset: str = "", asked: int | None = None) -> int:
    """Return the number of classes: ``asked``, else ``classes`` in params.yaml (a number, or one per dataset), else 0.

    0 means that the *ab initio* start finds the number.
    """
    known = params.get("classes")
    found = known.get(dataset) if isinstance(known, dict) else known
    wanted = asked if asked is not None else found or 0
    if not isinstance(wanted, int) or wanted < 0:
        raise HetacumnError(f"classes is {wanted!r}; expected a whole number of at least 1, or 0 to find it")
    return wanted


def check_share(share: float) -> None:
    """Raise :class:`HetacumnError` if ``share``, the fraction of the particles to train on, is not in (0, 1]."""
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise HetacumnError(f"trained_share is {share!r}; expected a number above 0 and up to 1")


def load_config(out: Path | str) -> TrainConfig:
    """Read the settings in the ``config.json`` of the run folder ``out``."""
    try:
        return TrainConfig.from_params(read_config(out)["config"])
    except KeyError as error:
        raise HetacumnError(f"{Path(out) / 'config.json'}: no {error}; expected the settings of a run") from error
