"""The speed of every part, and its fraction of the peak of the machine. `make speed` writes benchmark/speed/results.csv.

Each row is the median of several runs of one part at one box: particles per second, and the fraction of the peak, which the
script measures in the same process beforehand. The peak depends on the part:

- For parts that consist of matrix products, it is the peak rate of matrix products: in bfloat16 for the encoder and the pose
  task, if the hardware supports it, and in float32 for all other parts.
- For parts that move data, it is the peak rate of copying (bytes read and written).

``peer`` is the name of another program; it is empty for this package. The images are noise plus slices of a random smooth
volume, because the speed does not depend on the content of the images.

Usage: python benchmark/speed/speed.py [--boxes 32 64 128 256] [--device cuda] [--peers .venv-peers]
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig, EMSchedule
from hetacumn.ab_initio.stochastic_em import smooth_noise, stochastic_em
from hetacumn.baselines import cryodrgn, relion
from hetacumn.baselines.process import find_program, run_bounded
from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path
from hetacumn.common.memory import keep_freed_memory
from hetacumn.compute.cuda_graph import WARM_UP
from hetacumn.compute.devices import device_name, pick_device
from hetacumn.compute.precision import layer_dtype, multiply_fast
from hetacumn.io.mrc import write_mrc
from hetacumn.io.stacks import new_stack
from hetacumn.io.star import read_table
from hetacumn.network.config import TrainConfig
from hetacumn.network.model import build_model
from hetacumn.network.trainer import Trainer
from hetacumn.particles.metadata import ParticleMetadata, write_star
from hetacumn.particles.observations import Observations, signal_nats, signal_power
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.physics.optics import Optics
from hetacumn.physics.rotations import random_rotations
from hetacumn.physics.slices import Slicer
from hetacumn.physics.volumes import soft_sphere
from hetacumn.prediction.classes import class_centres
from hetacumn.prediction.inference import amortize, follow_hypotheses, search_misfits
from hetacumn.search.grid import pose_grid, search_grid, shift_grid

FOLDER = Path(__file__).resolve().parent
COLUMNS = ["what", "box", "device", "threads", "particles_per_second", "fraction_of_peak", "peer"]
PIXEL_A = 3.0
REPEATS = 5
NATS = 700.0  # mean log-likelihood gain per image, as at SNR 0.1
PEER_SECONDS = 400.0  # limit of processor time for each measurement of another program


@dataclass(frozen=True)
class Peak:
    """The peak rates of a device.

    - ``single``: floating-point operations per second of matrix products in single precision.
    - ``layers``: floating-point operations per second of matrix products in the format of the network layers.
    - ``bytes``: bytes read and written per second.
    """

    single: float
    layers: float
    bytes: float


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Return the median duration of ``repeats`` runs after one warm-up run; wait for the work of a CUDA device."""

    def once() -> float:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    once()
    return statistics.median(once() for _ in range(repeats))


def measure_peak(device: torch.device) -> Peak:
    """Measure the peak rates with large matrix products and large copies."""
    size = 8192 if device.type == "cuda" else 2048

    def products(kind: torch.dtype) -> float:
        a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
        return 2 * size**3 / median_seconds(lambda: a @ b, device)

    single = products(torch.float32)
    layers = single if layer_dtype(device) == torch.float32 else products(layer_dtype(device))
    much = torch.randn(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(much)
    return Peak(single, layers, 2 * 4 * len(much) / median_seconds(lambda: target.copy_(much), device))


def flops_of(work: Callable[[], object]) -> int:
    """Count the floating-point operations of the matrix products in a call; PyTorch counts no other operations."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the counter sees only the calling thread
    try:
        with FlopCounterMode(display=False) as counter:
            work()
    finally:
        torch.set_num_threads(threads)
    return counter.get_total_flops()


class Suite:
    """Measurements of all parts on synthetic stacks on one device. ``rows`` collects the rows of the table."""

    def __init__(self, device: torch.device, venv: str):
        self.device, self.venv, self.rows = device, venv, []
        self.peak = measure_peak(device)
        self.generator = torch.Generator().manual_seed(0)
        products = f"{self.peak.single / 1e9:.0f} GFLOP/s in float32 products, {self.peak.layers / 1e9:.0f} in layer format"
        print(f"{device_name(device)}: {products}, {self.peak.bytes / 1e9:.1f} GB/s of copying", flush=True)

    def add(
        self,
        what: str,
        box: int,
        particles: int,
        seconds: float,
        flops: float | None = None,
        layers: float | None = None,
        moved: float | None = None,
        peer: str = "",
    ) -> None:
        """Add and print a row: a part processed ``particles`` in ``seconds``.

        One of three numbers determines the fraction of the peak: ``flops``, operations in single precision; ``layers``,
        operations that are mostly those of network layers; or ``moved``, bytes read and written.
        """
        fraction = None
        if flops is not None:
            fraction = flops / seconds / self.peak.single
        elif layers is not None:
            fraction = layers / seconds / self.peak.layers
        elif moved is not None:
            fraction = moved / seconds / self.peak.bytes
        kind, _, _ = device_name(self.device).partition(",")
        row = dict(
            zip(
                COLUMNS,
                [
                    what,
                    box,
                    kind,
                    torch.get_num_threads(),
                    round(particles / seconds, 1),
                    fraction and round(fraction, 3),
                    peer,
                ],
                strict=True,
            )
        )
        self.rows.append(row)
        share = f"{100 * fraction:5.1f} % of peak" if fraction is not None else ""
        print(f"{what:32} {box:4} px {particles / seconds:12,.1f} particles/s  {share:15} {peer}", flush=True)

    def stack(self, box: int, count: int) -> tuple[Tensor, Observations]:
        """Create a basis of five smooth volumes ``(5, box, box, box)``, and images of the first volume with a gain of NATS."""
        noise = smooth_noise(5, box, self.generator, box // 4)
        basis = (noise * soft_sphere(box, edge=box / 4)).to(self.device)
        basis = basis * torch.tensor([1.0, 0.3, 0.3, 0.3, 0.3], device=self.device)[:, None, None, None]
        plane = HalfPlane(box, device=self.device)
        ctf = optics(256).ctf(plane.k.cpu() / box).to(self.device)
        slicer = Slicer(basis[:1], padding=1.0)
        few = Observations(self._slices(slicer, plane, 256) * ctf, ctf, plane)
        noisy = replace(few, y=few.y + torch.randn_like(few.y))
        louder = (NATS / signal_nats(noisy, 0.22 * box)) ** 0.5
        ctf = ctf[torch.arange(count, device=self.device) % len(ctf)]
        y = torch.empty(count, len(plane), dtype=torch.complex64, device=self.device)
        for rows in torch.arange(count, device=self.device).split(500):
            y[rows] = louder * self._slices(slicer, plane, len(rows)) * ctf[rows] + torch.randn_like(y[rows])
        return louder * basis, Observations(y, ctf, plane)

    def _slices(self, slicer: Slicer, plane: HalfPlane, count: int) -> Tensor:
        return slicer(random_rotations(count, self.generator).to(self.device), plane.k)[:, 0]

    def run(self, box: int) -> None:
        """Measure all parts at one box."""
        count = {32: 8000, 64: 4000, 128: 1000}.get(box, 400)
        if self.device.type == "cuda":
            count *= 4
        basis, data = self.stack(box, count)
        if box <= 128:
            self.slices(box, basis, data)
            self.preprocessing(box, count)
            self.searching(box, basis, data)
            self.training(box, data)
        self.inference(box, basis, data)
        if box == 32 and self.device.type == "cpu":
            self.star(box)
            if self.venv:
                self.others(box, basis)

    def slices(self, box: int, basis: Tensor, data: Observations) -> None:
        slicer, count = Slicer(basis), 500
        rotations = random_rotations(count, self.generator).to(self.device)
        seconds = median_seconds(lambda: slicer(rotations, data.k), self.device)
        read = count * len(data.k) * 8 * 2 * 4 * len(basis)  # eight corners, each with one complex value per volume
        self.add("slices of 5 volumes", box, count, seconds, moved=read)

    def searching(self, box: int, basis: Tensor, data: Observations) -> None:
        config = AbInitioConfig()
        grid = (2, 12) if box > 64 and self.device.type == "cpu" else config.grid.rotations
        schedule = EMSchedule(steps=10, radius=(0.2, 0.22), grids=(grid,), temper=1.0, rate=config.consensus.rate)
        first, bar = basis[:1], tqdm(disable=True)

        def em() -> None:
            stochastic_em(data, first, schedule, config, torch.Generator().manual_seed(0), bar)

        self.add("ab initio step", box, schedule.steps * config.batch, median_seconds(em, self.device, 3), flops_of(em))
        few = data[: 200 if self.device.type == "cpu" else 2000].within(config.classes.radius[1] * box)
        poses = pose_grid(*grid).to(self.device), shift_grid(1.5, 3).to(self.device)

        def e_step() -> None:
            search_grid(few, first, *poses)

        self.add(
            f"expectation, {len(poses[0]) * len(poses[1])} poses",
            box,
            len(few),
            median_seconds(e_step, self.device, 3),
            flops_of(e_step),
        )

    def training(self, box: int, data: Observations) -> None:
        config = TrainConfig(joint_epochs=100.0)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(data, config, Path(folder), None)
        model, batch = trainer.model, config.alone_batch
        encoder = list(model.encoder.parameters())
        images, ctf = data.y[:batch], data.ctf[:batch]

        def encode(features_of: Callable[[Tensor, Tensor], Tensor] = model.encoder.features) -> None:
            features = features_of(images, ctf)
            found = model.encoder.pose(features, model.encoder.latent(features)[0])
            (found.rotations.sum() + found.logits.sum()).backward()
            for parameter in encoder:
                parameter.grad = None

        def advance() -> None:
            trainer.step = 0
            trainer._advance()

        def launched() -> None:  # as `advance`, without a CUDA graph, whose operations are not counted
            trainer._learn_poses(torch.zeros((), device=self.device))

        def joint() -> None:
            trainer.step = trainer.alone
            trainer._advance()

        for _ in range(WARM_UP + 1):  # until the CUDA graph is recorded, if there is one
            advance()
        alone = median_seconds(encode, self.device)
        self.add("encoder, forward and backward", box, batch, alone, layers=flops_of(encode))
        if self.device.type == "cpu":
            compiled = torch.compile(model.encoder.features)
            seconds = median_seconds(lambda: encode(compiled), self.device)
            self.add("the same, torch.compile", box, batch, seconds, layers=flops_of(encode))
        whole = median_seconds(advance, self.device)
        self.add("training step, pose task", box, batch, whole, layers=flops_of(launched))
        self.add("training step, both tasks", box, config.batch, median_seconds(joint, self.device, 3), flops_of(joint))
        print(f"{'':32} a step of the pose task takes {whole / alone:.2f} times as long as its encoder", flush=True)

    def inference(self, box: int, basis: Tensor, data: Observations) -> None:
        config = TrainConfig()
        model = build_model(config, box, basis.cpu(), signal_power(data)).to(self.device).eval()
        model.calibrate(data[:500])
        for grade, feedback in (("encoder", False), ("amortized", True)):

            def infer(feedback: bool = feedback) -> None:
                amortize(model, data, feedback)

            kind = "flops" if feedback else "layers"
            self.add(f"inference, {grade}", box, len(data), median_seconds(infer, self.device, 3), **{kind: flops_of(infer)})
        if box <= 64:
            few = data[: 1000 if self.device.type == "cpu" else 10_000]
            model.misfit_limit.fill_(torch.inf)

            def refined() -> None:
                basis = model.decoder.linear_basis().detach()
                found = follow_hypotheses(model, few, basis, config.ab_initio)
                centres = class_centres(found.state.latents, 2)
                search_misfits(few, found, model.misfit_limit, basis, centres, config.ab_initio)

            self.add("inference, refined", box, len(few), median_seconds(refined, self.device, 3), flops_of(refined))

    def preprocessing(self, box: int, count: int) -> None:
        """Measure the preparation of a stack on disk with twice the box."""
        count = min(count, 2000)
        with tempfile.TemporaryDirectory() as folder:
            source = write_stack(Path(folder), 2 * box, count)

            def work() -> None:
                prepare_stack(source, Path(folder) / "prepared", Preprocessing(box=box), progress=False)
                (Path(folder) / "prepared/prepared.json").unlink()

            read = 4 * count * (2 * (2 * box) ** 2 + box**2)  # the source is read twice: survey, preprocessing
            self.add("preprocessing, from twice the box", box, count, median_seconds(work, self.device, 3), moved=read)

    def star(self, box: int, count: int = 100_000) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = write_star_of(Path(folder), box, count)
            seconds = median_seconds(lambda: read_table(source), self.device, 3)
            self.add("reading STAR", box, count, seconds, moved=source.stat().st_size)

    def others(self, box: int, basis: Tensor, count: int = 500) -> None:
        """Measure cryoDRGN2 (cryoDRGN 4.3.1) with and without pose search, and the expectation step of RELION 3.1.

        cryoDRGN2 has the sizes of the benchmark. RELION has the pose grid of this package.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source = prepare_stack(write_stack(folder, box, count), folder / "prepared", Preprocessing(box=box), progress=False)
            write_mrc(folder / "prepared/reference.mrc", basis[0], PIXEL_A)
            for measure in (self._relion, self._cryodrgn):
                try:
                    measure(source, folder)
                except HetacumnError as error:
                    print(f"not measured: {error}")

    def _relion(self, source: PreparedStack, folder: Path) -> None:
        program = find_program("relion_refine", hint=relion.HINT)
        command = [
            program, "--i", source.star.name, "--ref", "reference.mrc", "--ini_high", 4 * PIXEL_A, "--sym", "C1", "--K", 1,
            "--ctf", "--ctf_corrected_ref", "--flatten_solvent", "--zero_mask", "--firstiter_cc", "--pad", 1,
            "--particle_diameter", 0.9 * source.box * PIXEL_A, "--healpix_order", 2, "--oversampling", 0,
            "--offset_range", 2, "--offset_step", 2, "--preread_images", "--pool", 30, "--dont_combine_weights_via_disc",
            "--j", torch.get_num_threads(), "--o", folder / "relion",
        ]  # fmt: skip
        one, two = (
            run_bounded([*command, "--iter", n], folder / f"relion{n}.log", PEER_SECONDS, source.star.parent) for n in (1, 2)
        )
        if not (one.finished and two.finished):
            raise HetacumnError(f"RELION did not complete two iterations in {PEER_SECONDS:.0f} s of processor time")
        seconds = two.clock_seconds - one.clock_seconds
        self.add("expectation, 4608 rotations", source.box, len(source), seconds, peer="relion 3.1")

    def _cryodrgn(self, source: PreparedStack, folder: Path) -> None:
        config = cryodrgn.CryodrgnConfig(epochs=3, pretrain_images=100)
        _, outcome = cryodrgn.run(source, folder / "cryodrgn", 2, PEER_SECONDS, self.venv, config)
        text = (folder / "cryodrgn/cryodrgn.log").read_text()
        epochs = [
            timedelta(hours=int(h), minutes=int(m), seconds=float(s)).total_seconds()
            for h, m, s in re.findall(r"Epoch: \d+ Average.*Finished in (\d+):(\d+):([\d.]+)", text)
        ]
        if len(epochs) < 2:
            raise HetacumnError(f"cryoDRGN did not complete two epochs in {outcome.seconds:.0f} s")
        self.add("training epoch with pose search", source.box, len(source), epochs[0], peer="cryodrgn2 4.3.1")
        self.add("training epoch", source.box, len(source), min(epochs[1:]), peer="cryodrgn2 4.3.1")


def optics(count: int) -> Optics:
    """Return the optics of 300 kV images with random defoci from 10,000 to 25,000 Å."""
    draw = torch.Generator().manual_seed(0)
    defocus = 10000 + 15000 * torch.rand(count, generator=draw)
    same = {"astigmatism_deg": 0.0, "voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift_deg": 0.0}
    return Optics(defocus, defocus, **{name: torch.full((count,), value) for name, value in same.items()}, pixel_A=PIXEL_A)


def write_star_of(folder: Path, box: int, count: int) -> Path:
    """Write a STAR file of ``count`` particles in one stack; return its path."""
    path = folder / "particles.star"
    write_star(path, ParticleMetadata([f"{i + 1:06d}@particles.mrcs" for i in range(count)], optics(count)), box)
    return path


def write_stack(folder: Path, box: int, count: int) -> Path:
    """Write a stack of noise with a bright blob, and its STAR file; return the path of the STAR file."""
    with new_stack(folder / "particles.mrcs", count, box, PIXEL_A) as stack:
        blob = 2 * torch.exp(-(torch.arange(box) - box / 2).square() / (box / 8) ** 2)
        for i in range(count):
            stack[i] = (torch.randn(box, box, generator=torch.Generator().manual_seed(i)) + blob[:, None] * blob).numpy()
    return write_star_of(folder, box, count)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the speed of every part and its fraction of the peak of the machine.")
    parser.add_argument("--boxes", type=int, nargs="*", default=[32, 64, 128, 256])
    parser.add_argument("--device", help="cpu or cuda; default: CUDA if available")
    parser.add_argument("--peers", default=".venv-peers", help="environment of `make peers`; '' to skip other programs")
    options = parser.parse_args()
    device = pick_device(options.device)
    multiply_fast(device)
    keep_freed_memory()  # training and prediction do this, too
    suite = Suite(device, options.peers)
    for box in options.boxes:
        suite.run(box)
        write_rows(suite.rows)  # keeps these rows if the next box does not fit into memory


def write_rows(rows: list[dict]) -> None:
    """Write rows into the table; they replace all earlier rows of their devices."""
    path = FOLDER / "results.csv"
    table = pd.DataFrame(rows, columns=COLUMNS)
    if path.exists():
        before = pd.read_csv(path)
        table = pd.concat([before[~before["device"].isin(table["device"])], table])
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
    print(f"results: {path}")


if __name__ == "__main__":
    main()
