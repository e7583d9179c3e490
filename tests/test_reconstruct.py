"""Full-box reconstruction from predictions: the maps carry the detail that the training box cannot, and refuse wrong input."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

from hetacumn.cli.main import main
from hetacumn.common.errors import HetacumnError
from hetacumn.io.mrc import read_mrc, read_volumes, write_mrc, write_volumes
from hetacumn.io.stacks import open_stack
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.particles.source_images import SourceImages
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.fsc import fsc, resolution_A
from hetacumn.physics.rotations import distance_deg, perturb
from hetacumn.physics.volumes import radius_grid
from hetacumn.reconstruction import reconstruct as module
from hetacumn.reconstruction.class_maps import ClassReconstruction
from hetacumn.reconstruction.kernel_maps import KernelRegression, nearest_particles
from hetacumn.reconstruction.maps import Reconstruction
from hetacumn.reconstruction.masks import make_mask
from hetacumn.reconstruction.motion_maps import LatentPath, PathMaps, reconstruct_path
from hetacumn.reconstruction.reconstruct import Execution, ReconstructionSettings, choose_groups, reconstruct_groups
from hetacumn.simulation.projection import density
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.structures import load_motion

DATA = Path(__file__).resolve().parents[1] / "data"
BOX, PIXEL_A, COUNT = 64, 1.6, 1200
QUIET = Execution(progress=False)
pytestmark = pytest.mark.skipif(not (DATA / "adk.npz").exists(), reason="data/ is absent: run `dvc pull`")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return a stack of two states prepared at 32 px, predictions with poses that are off by 1.5°, and the truth."""
    folder = tmp_path_factory.mktemp("simulated")
    settings = {
        "structure": "adk",
        "states": ["open", "closed"],
        "particles": COUNT,
        "box": BOX,
        "pixel_A": PIXEL_A,
        "snr": 0.5,
    }
    truth = simulate_stack(Simulation.from_params(settings), folder, 0, DATA, progress=False)
    stack = prepare_stack(folder / "particles.star", folder / "prepared", Preprocessing(box=32), progress=False)
    generator = torch.Generator().manual_seed(1)
    rotations = perturb(truth.rotations, 1.5, generator)
    predictions = Predictions(stack.metadata.names, rotations, truth.shifts_A, truth.classes, torch.zeros(COUNT, 1))
    return stack, predictions, truth, read_volumes(folder, "truth_class")[0]


def masked_fsc(volume, true):
    mask = make_mask(true, PIXEL_A)
    return fsc(volume * mask, true * mask)


def with_truth(volume, true):
    return resolution_A(masked_fsc(volume, true), PIXEL_A)


@pytest.fixture(scope="module")
def refined(simulated, tmp_path_factory):
    stack, predictions, _, _ = simulated
    out = tmp_path_factory.mktemp("refined")
    return reconstruct_groups(stack, predictions, choose_groups(predictions), out, ReconstructionSettings(), QUIET)


def test_maps_exceed_the_training_box_and_agree_with_their_half_maps(simulated, refined):
    _, _, truth, volumes = simulated
    assert [one.group for one in refined.results] == ["class_1", "class_2"]
    for k, one in enumerate(refined.results):
        found_A = with_truth(refined.maps[one.group], volumes[k])
        assert one.particles == int((truth.classes == k).sum())
        assert found_A < 5.5 < 6.4  # 6.4 Å: Nyquist of the training box
        shells = [BOX * PIXEL_A / limit_A for limit_A in (found_A, one.resolution_A)]
        assert abs(shells[0] - shells[1]) < 2.5


def test_refinement_lowers_the_pose_errors_and_the_resolution_in_angstrom(simulated, refined, tmp_path):
    stack, predictions, truth, volumes = simulated
    settings = ReconstructionSettings(refine=False)
    fast = reconstruct_groups(stack, predictions, choose_groups(predictions), tmp_path, settings, QUIET)
    before, after = (distance_deg(one.predictions.rotations, truth.rotations).median() for one in (fast, refined))
    assert after < 0.7 * before
    assert fast.results[0].rotation_change_deg == 0 and refined.results[0].rotation_change_deg > 0.5
    assert with_truth(refined.maps["class_1"], volumes[0]) <= with_truth(fast.maps["class_1"], volumes[0])


def test_half_sets_are_written_and_read_and_the_maps_use_only_their_own_half(simulated, refined):
    stack, predictions, _, _ = simulated
    again = Reconstruction.open(refined.folder)
    assert sorted(again.predictions.half_sets.unique().tolist()) == [1, 2]
    images = SourceImages(stack)
    poses = images.poses(again.predictions.rotations, again.predictions.shifts_A)
    halves = again.predictions.half_sets.numpy()
    rows = [np.flatnonzero((halves == half) & (predictions.classes.numpy() == 0)) for half in (1, 2)]
    first = ClassReconstruction(images, (rows[0], rows[1])).back_project(poses).halves[0]
    written = again.half_maps("class_1")[0]
    assert float((first - written).abs().max()) < 1e-3 * float(written.abs().max())


def test_maps_and_half_maps_have_the_imposed_symmetry(simulated, tmp_path):
    stack, predictions, _, _ = simulated
    groups, settings = {"selection": np.arange(150)}, ReconstructionSettings(refine=False, symmetry="C4")
    found = reconstruct_groups(stack, predictions, groups, tmp_path / "C4", settings, QUIET)
    plain = reconstruct_groups(stack, predictions, groups, tmp_path / "C1", replace(settings, symmetry="C1"), QUIET)
    inside, alike = radius_grid(BOX) < BOX // 2 - 2, []
    for volume in (*found.half_maps("selection"), plain.half_maps("selection")[0]):
        turned = volume.rot90(dims=(1, 2)).roll(1, 1)  # about the voxel BOX // 2
        alike.append(float(torch.corrcoef(torch.stack([volume[inside], turned[inside]]))[0, 1]))
    assert min(alike[:2]) > 0.999 > 0.9 > alike[2]
    with pytest.raises(HetacumnError, match="symmetry is 'C'; expected Cn, Dn, T, O, I or I1 to I4"):
        replace(settings, symmetry="C")


def test_known_half_sets_are_kept_and_unknown_ones_are_split():
    half_sets = 1 + (np.arange(40) % 3 == 0).astype(int)
    first, second = module.split_halves(np.arange(30), half_sets, 0)
    assert second.tolist() == list(range(0, 30, 3)) and len(first) == 20
    half_sets[:10] = 0
    first, second = module.split_halves(np.arange(30), half_sets, 0)
    assert set(range(12, 30, 3)) <= set(second.tolist()) and sum(row < 10 for row in first) == 5
    assert [len(half) for half in module.split_halves(np.arange(30), np.ones(30, dtype=int), 0)] == [15, 15]


def test_half_sets_of_refined_poses_are_kept(simulated, refined, tmp_path):
    stack = simulated[0]
    settings = ReconstructionSettings(refine=False, seed=5)
    again = reconstruct_groups(stack, refined.predictions, choose_groups(refined.predictions), tmp_path, settings, QUIET)
    assert again.predictions.half_sets.equal(refined.predictions.half_sets)


def test_another_input_replaces_the_maps_of_a_finished_reconstruction(simulated, tmp_path):
    """Equal lengths, equal sums and equal names of files must not count as equal input."""
    stack, predictions, _, _ = simulated
    settings, rows = ReconstructionSettings(refine=False), np.r_[0:50, 150:200]
    write_mrc(tmp_path / "mask.mrc", torch.ones(BOX, BOX, BOX), PIXEL_A)
    masked = replace(settings, mask=str(tmp_path / "mask.mrc"))

    def run(predictions, rows, settings):
        groups = {"selection": rows}
        return reconstruct_groups(stack, predictions, groups, tmp_path / "out", settings, QUIET).maps["selection"]

    first = run(predictions, np.arange(50, 150), settings)
    other_rows = run(predictions, rows, settings)
    other_poses = run(replace(predictions, rotations=predictions.rotations.flip(0)), rows, settings)
    one_mask = run(predictions, rows, masked)
    write_mrc(tmp_path / "mask.mrc", (radius_grid(BOX) < 16).float(), PIXEL_A)
    other_mask = run(predictions, rows, masked)
    flat, _ = read_mrc(tmp_path / "out/volumes/selection_masked.mrc")
    assert torch.equal(flat, other_mask * (radius_grid(BOX) < 16))
    maps = [first, other_rows, other_poses, one_mask, other_mask]
    assert not any(a.equal(b) for i, a in enumerate(maps) for b in maps[:i])


def test_a_finished_folder_with_a_missing_map_is_made_again(simulated, tmp_path):
    stack, predictions, _, _ = simulated
    groups, settings = {"selection": np.arange(150)}, ReconstructionSettings(refine=False)
    first = reconstruct_groups(stack, predictions, groups, tmp_path, settings, QUIET)
    (tmp_path / "volumes/selection.mrc").unlink()
    again = reconstruct_groups(stack, predictions, groups, tmp_path, settings, QUIET)
    assert again.maps["selection"].equal(first.maps["selection"])


def test_other_particles_and_other_folders_are_refused(simulated, tmp_path):
    stack, predictions, _, _ = simulated
    shuffled = predictions[np.arange(COUNT)[::-1].copy()]
    refuse("holds other particles than the predictions", stack, shuffled, tmp_path / "out", ReconstructionSettings())
    predictions.write(tmp_path / "answer", stack.source)
    refuse("holds other results .predictions.star.", stack, predictions, tmp_path / "answer", ReconstructionSettings())
    refuse("no particles", stack, predictions, tmp_path / "out", ReconstructionSettings(), {"selection": np.arange(0)})
    refuse(
        "box is 4; expected an even number of at least 8", stack, predictions, tmp_path / "out", ReconstructionSettings(box=4)
    )


def test_maps_of_pure_noise_have_no_resolution(simulated, tmp_path):
    """With random poses, the half maps of independent images must not agree above the training box."""
    stack, predictions, _, _ = simulated
    wrong = replace(predictions, rotations=predictions.rotations.flip(0))
    groups = {"selection": np.arange(COUNT)}
    found = reconstruct_groups(stack, wrong, groups, tmp_path, ReconstructionSettings(), QUIET)
    assert found.results[0].resolution_A > 7


def test_an_interrupted_reconstruction_continues_and_a_finished_one_is_not_repeated(simulated, refined, tmp_path, monkeypatch):
    stack, predictions, _, _ = simulated
    work, groups, settings = module._reconstruct_group, choose_groups(predictions), ReconstructionSettings()
    done = []

    def interrupt(folder, group, *rest):
        if group == "class_2" and done == ["class_1"]:
            done.append("interrupted")
            raise KeyboardInterrupt
        done.append(group)
        return work(folder, group, *rest)

    monkeypatch.setattr(module, "_reconstruct_group", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reconstruct_groups(stack, predictions, groups, tmp_path, settings, QUIET)
    assert not (tmp_path / "maps.csv").exists()
    for _ in range(2):
        again = reconstruct_groups(stack, predictions, groups, tmp_path, settings, QUIET)
    assert done == ["class_1", "interrupted", "class_2"]
    assert again.results == refined.results and not (tmp_path / "under_way").exists()
    assert again.maps["class_1"].equal(refined.maps["class_1"])


def test_memory_order_and_chunks_do_not_matter(simulated, monkeypatch, tmp_path):
    stack, predictions, _, _ = simulated
    groups, settings = {"selection": np.arange(200)}, ReconstructionSettings(refine=False)
    whole = reconstruct_groups(stack, predictions, groups, tmp_path / "a", settings, QUIET)
    monkeypatch.setattr("hetacumn.io.stacks.CHUNK_BYTES", 7 * 4 * BOX * BOX)
    parts = reconstruct_groups(stack, predictions, groups, tmp_path / "b", settings, QUIET)
    torch.testing.assert_close(whole.maps["selection"], parts.maps["selection"], rtol=1e-3, atol=1e-3)


def refuse(message, stack, predictions, out, settings, groups=None):
    with pytest.raises(HetacumnError, match=message):
        reconstruct_groups(stack, predictions, groups or choose_groups(predictions), out, settings, QUIET)
    assert not list(out.rglob("*.mrc"))


def test_wrong_boxes_and_masks_are_refused(simulated, tmp_path):
    stack, predictions, _, _ = simulated
    for box, message in ((BOX + 2, "expected an even number up to 64"), (33, "expected an even number")):
        refuse(message, stack, predictions, tmp_path / "out", ReconstructionSettings(box=box))
    mask = tmp_path / "mask.mrc"
    for volume, voxel_A, message in ((torch.ones(32, 32, 32), PIXEL_A, "field of view of 51.2 Å; expected 102.4 Å"),
                                     (torch.ones(64, 64, 64), 2.0, "64 voxels of 2 Å, .* of 128 Å; expected 102.4 Å"),
                                     ((radius_grid(64) < 2).float(), PIXEL_A, "27 voxels above 0.5 .*; expected at least 0.1%"),
                                     (torch.full((64, 64, 64), 7.0), PIXEL_A, "values from 7 .* from 0 to 1")):  # fmt: skip
        write_mrc(mask, volume, voxel_A)
        refuse(message, stack, predictions, tmp_path / "out", ReconstructionSettings(mask=str(mask)))


def test_changed_and_missing_images_are_refused(simulated, tmp_path):
    stack, predictions, _, _ = simulated
    folder = tmp_path / "copy"
    shutil.copytree(stack.source.parent, folder)
    own = prepare_stack(folder / "particles.star", folder / "prepared", Preprocessing(box=32), progress=False)
    path = folder / "particles.mrcs"
    raw = bytearray(path.read_bytes())
    start = len(raw) - open_stack(path).nbytes
    raw[start:] = np.flip(open_stack(path), 0).tobytes()  # the same images in another order
    path.write_bytes(raw)
    refuse("not the image that .* was made from", own, predictions, tmp_path / "out", ReconstructionSettings())
    path.unlink()
    refuse("no stack 'particles.mrcs'", own, predictions, tmp_path / "out", ReconstructionSettings())


def test_a_small_class_gives_a_map_and_a_warning(simulated, tmp_path):
    stack, predictions, _, _ = simulated
    groups = {"selection": np.arange(60)}
    with pytest.warns(UserWarning, match="selection: 60 particles; a map of fewer than 100 is not reliable"):
        found = reconstruct_groups(stack, predictions, groups, tmp_path, ReconstructionSettings(), QUIET)
    assert found.maps["selection"].std() > 0


def test_the_command_reconstructs_a_selection_and_refuses_both_choices(simulated, tmp_path, capfd):
    stack, predictions, _, volumes = simulated
    answer = tmp_path / "answer"
    predictions.write(answer, stack.source)
    write_volumes(answer / "volumes", volumes, "class_", PIXEL_A)
    (answer / "rows.txt").write_text("\n".join(map(str, range(1, 301))))
    common = ["reconstruct", str(answer), "--prepared", str(stack.folder), "--no-refine"]
    assert main([*common, "--class", "1", "--rows", str(answer / "rows.txt")]) == 2
    assert "--class and --rows given; expected at most one of --class, --rows, --motion" in capfd.readouterr().err
    assert main([*common, "--motion", "1"]) == 2
    assert "--mask, --no-refine or --symmetry given with --motion" in capfd.readouterr().err
    assert main([*common, "--class", "9"]) == 2
    assert "class 9 has no particles; expected one of the classes 1 to 2" in capfd.readouterr().err
    assert main([*common, "--rows", str(answer / "rows.txt"), "--box", "48", "--local-resolution"]) == 0
    local_A = read_mrc(answer / "maps_selection/volumes/selection_locres.mrc")[0]
    assert 2 * BOX * PIXEL_A / 48 <= float(local_A.min()) and float(local_A.max()) <= BOX * PIXEL_A
    found = Reconstruction.open(answer / "maps_selection")
    assert found.results[0].particles == 300 and found.maps["selection"].shape[-1] == 48
    assert found.voxel_A == pytest.approx(BOX * PIXEL_A / 48) and (answer / "maps_selection/fsc.png").is_file()


@pytest.fixture(scope="module")
def continuous(tmp_path_factory):
    """Return a stack of a continuous motion, prepared at 32 px, with true poses and latents, and the motion."""
    folder = tmp_path_factory.mktemp("continuous")
    spec = {"structure": "adk", "continuous": True, "particles": 3000, "box": BOX, "pixel_A": PIXEL_A, "snr": 1.0}
    simulation = Simulation.from_params(spec)
    truth = simulate_stack(simulation, folder, 0, DATA, progress=False)
    stack = prepare_stack(folder / "particles.star", folder / "prepared", Preprocessing(box=32), progress=False)
    latents = truth.coordinate.float().view(-1, 1) + 0.02 * torch.randn(3000, 1, generator=torch.Generator().manual_seed(0))
    classes = torch.zeros(3000, dtype=torch.long)
    return stack, Predictions(stack.metadata.names, truth.rotations, truth.shifts_A, classes, latents), simulation


def test_maps_along_a_motion_are_nearer_to_their_own_conformation_than_the_map_of_all(continuous, tmp_path):
    stack, predictions, simulation = continuous
    move = load_motion(simulation.molecule, DATA).move
    true = [density(move(torch.tensor([t])), BOX, PIXEL_A) for t in (0.1, 0.9)]
    basis = torch.stack([true[0], true[1] - true[0]])
    settings = ReconstructionSettings(refine=False)
    path = torch.tensor([[0.1], [0.9]])
    found = reconstruct_path(stack, predictions, LatentPath(path, basis), tmp_path / "path", settings, QUIET)
    everything = reconstruct_groups(stack, predictions, {"selection": np.arange(3000)}, tmp_path / "all", settings, QUIET).maps[
        "selection"
    ]
    for volume, own, other in zip(found.read()[0], true, true[::-1], strict=True):
        right, blurred, wrong = (masked_fsc(*pair)[1:20] for pair in ((volume, own), (everything, own), (volume, other)))
        assert right.mean() > blurred.mean() + 0.05 and right.mean() > wrong.mean() + 0.3
    maps, voxel_A = found.read()
    assert (found.table["particles_low"] >= 200).all() and voxel_A == pytest.approx(PIXEL_A)
    small, small_A = found.read(most=48)
    assert small_A == pytest.approx(PIXEL_A * BOX / 48) and small.allclose(crop_volumes(maps, 48), atol=1e-5)
    again = reconstruct_path(stack, predictions, LatentPath(path, basis), tmp_path / "path", settings, QUIET)
    assert again.read()[0].equal(maps) and (tmp_path / "path/morph.cxc").is_file()
    same, moved = (PathMaps.find(tmp_path / "path", lambda points, by=by: path[:points] + by) for by in (0, 0.01))
    assert same is not None and same.table.equals(found.table)
    assert moved is None and PathMaps.find(tmp_path, lambda points: path) is None


def test_the_number_of_particles_follows_the_conformations(continuous, device):
    """Without heterogeneity, the map of the most particles is best in every shell."""
    stack, predictions, _ = continuous
    rigid = replace(predictions, latents=torch.randn(3000, 1, generator=torch.Generator().manual_seed(1)))
    images = SourceImages(stack)
    poses = images.poses(rigid.rotations, rigid.shifts_A)
    nearest = nearest_particles(rigid.latents, torch.zeros(1), torch.ones(1, 4, 4, 4))
    found = KernelRegression(images, poses, device=torch.device(device)).map_of(nearest)
    assert int(found.particles[1:20].min()) >= 1600 and found.maps.filtered.device.type == device


@pytest.mark.skipif(shutil.which("relion_postprocess") is None, reason="RELION is not installed")
def test_relion_postprocess_reads_the_half_maps_and_finds_the_same_resolution(refined, tmp_path):
    halves = [refined.folder / "volumes" / f"class_1_half{half}_unfil.mrc" for half in (1, 2)]
    mask = refined.folder / "volumes" / "class_1_mask.mrc"
    (tmp_path / "post").mkdir()  # RELION writes the log file of `--o post` there
    command = ["relion_postprocess", "--i", str(halves[0]), "--o", "post", "--angpix", str(PIXEL_A), "--mask", str(mask)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    blocks = starfile.read(tmp_path / "post.star")
    curves = refined.curves[refined.curves["group"] == "class_1"]
    for column, own in (("UnmaskedMaps", "unmasked"), ("MaskedMaps", "masked")):
        theirs = blocks["fsc"][f"rlnFourierShellCorrelation{column}"].to_numpy()[1 : BOX // 2]
        assert np.abs(theirs - curves[own].to_numpy()[1:]).max() < 0.01
    theirs_A = blocks["general"]["rlnFinalResolution"]  # of the last shell above 0.143, without interpolation
    shells = [int(BOX * PIXEL_A / limit_A + 0.01) for limit_A in (theirs_A, refined.results[0].resolution_A)]
    assert abs(shells[0] - shells[1]) <= 1, shells
    assert read_mrc(tmp_path / "post.mrc")[1] == pytest.approx(PIXEL_A, rel=1e-3)
