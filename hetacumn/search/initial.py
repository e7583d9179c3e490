"""The information that a run begins with, beside the images: poses of a particle table."""

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
from hetacumn.common.settings import read_settings

if TYPE_CHECKING:
    from hetacumn.particles.metadata import Poses
    from hetacumn.particles.prepared_stack import PreparedStack
    from hetacumn.physics.optics import Rows

SECTION = "initial"  # of settings files, and key in config.json


@dataclass(frozen=True)
class InitialSettings:
    """Settings of the information that a run begins with.

    - ``poses``: ``search`` finds the poses by an exhaustive search. ``given`` begins with the angles and origins of the
      particle table and refines them. ``fixed`` takes them as they are: the run infers classes and z alone.
    """

    poses: Literal["search", "given", "fixed"] = "search"

    @classmethod
    def from_params(cls, params: Mapping) -> InitialSettings:
        """Read the section ``initial`` of settings, or of the ``config.json`` of a run; a missing section has the defaults."""
        return read_settings(cls, params.get(SECTION) or {}, f"{SECTION}.")

    @classmethod
    def of_run(cls, out: Path | str) -> InitialSettings:
        """Read the settings in the ``config.json`` of the run folder ``out``."""
        return cls.from_params(read_config(out))

    def facts(self) -> dict:
        """Return the section by name for the files of a run; an empty dict for the defaults."""
        return {} if self == InitialSettings() else {SECTION: asdict(self)}

    @property
    def takes_poses(self) -> bool:
        """Whether the run begins with the poses of the particle table."""
        return self.poses != "search"

    def check_table(self, path: Path | str) -> None:
        """Raise :class:`HetacumnError` if the settings need angles that the particle table ``path`` lacks."""
        if self.takes_poses:
            from hetacumn.io.star import ANGLES, read_table

            table = read_table(Path(path))
            if missing := [column for column in ANGLES if not table.has(column)]:
                names = ", ".join(missing)
                raise HetacumnError(f"{path}: no column {names}; expected the angles of each particle for poses {self.poses!r}")


@dataclass(frozen=True)
class InitialData:
    """The information that a start begins with, for the images of the start.

    - ``settings``: the settings that the information was read with.
    - ``poses``: the poses of the images; None if the start searches for them.
    """

    settings: InitialSettings = field(default_factory=InitialSettings)
    poses: Poses | None = None


def given_poses(stack: PreparedStack, device: torch.device | str, rows: Rows = slice(None)) -> Poses:
    """Return the poses of the particle table of a prepared stack, in pixels of the prepared images.

    Raises:
        HetacumnError: the table has no angles.
    """
    found = stack.metadata[rows].poses
    if found is None:
        raise HetacumnError(
            f"{stack.source}: no angles; expected the angles of every particle, because the poses are not searched"
        )
    return found.to(device)


def pose_change(found: Poses, given: Poses) -> dict[str, dict[str, float]]:
    """Measure how far poses moved from the given poses, in the same frame.

    Returns the median and the 90th percentile over the particles, for the rotation in degrees and for the shift in pixels.
    """
    changes = pose_distances(found, given)
    return {
        name: {"median": round(float(values.quantile(0.5)), 3), "p90": round(float(values.quantile(0.9)), 3)}
        for name, values in changes.items()
    }


def pose_distances(found: Poses, given: Poses) -> dict[str, Float[Tensor, " n"]]:
    """Return the distance of each pose from the given pose: ``rotation_deg`` in degrees and ``shift_px`` in pixels."""
    from hetacumn.physics.rotations import distance_deg

    return {
        "rotation_deg": distance_deg(found.rotations, given.rotations),
        "shift_px": (found.shifts_px - given.shifts_px).norm(dim=1),
    }
