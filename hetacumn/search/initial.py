"""Initial information beside the images: the poses in the particle table, a reference map, and a mask.

Methods import the modules that read files when called, so that a command can check its settings without these modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.run_files import read_config
from hetacumn.common.settings import check_fields, read_settings

if TYPE_CHECKING:
    from hetacumn.particles.metadata import Poses
    from hetacumn.particles.prepared_stack import PreparedStack
    from hetacumn.physics.optics import Rows
    from hetacumn.search.focus import Focus
    from hetacumn.search.reference import Reference

SECTION = "initial"  # name of the section in settings files and in config.json


@dataclass(frozen=True)
class InitialSettings:
    """Settings of the initial information.

    - ``poses``: ``search`` determines the poses by an exhaustive search. ``given`` begins with the angles and origins in the
      particle table and refines them. ``fixed`` keeps them; the run then infers only classes and z.
    - ``reference``: MRC file of a map of any box and voxel size; the search begins with this map instead of random volumes.
      Empty for no map.
    - ``lowpass_A``: resolution in Å to which the reference is low-passed.
    - ``mask``: MRC file of a soft mask over the field of view of the images; the conformation varies inside the mask alone
      (:mod:`~hetacumn.search.focus`). Empty for no mask.
    - ``outside_components``: number of components that describe the variation outside the mask.
    """

    poses: Literal["search", "given", "fixed"] = "search"
    reference: str = ""
    lowpass_A: float = 40.0
    mask: str = ""
    outside_components: int = 4

    def __post_init__(self) -> None:
        check_fields(
            self,
            lowpass_A=(self.lowpass_A > 0, "a resolution above 0 Å"),
            outside_components=(self.outside_components >= 0, "a number of at least 0"),
        )
        if self.mask and not self.takes_poses:
            raise HetacumnError(
                f"mask is {self.mask!r}; expected poses given or fixed with a mask, because poses {self.poses!r} have no frame "
                "before training"
            )
        if self.reference and self.takes_poses:
            raise HetacumnError(
                f"reference is {self.reference!r}; expected none, because poses {self.poses!r} exclude a pose search"
            )

    @classmethod
    def from_params(cls, params: Mapping) -> InitialSettings:
        """Read the section ``initial`` of settings or of the ``config.json`` of a run; a missing section means the defaults."""
        return read_settings(cls, params.get(SECTION) or {}, f"{SECTION}.")

    @classmethod
    def of_run(cls, out: Path | str) -> InitialSettings:
        """Read the settings in the ``config.json`` of the run folder ``out``."""
        return cls.from_params(read_config(out))

    def facts(self) -> dict:
        """Return the section ``initial`` for the files of a run: only settings that differ from the defaults; else empty."""
        usual = asdict(InitialSettings())
        chosen = {name: value for name, value in asdict(self).items() if value != usual[name]}
        return {SECTION: chosen} if chosen else {}

    @property
    def takes_poses(self) -> bool:
        """Whether the run begins with the poses in the particle table."""
        return self.poses != "search"

    def check_files(self, path: Path | str) -> None:
        """Raise :class:`HetacumnError` if the reference or the mask is unusable, or the table ``path`` lacks angles."""
        if self.mask:
            from hetacumn.search.focus import check_mask

            check_mask(self.mask)
        if self.reference:
            from hetacumn.search.reference import read_cube

            read_cube(self.reference)
        if self.takes_poses:
            self.check_angles(path)

    def check_angles(self, path: Path | str) -> None:
        """Raise :class:`HetacumnError` if the particle table ``path`` lacks angles."""
        from hetacumn.io.star import ANGLES, read_table

        table = read_table(Path(path))
        if missing := [column for column in ANGLES if not table.has(column)]:
            names = ", ".join(missing)
            raise HetacumnError(f"{path}: no column {names}; expected the angles of each particle for poses {self.poses!r}")


def _whole() -> Focus:
    from hetacumn.search.focus import WHOLE

    return WHOLE


@dataclass(frozen=True)
class InitialData:
    """The initial information of a start, for its images.

    - ``settings``: the settings of the information.
    - ``poses``: the given poses of the images; None if the start searches the poses.
    - ``reference``: the reference map, or None.
    - ``focus``: the region in which the conformation varies.
    """

    settings: InitialSettings = field(default_factory=InitialSettings)
    poses: Poses | None = None
    reference: Reference | None = None
    focus: Focus = field(default_factory=_whole)

    @classmethod
    def read(cls, settings: InitialSettings, stack: PreparedStack, rows: Rows, device: torch.device | str) -> InitialData:
        """Read the information for the images ``rows`` of a prepared stack.

        Raises:
            HetacumnError: the particle table lacks angles, or the reference or the mask is unusable.
        """
        poses, reference, focus = given_poses(stack, device, rows) if settings.takes_poses else None, None, _whole()
        if settings.reference:
            from hetacumn.search.reference import Reference

            reference = Reference.read(settings.reference, settings.lowpass_A, stack.box, stack.pixel_A)
        if settings.mask:
            from hetacumn.search.focus import Focus, read_mask

            focus = Focus(read_mask(settings.mask, stack.box, stack.pixel_A), settings.outside_components)
        return cls(settings, poses, reference, focus)


def given_poses(stack: PreparedStack, device: torch.device | str, rows: Rows = slice(None)) -> Poses:
    """Return the poses in the particle table of a prepared stack, with shifts in pixels of the prepared images.

    Raises:
        HetacumnError: the table has no angles.
    """
    found = stack.metadata[rows].poses
    if found is None:
        raise HetacumnError(
            f"{stack.source}: no angles; expected the angles of every particle, because the run uses the poses in the table"
        )
    return found.to(device)


def pose_change(found: Poses, given: Poses, symmetry: str = "C1") -> dict[str, dict[str, float]]:
    """Measure the change of poses from the given poses, in the same frame, up to the point group ``symmetry``.

    Returns the median and the 90th percentile over the particles, of the rotation in degrees and of the shift in pixels.
    """
    changes = pose_distances(found, given, symmetry)
    return {
        name: {"median": round(float(values.quantile(0.5)), 3), "p90": round(float(values.quantile(0.9)), 3)}
        for name, values in changes.items()
    }


def pose_distances(found: Poses, given: Poses, symmetry: str = "C1") -> dict[str, Float[Tensor, " n"]]:
    """Return the distance of each pose from the given pose: ``rotation_deg`` in degrees and ``shift_px`` in pixels.

    The rotation is the distance from the nearest pose that is equivalent to the given pose by the point group ``symmetry``.
    """
    from hetacumn.physics.rotations import distance_deg, equivalent
    from hetacumn.physics.symmetry import symmetry_rotations

    copies = equivalent(given.rotations, symmetry_rotations(symmetry))
    return {
        "rotation_deg": distance_deg(found.rotations[:, None], copies).amin(1),
        "shift_px": (found.shifts_px - given.shifts_px).norm(dim=1),
    }
