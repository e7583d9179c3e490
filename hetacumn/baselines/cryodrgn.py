"""cryoDRGN 4.3: cryoDRGN2 (``abinit_het_old``, Zhong et al. 2021) and cryoDRGN-AI (``abinit``, Levy et al. 2025).

cryoDRGN runs in a separate environment (``make peers``). As in HetACUMN, a Gaussian mixture of the latents gives the classes.
:func:`embed` and :func:`make_volumes` run the first cryoDRGN (``train_vae``), which reads the poses from the particle table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.baselines.pickles import CTF, POSES, checked_latents, load_arrays, write_ctf_and_poses
from hetacumn.baselines.process import Argument, Outcome, find_program, run_bounded, run_to_end
from hetacumn.common.errors import HetacumnError
from hetacumn.io.mrc import read_mrc
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.prediction.classes import classify

HINT = "create the environment with `make peers`"


@dataclass(frozen=True)
class CryodrgnConfig:
    """Settings of a cryoDRGN run.

    The defaults suit images of 32 px on a CPU: one pose search of 3,000 particles takes a few minutes. With cryoDRGN's own
    defaults the search takes most of an hour.

    - ``command``: ``abinit_het_old`` (cryoDRGN2) or ``abinit`` (cryoDRGN-AI).
    - ``conf_encoder``: ``abinit`` only: whether a network predicts z, instead of a table with one z per image.
    - ``latent_dim``: dimensions of z.
    - ``epochs``: upper limit of the training epochs; the time limit usually ends training earlier.
    - ``search_epochs``: ``abinit`` only: epochs with exhaustive pose search.
    - ``width``, ``layers``: units per layer and number of layers of the networks.
    - ``encoding``: number of frequencies in the positional encoding of the decoder.
    - ``base_healpy``: HEALPix resolution of the first pose grid; the grid has nside ``2 ** base_healpy``.
    - ``rounds``: number of refinements of the grid; each halves the spacing.
    - ``kept_poses``: number of best poses around which the grid is refined.
    - ``l_start``, ``l_end``: Fourier radii at the start and at the end of the pose search, in pixels.
    - ``t_extent_px``: largest shift in each direction, in pixels.
    - ``t_grid``: shifts per axis of the first grid.
    - ``pretrain_images``: number of images of the pretraining.
    - ``seed``: seed of the random numbers.
    """

    command: str = "abinit_het_old"
    conf_encoder: bool = False
    latent_dim: int = 4
    epochs: int = 100
    search_epochs: int = 2
    width: int = 64
    layers: int = 3
    encoding: int = 16
    base_healpy: int = 1
    rounds: int = 3
    kept_poses: int = 4
    l_start: int = 4
    l_end: int = 12
    t_extent_px: float = 2.0
    t_grid: int = 3
    pretrain_images: int = 3000
    seed: int = 0


def run(
    data: PreparedStack,
    out: Path | str,
    classes: int,
    seconds: float,
    venv: Path | str,
    config: CryodrgnConfig = CryodrgnConfig(),
) -> tuple[Predictions, Outcome]:
    """Train cryoDRGN for at most ``seconds`` of processor time; return the predictions of its last complete epoch.

    ``out`` receives cryoDRGN's files and its log, ``cryodrgn.log``. ``classes`` is the number of classes of the Gaussian
    mixture. ``venv`` is the folder of the environment with cryoDRGN.

    Raises:
        HetacumnError: ``venv`` has no cryoDRGN, or cryoDRGN fails or completes no epoch in time.
    """
    out, program = Path(out).resolve(), find_program("cryodrgn", Path(venv) / "bin", HINT)
    log, folder = out / "cryodrgn.log", data.star.parent
    parsed: list[Argument] = [program, "parse_ctf_star", data.star, "-o", out / "ctf.pkl"]
    first = run_bounded(parsed, log, min(120.0, seconds))
    shared: list[Argument] = [
        "--ctf",
        out / "ctf.pkl",
        "--zdim",
        config.latent_dim,
        "--seed",
        config.seed,
        "--no-analysis",
        "--no-amp",
        "--l-start",
        config.l_start,
        "--l-end",
        config.l_end,
        "--t-extent",
        config.t_extent_px,
        "--t-ngrid",
        config.t_grid,
        "--base-healpy",
        config.base_healpy,
        "--niter",
        config.rounds,
        "--nkeptposes",
        config.kept_poses,
        "--pe-dim",
        config.encoding,
        "-o",
        out,
    ]
    sizes: list[Argument]
    if config.command == "abinit_het_old":
        sizes = [
            "-n",
            config.epochs,
            "--enc-dim",
            config.width,
            "--enc-layers",
            config.layers,
            "--dec-dim",
            config.width,
            "--dec-layers",
            config.layers,
            "--pretrain",
            config.pretrain_images,
        ]
    elif config.command == "abinit":
        sizes = [
            "--num-epochs",
            config.epochs,
            "--epochs-pose-search",
            config.search_epochs,
            "--dim",
            config.width,
            "--layers",
            config.layers,
            "--n-imgs-pretrain",
            config.pretrain_images,
            "--checkpoint",
            1,
            "--num-workers",
            0,
            *(["--use-conf-encoder"] if config.conf_encoder else []),
        ]
    else:
        raise HetacumnError(f"command is '{config.command}'; expected abinit_het_old or abinit")
    second = run_bounded([program, config.command, data.stack.name, *shared, *sizes], log, seconds - first.seconds, folder)
    epoch = _last_epoch(out)
    if epoch is None:
        raise HetacumnError(f"{log}: cryoDRGN completed no epoch in {second.seconds:.0f} s; increase the time limit")
    return read_predictions(out, epoch, data, classes, config), first.then(second)


def embed(
    data: PreparedStack, out: Path | str, seconds: float, venv: Path | str, config: CryodrgnConfig = CryodrgnConfig()
) -> tuple[Float[Tensor, "n q"], Outcome]:
    """Train a VAE at the poses in the particle table for at most ``seconds`` of processor time; return z of the last epoch.

    ``config`` sets ``latent_dim``, ``epochs``, ``width``, ``layers``, ``encoding`` and ``seed``. ``out`` receives cryoDRGN's
    files and its log, ``cryodrgn.log``. ``venv`` is the folder of the environment with cryoDRGN.

    Raises:
        HetacumnError: the table has no poses, ``venv`` has no cryoDRGN, or cryoDRGN fails or completes no epoch in time.
    """
    out, program = Path(out).resolve(), find_program("cryodrgn", Path(venv) / "bin", HINT)
    write_ctf_and_poses(data, out)
    command: list[Argument] = [
        program,
        "train_vae",
        data.stack.resolve(),
        "--ctf",
        out / CTF,
        "--poses",
        out / POSES,
        "-o",
        out,
    ]
    command += ["--zdim", config.latent_dim, "--seed", config.seed, "-n", config.epochs, "--pe-dim", config.encoding]
    for part in ("enc", "dec"):
        command += [f"--{part}-dim", config.width, f"--{part}-layers", config.layers]
    outcome = run_bounded([*command, "--no-analysis", "--no-amp"], log := out / "cryodrgn.log", seconds)
    epoch = _last_epoch(out, "weights")
    if epoch is None:
        raise HetacumnError(f"{log}: cryoDRGN completed no epoch in {outcome.seconds:.0f} s; increase the time limit")
    array = load_arrays(path := out / f"z.{epoch}.pkl")
    return checked_latents(array, path, len(data), config.latent_dim), outcome


def make_volumes(
    out: Path | str, points: Float[Tensor, "m q"], seconds: float, venv: Path | str
) -> tuple[Float[Tensor, "m box box box"], Outcome]:
    """Decode latents into volumes, by the weights of the last epoch of :func:`embed` in ``out``.

    Raises:
        HetacumnError: ``venv`` has no cryoDRGN, or cryoDRGN fails or does not finish in time.
    """
    out, program = Path(out).resolve(), find_program("cryodrgn", Path(venv) / "bin", HINT)
    np.savetxt(out / "points.txt", points.numpy())
    command: list[Argument] = [
        program,
        "eval_vol",
        out / f"weights.{_last_epoch(out, 'weights')}.pkl",
        "-c",
        out / "config.yaml",
    ]
    command += ["--zfile", out / "points.txt", "-o", out / "states", "--vol-start-index", 0]
    outcome = run_to_end(command, out / "cryodrgn.log", seconds)
    volumes = [read_mrc(out / f"states/vol_{row:03d}.mrc")[0] for row in range(len(points))]
    return torch.stack(volumes), outcome


def _last_epoch(out: Path, beside: str = "pose") -> int | None:
    """Return the last epoch with both a file of latents and a file named ``beside``, or None."""

    def epochs(stem: str) -> set[int]:
        return {int(m[1]) for path in out.glob(f"{stem}.*.pkl") if (m := re.fullmatch(rf"{stem}\.(\d+)\.pkl", path.name))}

    return max(epochs("z") & epochs(beside), default=None)


def read_predictions(out: Path | str, epoch: int, data: PreparedStack, classes: int, config: CryodrgnConfig) -> Predictions:
    """Read the predictions of epoch N from ``z.N.pkl`` and ``pose.N.pkl`` in ``out``.

    cryoDRGN stores rotations as RELION's matrices. Its translations have the opposite sign of this package's shifts. Their unit
    is the box (``abinit_het_old``) or the pixel (``abinit``).

    Raises:
        HetacumnError: a file cannot be read, holds anything but arrays, or has the wrong number of rows.
    """
    out, count = Path(out), len(data)
    latents = np.asarray(load_arrays(out / f"z.{epoch}.pkl"), dtype=np.float32)
    pose = load_arrays(out / f"pose.{epoch}.pkl")
    rotations, translations = (np.asarray(part, dtype=np.float32) for part in pose)
    if latents.shape[0] != count or rotations.shape != (count, 3, 3) or translations.shape != (count, 2):
        raise HetacumnError(
            f"{out}: epoch {epoch} has latents {latents.shape}, rotations {rotations.shape} and translations "
            f"{translations.shape}; expected one row for each of {count} particles"
        )
    scale = data.pixel_A * (data.box if config.command == "abinit_het_old" else 1.0)
    z = torch.from_numpy(latents)
    shifts_A = data.metadata.shifts_in_source_A(-scale * torch.from_numpy(translations))
    return Predictions(data.metadata.names, torch.from_numpy(rotations), shifts_A, classify(z, classes, config.seed).labels, z)
