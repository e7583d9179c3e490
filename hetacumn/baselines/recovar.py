"""RECOVAR 0.4.5 (Gilles & Singer 2025, doi:10.1073/pnas.2419140122): latents of images with given poses, volumes at latents.

RECOVAR computes principal components of the volumes, and volumes by kernel regression. It runs in a separate environment
(``make recovar``). The licence of version 0.4.5 is GPL-3. Version 1.0.5 is not used: without a GPU its mean volume is magnified
twofold, and its licence permits only academic, non-commercial use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.baselines.pickles import CTF, POSES, checked_latents, load_arrays, write_ctf_and_poses
from hetacumn.baselines.process import Argument, Outcome, find_program, run_to_end
from hetacumn.io.mrc import read_mrc
from hetacumn.particles.prepared_stack import PreparedStack

HINT = "create the environment with `make recovar`"
ONE_THREAD = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}


@dataclass(frozen=True)
class RecovarConfig:
    """Settings of a RECOVAR run.

    - ``latent_dim``: number of principal components in z.
    - ``mask``: solvent mask: sphere, from_halfmaps, none, or an MRC file.
    - ``memory_gb``: memory for batches of images and volumes, in GB.
    - ``options``: further options of ``recovar pipeline``. ``--low-memory-option`` reduces the number of columns of the
      covariance from 300 to 50. With ``--very-low-memory-option`` RECOVAR 0.4.5 fails: it computes 30 components and saves 50.
    """

    latent_dim: int = 4
    mask: str = "sphere"
    memory_gb: float = 2.0
    options: tuple[str, ...] = ("--low-memory-option",)


def embed(
    data: PreparedStack, out: Path | str, seconds: float, venv: Path | str, config: RecovarConfig = RecovarConfig()
) -> tuple[Float[Tensor, "n q"], Outcome]:
    """Compute the latents of all images at the poses in their table, in at most ``seconds`` of processor time.

    ``out`` receives RECOVAR's files and its log, ``recovar.log``. ``venv`` is the folder of the environment with RECOVAR.

    Raises:
        HetacumnError: the table has no poses, ``venv`` has no RECOVAR, or RECOVAR fails or does not finish in time.
    """
    out, program = Path(out).resolve(), find_program("recovar", Path(venv) / "bin", HINT)
    write_ctf_and_poses(data, out)
    command: list[Argument] = [program, "pipeline", data.stack.resolve(), "-o", out, "--ctf", out / CTF, "--poses", out / POSES]
    command += ["--mask", config.mask, "--zdim", config.latent_dim, "--gpu-gb", config.memory_gb, "--accept-cpu"]
    outcome = run_to_end([*command, *config.options], out / "recovar.log", seconds, ONE_THREAD)
    array = load_arrays(path := out / "model/embeddings.pkl")["zs"][config.latent_dim]
    return checked_latents(array, path, len(data), config.latent_dim), outcome


def make_volumes(
    out: Path | str, points: Float[Tensor, "m q"], seconds: float, venv: Path | str
) -> tuple[Float[Tensor, "m box box box"], Outcome]:
    """Compute volumes at latents by RECOVAR's kernel regression of the images; :func:`embed` wrote ``out``.

    Raises:
        HetacumnError: ``venv`` has no RECOVAR, or RECOVAR fails or does not finish in time.
    """
    out, program = Path(out).resolve(), find_program("recovar", Path(venv) / "bin", HINT)
    np.savetxt(out / "points.txt", points.numpy())
    command: list[Argument] = [program, "compute_state", out, "-o", out / "states", "--latent-points", out / "points.txt"]
    outcome = run_to_end(command, out / "recovar.log", seconds, ONE_THREAD)
    volumes = [read_mrc(out / f"states/all_volumes/vol{row:04d}.mrc")[0] for row in range(len(points))]
    return torch.stack(volumes), outcome
