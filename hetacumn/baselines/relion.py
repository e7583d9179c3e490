"""RELION 3.1: InitialModel with K classes, then Class3D from its own result (Scheres 2012; Zivanov et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from hetacumn.baselines.process import Argument, Outcome, find_program, run_bounded
from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import make_folder
from hetacumn.io import star
from hetacumn.particles.metadata import poses_of
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack

HINT = "install RELION 3.1 (Debian: apt install --no-install-recommends relion)"


@dataclass(frozen=True)
class RelionConfig:
    """Settings of both jobs. InitialModel may take ``share`` of the seconds."""

    healpix_order: int = 2  # 15 degrees, halved by oversampling
    offset_px: float = 2.0
    initial_iterations: tuple[int, int, int] = (30, 90, 30)  # at the first resolution, between, at the last
    resolutions_A: tuple[float, float] = (35.0, 15.0)
    subsets: tuple[int, int] = (100, 500)
    class3d_iterations: int = 25
    tau2_fudge: float = 4.0
    max_significant: int = 200
    threads: int = 2
    seed: int = 1
    share: float = 0.5


def run(
    data: PreparedStack, out: Path | str, classes: int, diameter_A: float, seconds: float, config: RelionConfig = RelionConfig()
) -> tuple[Predictions, Outcome]:
    """Run both jobs within ``seconds``; return the predictions of the last iteration that was written.

    Latents are the classes, one column each.

    Raises:
        HetacumnError: RELION is not installed, fails, or wrote no iteration in its time.
    """
    out, program = Path(out).resolve(), find_program("relion_refine", hint=HINT)
    shared: list[Argument] = [
        "--i", data.star.name, "--K", classes, "--sym", "C1", "--ctf", "--flatten_solvent", "--zero_mask", "--norm", "--scale",
        "--particle_diameter", diameter_A, "--healpix_order", config.healpix_order, "--oversampling", 1,
        "--offset_range", config.offset_px, "--offset_step", config.offset_px, "--maxsig", config.max_significant,
        "--pad", 1, "--dont_combine_weights_via_disc", "--preread_images", "--pool", 30, "--j", config.threads,
        "--random_seed", config.seed,
    ]  # fmt: skip
    initial, between, final = config.initial_iterations
    sgd: list[Argument] = [
        "--sgd", "--denovo_3dref", "--sgd_ini_iter", initial, "--sgd_inbetween_iter", between, "--sgd_fin_iter", final,
        "--sgd_ini_resol", config.resolutions_A[0], "--sgd_fin_resol", config.resolutions_A[1],
        "--sgd_ini_subset", config.subsets[0], "--sgd_fin_subset", config.subsets[1], "--sgd_write_iter", 10,
    ]  # fmt: skip
    folder, log = data.star.parent, make_folder(out) / "relion.log"
    first = run_bounded([program, *shared, *sgd, "--o", out / "initial"], log, config.share * seconds, folder)
    models = _iterations(out, "initial", "model")
    if not models:
        raise HetacumnError(f"{log}: RELION wrote no iteration in {first.seconds:.0f} s; give it more time")
    em: list[Argument] = [
        "--ref",
        models[-1],
        "--ini_high",
        config.resolutions_A[0],
        "--iter",
        config.class3d_iterations,
        "--tau2_fudge",
        config.tau2_fudge,
        "--ctf_corrected_ref",
    ]
    second = run_bounded([program, *shared, *em, "--o", out / "class3d"], log, seconds - first.seconds, folder)
    finished = [*_iterations(out, "initial", "data"), *_iterations(out, "class3d", "data")]
    return read_predictions(finished[-1], data), first.then(second)


def _iterations(out: Path, job: str, kind: str) -> list[Path]:
    """List the files ``<job>_itNNN_<kind>.star`` of complete iterations, in order.

    RELION writes the model of an iteration last: without it, the data of the iteration may be incomplete.
    """

    def number(path: Path) -> int:
        return int(path.name.split("_it")[1].split("_")[0])

    whole = {number(path) for path in out.glob(f"{job}_it*_model.star")} - {0}
    return sorted((p for p in out.glob(f"{job}_it*_{kind}.star") if number(p) in whole), key=number)


def read_predictions(path: Path, data: PreparedStack) -> Predictions:
    """Read the predictions of the prepared particles, in their order, from a ``run_itNNN_data.star``."""
    table = star.read_table(path)
    _, index = table.images()
    if sorted(index) != list(range(len(data))):
        raise HetacumnError(f"{path}: {len(index)} particles; expected each of the {len(data)} prepared particles once")
    order = torch.from_numpy(index).argsort()
    poses = poses_of(table, pixel_A=1.0)  # shifts in Å
    if poses is None:
        raise HetacumnError(f"{path}: no column {star.ANGLES[0]}; expected RELION's poses")
    classes = torch.from_numpy(table.numbers("rlnClassNumber")).long()[order] - 1
    return Predictions(
        data.metadata.names,
        poses.rotations[order],
        data.metadata.shifts_in_source_A(poses.shifts_px[order]),
        classes,
        torch.nn.functional.one_hot(classes).float(),
    )
