"""The settings of a simulated dataset."""

from __future__ import annotations

from dataclasses import dataclass, fields

from hetacumn.common.errors import HetacumnError
from hetacumn.common.settings import merged, read_settings


@dataclass(frozen=True)
class Simulation:
    """The settings of a simulated dataset; the fields are the keys of a dataset in params.yaml.

    ``snr`` is the variance of the clean image (filtered by its CTF, shifted) over the variance of the noise, both over the
    whole box. The clean variance is averaged over the stack, and the stack has one noise level.
    """

    molecule: dict  #: the spec of the states or of the motion, as in :mod:`hetacumn.simulation.structures`
    particles: int = 10_000
    box: int = 128
    pixel_A: float = 1.0
    snr: float = 0.1
    weights: tuple[float, ...] | None = None  #: fraction of each state, summing to 1; None is equal
    continuous: bool = False  #: a motion with coordinates uniform in [0, 1], in place of states
    motion_classes: int = 5  #: a continuous motion has as many classes as equal parts of [0, 1] of each coordinate
    shift_px: float = 4.0  #: shifts are uniform from minus this value to this value, in x and in y
    defocus_A: tuple[float, float] = (8_000.0, 18_000.0)  #: mean of u and v, uniform in this range
    astigmatism_A: float = 500.0  #: defocus u minus v is uniform from 0 to this value; its angle is uniform
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    ctf_table: str | None = None  #: a CSV in the data folder; its random rows replace the five settings above
    pose_table: str | None = None  #: a CSV of viewing directions and shifts; its random rows replace uniform ones
    noise: str = "white"  #: or "coloured": power ∝ noise_floor + 1 / (1 + (k noise_knee_A)²)
    noise_knee_A: float = 50.0
    noise_floor: float = 0.1
    contrast: str = "white"  #: protein in the file; or "black" as in raw micrographs
    origins_within_A: float | None = None  #: the STAR has the origins of an earlier refinement with this normal error

    def __post_init__(self) -> None:
        if self.box % 2 or self.box < 2:
            raise HetacumnError(f"box is {self.box}; expected an even number of pixels")
        for name in ("particles", "pixel_A", "snr", "motion_classes", "noise_knee_A"):
            if getattr(self, name) <= 0:
                raise HetacumnError(f"{name} is {getattr(self, name):g}; expected more than 0")
        for name, known in (("noise", ("white", "coloured")), ("contrast", ("white", "black"))):
            if getattr(self, name) not in known:
                raise HetacumnError(f"{name} is '{getattr(self, name)}'; expected {' or '.join(known)}")
        if self.weights is not None and (min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-6):
            raise HetacumnError(f"weights are {list(self.weights)}; expected fractions that sum to 1")

    @classmethod
    def of_dataset(cls, params: dict, dataset: str) -> Simulation:
        """Read the settings of a name under ``datasets`` in params.yaml."""
        known = params.get("datasets") or {}
        if dataset not in known:
            raise HetacumnError(f"unknown dataset '{dataset}'; expected one of {', '.join(known)}")
        return cls.from_params(merged({f"datasets.{dataset}": known[dataset]}))

    @classmethod
    def from_params(cls, settings: dict) -> Simulation:
        """Read the settings of a dataset; the keys that are not fields of this class describe the molecule."""
        own = {f.name for f in fields(cls)} - {"molecule"}
        molecule = {key: value for key, value in settings.items() if key not in own}
        return read_settings(cls, {**{key: value for key, value in settings.items() if key in own}, "molecule": molecule})
