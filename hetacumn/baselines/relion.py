"""RELION 3.1: InitialModel with K classes, then Class3D from the initial models (Scheres 2012; Zivanov et al. 2018)."""

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
    """Settings of the jobs InitialModel and Class3D.

    - ``healpix_order``: order of the HEALPix grid of rotations. Order 2 has steps of 15°; RELION's oversampling halves them.
    - ``offset_px``: range and step of the grid of shifts, in pixels.
    - ``initial_iterations``: iterations of InitialModel at the first resolution, in between, and at the last resolution.
    - ``resolutions_A``: first and last resolution of InitialModel in Å; Class3D starts at the first.
    - ``subsets``: images per iteration of InitialModel at the first and at the last resolution.
    - ``class3d_iterations``: iterations of Class3D.
    - ``tau2_fudge``: RELION's regularisation parameter T of Class3D.
    - ``max_significant``: largest number of poses per image that RELION keeps.
    - ``threads``, ``seed``: number of threads, and seed of the random numbers.
    - ``share``: largest fraction of the time limit for InitialModel.
    """

    healpix_order: int = 2
    offset_px: float = 2.0
    initial_iterations: tuple[int, int, int] = (30, 90, 30)
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
    """Run both jobs within ``seconds`` of processor time; return the predictions of the last complete iteration.

    ``diameter_A`` is the diameter of RELION's circular mask in Å. The latents of the predictions are the classes in one-hot
    encoding.

    Raises:
        HetacumnError: RELION is not installed, fails, or completes no iteration in time.
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
        raise HetacumnError(f"{log}: RELION completed no iteration in {first.seconds:.0f} s; increase the time limit")
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
    """Return the files ``<job>_itNNN_<kind>.star`` of complete iterations, in order.

    RELION writes the model of an iteration last. Without the model, other files of the iteration may be incomplete.
    """

    def number(path: Path) -> int:
        return int(path.name.split("_it")[1].split("_")[0])

    whole = {number(path) for path in out.glob(f"{job}_it*_model.star")} - {0}
    return sorted((p for p in out.glob(f"{job}_it*_{kind}.star") if number(p) in whole), key=number)


def read_predictions(path: Path, data: PreparedStack) -> Predictions:
    """Read the predictions from a ``run_itNNN_data.star``, in the order of the prepared particles."""
    table = star.read_table(path)
    _, index = table.images()
    if sorted(index) != list(range(len(data))):
        raise HetacumnError(f"{path}: {len(index)} particles; expected each of the {len(data)} prepared particles once")
    order = torch.from_numpy(index).argsort()
    poses = poses_of(table, pixel_A=1.0)  # shifts in Å
    if poses is None:
        raise HetacumnError(f"{path}: no column {star.ANGLES[0]}; expected the poses of a RELION run")
    classes = torch.from_numpy(table.numbers("rlnClassNumber")).long()[order] - 1
    return Predictions(
        data.metadata.names,
        poses.rotations[order],
        data.metadata.shifts_in_source_A(poses.shifts_px[order]),
        classes,
        torch.nn.functional.one_hot(classes).float(),
    )
