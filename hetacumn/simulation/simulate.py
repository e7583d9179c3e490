"""Simulation of a particle stack and its truth from atomic models, poses, optics and noise.

Projections are sums of Gaussians in real space (:mod:`hetacumn.simulation.projection`), not the Fourier slices that the decoder
uses. The agreement of both is therefore a test of the decoder, and benchmarks do not commit an inverse crime.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from hetacumn.compute.batches import batch_slices
from hetacumn.io.mrc import write_volumes
from hetacumn.io.stacks import new_stack, release_pages
from hetacumn.particles.metadata import ParticleMetadata, write_star
from hetacumn.simulation.conformations import load_conformations
from hetacumn.simulation.imaging import JUNK, Noise, add_neighbours, form_images, replace_by_junk, vary_contrast
from hetacumn.simulation.projection import density
from hetacumn.simulation.sampling import misreport_defocus, prefer_views, sample_optics, sample_poses
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.truth import Truth

CHUNK = 64  # images simulated at once
EXAMPLES = 16  # clean images kept for figures


def simulate_stack(
    settings: Simulation,
    out: Path | str,
    seed: int,
    data_dir: Path | str,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> Truth:
    """Write ``particles.mrcs``, ``particles.star`` (RELION 3.1, without truth), ``truth.npz`` and volumes to a folder.

    ``truth_class1.mrc``, … are the volumes of the classes, with the box and the pixel size of the images. A class of a
    continuous motion is an interval of each coordinate, and its volume is at the middle of the intervals. The same seed gives
    the same files, up to rounding errors on different devices. Memory holds the truth of every particle, but not the images.

    Args:
        settings: the molecule, the poses, the optics and the noise.
        out: the folder for the files.
        seed: the seed of all random numbers.
        data_dir: the folder of the structures and the tables.
        progress: whether to show progress bars.
        device: the device that computes the images; random numbers are sampled on the CPU.

    Raises:
        HetacumnError: a structure, a state or a table is unknown, or the number of weights is not the number of states.
    """
    out, n, box, realism = Path(out), settings.particles, settings.box, settings.realism
    draw, noise_draw, extra = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    conformations = load_conformations(settings, draw, data_dir)
    rotations, shifts_px = sample_poses(settings, draw, data_dir)
    optics = sample_optics(settings, draw, data_dir)
    if realism.preferred_share:
        rotations = prefer_views(rotations, realism, extra)
    if realism.shift_sd_px:
        shifts_px = torch.from_numpy(extra.normal(0, realism.shift_sd_px, (n, 2))).float()
    junk = torch.from_numpy(np.where(extra.random(n) < realism.junk_share, extra.integers(1, len(JUNK), n), 0))
    chunks = list(batch_slices(n, CHUNK))

    with new_stack(out / "particles.mrcs", n, box, settings.pixel_A) as stack:
        variances = np.empty(n)
        with tqdm(total=n, desc="projecting", unit="", disable=not progress) as bar:
            for rows in chunks:
                views = conformations.project(rows, rotations[rows].to(device), box, settings.pixel_A)
                if realism.contrast_sd:
                    views = vary_contrast(views, realism.contrast_sd, extra)
                here = optics[rows].to(device)
                images = form_images(views, here, shifts_px[rows].to(device), realism.envelope_A2)
                if junk[rows].any():
                    images = replace_by_junk(images, junk[rows], here, realism.envelope_A2, extra)
                variances[rows] = images.double().var((1, 2), correction=0).cpu()
                if realism.neighbours:
                    images = add_neighbours(images, views, here, realism, extra)
                stack[rows] = images.cpu()
                release_pages(stack)
                bar.update(len(images))
        noise_std = float((variances[(junk == 0).numpy()].mean() / settings.snr) ** 0.5)
        clean = torch.from_numpy(stack[:EXAMPLES] / np.float32(noise_std))
        sign = 1 if settings.contrast == "white" else -1
        noise = Noise(settings, noise_draw)
        with tqdm(total=n, desc="adding noise", unit="", disable=not progress) as bar:
            for rows in chunks:
                stack[rows] = stack[rows] * np.float32(sign / noise_std) + noise.sample(optics[rows])
                release_pages(stack)
                bar.update(rows.stop - rows.start)

    refined_A = None  # shifts as an earlier refinement would report them: true shifts plus errors
    if settings.origins_within_A is not None:
        refined_A = shifts_px * settings.pixel_A + torch.from_numpy(draw.normal(0, settings.origins_within_A, (n, 2)))
    if realism.defocus_error_A:
        optics = misreport_defocus(optics, realism.defocus_error_A, extra)
    names = [f"{i + 1:06d}@particles.mrcs" for i in range(n)]
    write_star(out / "particles.star", ParticleMetadata(names, optics), box, shifts_A=refined_A)
    examples = torch.stack([density(atoms, box, settings.pixel_A) for atoms in conformations.examples])
    write_volumes(out, examples, "truth_class", settings.pixel_A)
    truth = Truth(
        rotations=rotations,
        shifts_A=shifts_px * settings.pixel_A,
        classes=conformations.classes,
        coordinate=conformations.coordinate,
        junk=junk,
        clean=clean,
        snr=settings.snr,
        noise_std=noise_std,
    )
    truth.write(out / "truth.npz")
    return truth
