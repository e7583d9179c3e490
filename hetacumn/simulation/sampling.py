"""Random poses and optics of simulated particles, uniform or from the rows of a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.physics.optics import Optics
from hetacumn.physics.rotations import from_euler, inplane, perturb, random_rotations
from hetacumn.simulation.settings import Realism, Simulation

VIEW_SPREAD_DEG = 3.0  # random spread about the views of a table, which has fewer rows than there are particles


def sample_poses(
    settings: Simulation, draw: np.random.Generator, data_dir: Path | str
) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 2"]]:
    """Sample rotations and shifts in pixels, uniformly or from the rows of a table.

    A table contains shifts and viewing directions; the directions get a small random error, and in-plane rotations are uniform.
    """
    n, generator = settings.particles, torch.Generator()
    if settings.pose_table is None:
        rotations = random_rotations(n, generator.manual_seed(int(draw.integers(2**62))))
        return rotations, torch.from_numpy(draw.uniform(-settings.shift_px, settings.shift_px, (n, 2))).float()
    columns = _sample_rows(Path(data_dir) / settings.pose_table, "pose_table", n, draw)
    angles = torch.from_numpy(np.stack([columns["rot_deg"], columns["tilt_deg"], draw.uniform(0, 360, n)], 1))
    shifts_A = torch.from_numpy(np.stack([columns["shift_x_A"], columns["shift_y_A"]], 1))
    near = perturb(from_euler(angles).float(), VIEW_SPREAD_DEG, generator.manual_seed(int(draw.integers(2**62))))
    return near, (shifts_A / settings.pixel_A).float()


def prefer_views(rotations: Float[Tensor, "n 3 3"], realism: Realism, draw: np.random.Generator) -> Float[Tensor, "n 3 3"]:
    """Replace a random part of the rotations by views near a few preferred directions, with uniform in-plane rotations."""
    n, generator = len(rotations), torch.Generator().manual_seed(int(draw.integers(2**62)))
    directions = random_rotations(realism.preferred_views, generator)
    chosen = torch.rand(n, generator=generator) < realism.preferred_share
    near = perturb(directions[torch.randint(len(directions), (n,), generator=generator)], realism.view_spread_deg, generator)
    preferred = inplane(360 * torch.rand(n, generator=generator)) @ near
    return torch.where(chosen[:, None, None], preferred, rotations)


def sample_optics(settings: Simulation, draw: np.random.Generator, data_dir: Path | str) -> Optics:
    """Sample the optics of every particle, by the ranges of the settings or from the rows of a table."""
    n = settings.particles
    if settings.ctf_table is not None:
        columns = _sample_rows(Path(data_dir) / settings.ctf_table, "ctf_table", n, draw)
    else:
        mean = draw.uniform(*settings.defocus_A, n)
        half = draw.uniform(0, settings.astigmatism_A, n) / 2
        columns = {"defocus_u_A": mean + half, "defocus_v_A": mean - half}
        columns["astigmatism_deg"] = draw.uniform(0, 180, n)
        for name in ("voltage_kv", "cs_mm", "amplitude_contrast"):
            columns[name] = np.full(n, getattr(settings, name))
    tensors = {name: torch.from_numpy(np.asarray(values)).float() for name, values in columns.items()}
    return Optics(**tensors, phase_shift_deg=torch.zeros(n), pixel_A=settings.pixel_A)


def misreport_defocus(optics: Optics, error_A: float, draw: np.random.Generator) -> Optics:
    """Return the optics that a STAR file would state: each defocus with a normal error, the same for u and v."""
    error = torch.from_numpy(draw.normal(0, error_A, len(optics))).float()
    return replace(optics, defocus_u_A=optics.defocus_u_A + error, defocus_v_A=optics.defocus_v_A + error)


def _sample_rows(path: Path, parameter: str, n: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the columns of ``n`` randomly chosen rows of a CSV, with replacement."""
    if not path.is_file():
        raise HetacumnError(f"{path}: no such file; expected the CSV table of {parameter}")
    table = pd.read_csv(path)
    rows = draw.integers(len(table), size=n)
    return {name: table[name].to_numpy()[rows] for name in table.columns}
