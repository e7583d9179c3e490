"""The settings of a simulated dataset."""

from __future__ import annotations

from dataclasses import dataclass, fields

from hetacumn.common.errors import HetacumnError
from hetacumn.common.settings import check_fields, merged, read_settings


@dataclass(frozen=True)
class Realism:
    """Departures of recorded images from a filtered projection with noise; by default there is none.

    - ``envelope_A2``: factor B of the envelope ``exp(-B k² / 4)`` of the CTF, in Å²; typical stacks have 50 to 200.
    - ``ice_share``: fraction of the noise variance that is structural noise of the ice, which the CTF and the envelope filter.
    - ``preferred_share``: fraction of the particles that have one of a few preferred viewing directions.
    - ``preferred_views``: number of the preferred directions, which are random.
    - ``view_spread_deg``: standard deviation of the views about a preferred direction, in degrees.
    - ``contrast_sd``: standard deviation of the contrast of a particle, whose mean is 1.
    - ``defocus_error_A``: standard deviation of the defocus in the STAR file about the true one, in Å.
    - ``neighbours``: mean number of neighbouring particles that reach into an image.
    - ``junk_share``: fraction of the images without a particle: empty, ice crystals or the edge of a carbon film.
    - ``shift_sd_px``: shifts in x and in y are normal with this standard deviation in pixels; 0 for the uniform ``shift_px``.
    """

    envelope_A2: float = 0.0
    ice_share: float = 0.0
    preferred_share: float = 0.0
    preferred_views: int = 3
    view_spread_deg: float = 20.0
    contrast_sd: float = 0.0
    defocus_error_A: float = 0.0
    neighbours: float = 0.0
    junk_share: float = 0.0
    shift_sd_px: float = 0.0

    def __post_init__(self) -> None:
        shares, lengths = ("ice_share", "preferred_share"), ("envelope_A2", "view_spread_deg", "contrast_sd", "defocus_error_A")
        check_fields(
            self,
            junk_share=(0 <= self.junk_share < 1, "a fraction from 0 to under 1"),
            preferred_views=(self.preferred_views >= 1, "a number of at least 1"),
            **{name: (0 <= getattr(self, name) <= 1, "a fraction from 0 to 1") for name in shares},
            **{name: (getattr(self, name) >= 0, "a number of at least 0") for name in (*lengths, "neighbours", "shift_sd_px")},
        )


@dataclass(frozen=True)
class Simulation:
    """The settings of a simulated dataset; the fields are the keys of a dataset in params.yaml.

    - ``molecule``: specification of the states or the motion, see :mod:`hetacumn.simulation.structures`.
    - ``particles``: number of particles.
    - ``box``: pixels per side of an image, an even number.
    - ``pixel_A``: pixel size in Å.
    - ``snr``: variance of the clean images (after CTF and shift) divided by the variance of the noise, both over the whole box.
      The variance of the clean images is averaged over the stack, and all images have the same noise level.
    - ``weights``: fraction of the particles in each discrete state, summing to 1; None means equal fractions.
    - ``continuous``: whether the particles sample a continuous motion, with coordinates uniform in [0, 1], instead of states.
    - ``motion_classes``: number of equal intervals of [0, 1], for each coordinate of a continuous motion, that define classes.
    - ``shift_px``: shifts in x and in y are uniform from minus this value to this value, in pixels.
    - ``defocus_A``: the mean of defocus u and v is uniform in this range, in Å.
    - ``astigmatism_A``: defocus u minus v is uniform from 0 to this value, in Å; its angle is uniform.
    - ``voltage_kv``: acceleration voltage in kV.
    - ``cs_mm``: spherical aberration in mm.
    - ``amplitude_contrast``: fraction of the amplitude contrast, from 0 to 1.
    - ``ctf_table``: CSV file in the data folder, whose randomly chosen rows replace the five settings above.
    - ``pose_table``: CSV file in the data folder, whose randomly chosen rows replace uniform viewing directions and shifts.
    - ``noise``: ``white``, or ``coloured`` with the power spectrum ``noise_floor + 1 / (1 + (k noise_knee_A)²)``, up to a
      factor; ``k`` is the spatial frequency in 1/Å.
    - ``noise_knee_A``: resolution in Å at which the second term of the coloured spectrum has fallen to half.
    - ``noise_floor``: first term of the coloured spectrum, a white part.
    - ``contrast``: contrast of protein in the file: ``white``, or ``black`` as in raw micrographs.
    - ``origins_within_A``: the STAR file contains origins, as from an earlier refinement, with normal errors of this standard
      deviation in Å; None means no origins.
    - ``realism``: departures from this simple model, see :class:`Realism`; off by default.
    """

    molecule: dict
    particles: int = 10_000
    box: int = 128
    pixel_A: float = 1.0
    snr: float = 0.1
    weights: tuple[float, ...] | None = None
    continuous: bool = False
    motion_classes: int = 5
    shift_px: float = 4.0
    defocus_A: tuple[float, float] = (8_000.0, 18_000.0)
    astigmatism_A: float = 500.0
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    ctf_table: str | None = None
    pose_table: str | None = None
    noise: str = "white"
    noise_knee_A: float = 50.0
    noise_floor: float = 0.1
    contrast: str = "white"
    origins_within_A: float | None = None
    realism: Realism = Realism()

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
        """Build the settings of a dataset that is listed under ``datasets`` in params.yaml.

        Raises:
            HetacumnError: the dataset is unknown, or a setting is invalid.
        """
        known = params.get("datasets") or {}
        if dataset not in known:
            raise HetacumnError(f"unknown dataset '{dataset}'; expected one of {', '.join(known)}")
        return cls.from_params(merged({f"datasets.{dataset}": known[dataset]}))

    @classmethod
    def from_params(cls, settings: dict) -> Simulation:
        """Build the settings from the keys of a dataset; keys that are not fields of this class describe the molecule."""
        own = {f.name for f in fields(cls)} - {"molecule"}
        molecule = {key: value for key, value in settings.items() if key not in own}
        return read_settings(cls, {**{key: value for key, value in settings.items() if key in own}, "molecule": molecule})
