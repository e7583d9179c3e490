"""Training and inference with fake tensors on a pretended GPU: they have devices and shapes, and no values.

A tensor left on the CPU is an error, as on a real GPU. An operation for which the CPU would wait for the GPU is an error too:
reading a value, or a copy between the GPU and the CPU.
"""

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from test_model import TINY
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend
from toys import hinged, make_toy
from tqdm import tqdm

from hetacumn.ab_initio import subspace_fit
from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.ab_initio.routes import AbInitioRun
from hetacumn.ab_initio.start import Start, Steps
from hetacumn.ab_initio.subspace_fit import SubspaceFit, fit_subspace
from hetacumn.common.settings import read_settings, with_settings
from hetacumn.network.trainer import Trainer
from hetacumn.physics.alignment import Placement
from hetacumn.physics.fourier import _centring, _narrowing
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.prediction.classes import Classes, class_centres
from hetacumn.prediction.inference import Refit, follow_hypotheses, refit_volumes, search_misfits, search_poses, weigh_classes
from hetacumn.search import clusters as clusters_module
from hetacumn.search.clusters import Clusters
from hetacumn.search.competing_poses import Candidates, search_competing
from hetacumn.search.grid import pose_grid, search_grid, shift_grid
from hetacumn.search.refinement import Tangent, climb
from hetacumn.search.state import State
from hetacumn.search.subspace import volumes_at

if torch.cuda.is_available():
    pytest.skip("a CUDA device is present", allow_module_level=True)  # PyTorch accepts no second kind of device


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("pretended", _Backend())
DEVICE = torch.device("pretended", 0)


class NoWaiting(TorchDispatchMode):
    """Fail on copies between the device and the CPU, and on operations that inspect their own result (Cholesky, SVD).

    Reading a value is an error already, because fake tensors have no values.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        assert function.overloadpacket not in (torch.ops.aten.linalg_cholesky, torch.ops.aten.linalg_svd), function
        if function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            sources = [one for one in args if isinstance(one, torch.Tensor)]
            assert len({one.device for one in (*sources, found)}) == 1, f"{sources[-1].device} copied to {found.device}"
        return found


class FixedValues(TorchDispatchMode):
    """Return 2 (True for a boolean, 1 for an integer) for every value read, and treat every element of a mask as set.

    The test can thus follow the code beyond an operation that waits for the device.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket == torch.ops.aten._local_scalar_dense:
            return {torch.bool: True, torch.int64: 1}.get(args[0].dtype, 2.0)
        if function.overloadpacket == torch.ops.aten.nonzero:
            return torch.arange(args[0].numel(), device=args[0].device)[:, None]
        if function.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put_):
            rows = [
                torch.arange(len(one), device=one.device) if one is not None and one.dtype == torch.bool else one
                for one in args[1]
            ]
            args = (args[0], rows, *args[2:])
        return function(*args, **(kwargs or {}))


@pytest.fixture
def mode(monkeypatch):
    def count(plane: HalfPlane, radius: float) -> int:  # the table is on the CPU, whatever the device of the plane
        return int(np.searchsorted(np.asarray(plane._squares), radius**2, side="right"))

    monkeypatch.setattr(HalfPlane, "count", count)
    yield FakeTensorMode(allow_non_fake_inputs=True)
    for cached in (_narrowing, _centring):
        cached.cache_clear()


def pretend(mode: FakeTensorMode, thing):
    """Return a tensor, half-plane, module or dataclass with its tensors on the pretended device."""
    if isinstance(thing, torch.Tensor):
        with mode:
            return mode.from_tensor(thing).to(DEVICE)
    if isinstance(thing, HalfPlane):
        plane = thing.applied(lambda tensor: pretend(mode, tensor))
        plane._squares = thing._squares.numpy()
        return plane
    if isinstance(thing, torch.nn.Module):
        return thing._apply(lambda tensor: pretend(mode, tensor.detach()))  # as `Module.to` does
    if is_dataclass(thing):
        return replace(thing, **{field.name: pretend(mode, getattr(thing, field.name)) for field in fields(thing)})
    return thing


@pytest.fixture
def toy(blobs):
    return make_toy([hinged(blobs, 0), hinged(blobs, 80)], 40, 16, snr=0.5, device="cpu")


@pytest.fixture(
    params=[
        {},
        {"feedback": False},
        {"network": {"symmetrised": True}},
        {"network": {"templates": 0}},
        {"network": {"decoder": "coordinate"}},
    ],
    ids=str,
)
def trainer(request, toy, tmp_path, mode) -> Trainer:
    torch.manual_seed(0)
    linear = "decoder" not in request.param.get("network", {})
    start = Start(toy.basis(2), toy.poses, toy.latents(2), "given", {}) if linear else None
    trainer = Trainer(toy.data, with_settings(TINY, request.param), tmp_path, start)
    trainer.data, trainer.draws = pretend(mode, trainer.data), pretend(mode, trainer.draws)
    trainer.model = pretend(mode, trainer.model)
    parts = (trainer.model.encoder, trainer.model.decoder)
    trainer.optimiser = torch.optim.AdamW([{"params": list(part.parameters())} for part in parts])
    with mode, torch.no_grad():
        trainer.still = trainer.model.decoder.drawing(trainer.drawn)
        trainer.model.tangent()  # makes tables that are copied to the device once
    return trainer


def test_no_step_of_training_waits_for_the_device(trainer, mode):
    with mode, NoWaiting():
        for _ in range(trainer.total):
            losses, stop = trainer._advance()
    record = losses.present()
    assert {"misfit", "kl", "pose", "conformation", "gradient"} == set(record)
    assert {value.device for value in (*record.values(), stop)} == {DEVICE}
    assert all(p.grad is not None and p.grad.device == DEVICE for p in trainer.model.parameters())


def test_no_part_of_a_forward_pass_waits_for_the_device(trainer, mode):
    model, data = trainer.model.eval(), trainer.data
    with mode, torch.no_grad():
        tables = model.feedback_tables(data.plane) if model.feedback else None
        with NoWaiting():
            mean, found = model.encode(data)
            if tables:
                looked = tables.second_look(data, found)
                for state, value in (model._correct(data, found, mean, tables.tangent), looked):
                    assert state.device == value.device == DEVICE
    assert mean.device == found.rotations.device == DEVICE


def test_searches_stay_on_the_device_and_a_climb_does_not_wait_for_it(toy, mode):
    data, volumes, basis = (pretend(mode, thing) for thing in (toy.data, toy.volumes, toy.basis(2)))
    grid, shifts = pretend(mode, pose_grid(1, 4)), pretend(mode, shift_grid(1.0, 3))
    with mode, torch.no_grad():
        tangent = Tangent(basis)
        found = search_grid(data, volumes, grid, shifts)
        candidates = Candidates(volumes, torch.zeros(len(volumes), 2, device=DEVICE), grid, shifts)
        located, _ = search_competing(data, tangent, candidates, 0.3)
        state = State(found.poses, torch.zeros(len(data), len(basis) - 1, device=DEVICE))
        with NoWaiting():
            state, value = climb(data, tangent, state, (0.2, 0.3))
    assert state.device == value.device == found.volume.device == located.device == DEVICE


@pytest.fixture(params=[(), (0.3,)])
def make_run(toy, mode, monkeypatch, request):
    """Return a function that makes an ab initio run on the pretended device.

    Stand-ins replace the clustering by scikit-learn and the alignment of volumes, which need values.
    """

    def clusters(run, start):
        labels = torch.arange(len(start.latents), device=start.latents.device) % 2
        centres = torch.stack([start.latents[labels == k].mean(0) for k in range(2)])
        counts = labels.new_full((2,), len(labels) // 2)
        return Clusters(labels, centres, volumes_at(centres, start.basis), counts)

    def identity(volume, *given):
        return Placement.identity(volume.device)

    monkeypatch.setattr(AbInitioRun, "_clusters", clusters)
    for module, name in (
        (clusters_module, "place_volume"),
        (clusters_module, "place_core"),
        (clusters_module, "place_either_hand"),
        (clusters_module, "settle_hand"),
    ):
        monkeypatch.setattr(module, name, identity)
    config = read_settings(AbInitioConfig, {
        "consensus": {"restarts": 1, "steps": 3, "grids": [[1, 4], [1, 4]]}, "classes": {"steps": 2, "grids": [[1, 4]]},
        "soft": {"steps": 2, "grids": [[1, 4]]}, "grid": {"rotations": [1, 4]}, "subspace_steps": 2, "volumes": 2,
        "components": 2, "bright": {"early_radii": request.param, "last_radii": request.param},
    })  # fmt: skip
    data = pretend(mode, toy.data)
    return lambda: AbInitioRun(data, config, torch.Generator(), tqdm(disable=True), Steps(lambda text: None))


def test_the_ab_initio_start_stays_on_the_device(make_run, mode):
    with mode, FixedValues():
        start = make_run().run()
    assert {start.basis.device, start.latents.device, start.poses.rotations.device, start.poses.shifts_px.device} == {DEVICE}


def test_no_step_of_the_subspace_fit_waits_for_the_device(toy, mode, monkeypatch):
    monkeypatch.setattr(subspace_fit, "voxel_unit", lambda *given: 1.0)
    monkeypatch.setattr(
        subspace_fit.torch, "randint", lambda high, size, generator: torch.arange(size[0], device=DEVICE) % high
    )
    data, basis, poses = (pretend(mode, thing) for thing in (toy.data, toy.basis(2), toy.poses))
    once, twice = (SubspaceFit.of(AbInitioConfig(), steps) for steps in (1, 2))
    with mode:
        fit_subspace(data, basis, poses, once, torch.Generator(), tqdm(disable=True))
        with NoWaiting():
            fit_subspace(data, basis, poses, twice, torch.Generator(), tqdm(disable=True))


def test_refinement_and_search_stay_on_the_device(trainer, mode, toy, monkeypatch):
    def classify(latents, *given):
        return Classes(torch.ones(len(latents), 2), torch.zeros(2, latents.shape[1]))

    monkeypatch.setattr("hetacumn.prediction.classes.classify", classify)
    config = read_settings(AbInitioConfig, {"grid": {"rotations": [1, 4]}, "soft": {"grids": [[1, 4]], "steps": 2},
                                            "refine": {"last": [0.3], "climb": [0.3]}})  # fmt: skip
    basis = pretend(mode, toy.basis(2))
    with mode, FixedValues():
        peaks = follow_hypotheses(trainer.model, trainer.data, basis, config)
        centres = class_centres(peaks.state.latents, 2)
        found = search_misfits(trainer.data, peaks, trainer.model.misfit_limit, basis, centres, config)
        other, _ = refit_volumes(trainer.data, basis, found, config, Refit(2, 2, 0))
        searched = search_poses(trainer.data, basis, centres, config)
        scores = weigh_classes(trainer.data, basis[:2], config)
    assert {other.device, found.device, searched.device, scores.device} == {DEVICE}


@pytest.mark.parametrize(
    "wait",
    [lambda x: float(x.sum()), lambda x: x[x > 0], lambda x: x.cpu(), lambda x: x + torch.ones(3), lambda x: x.nonzero()],
)
def test_every_operation_that_waits_is_detected(mode, wait):
    x = pretend(mode, torch.ones(3))
    with mode, NoWaiting(), pytest.raises((RuntimeError, AssertionError)):
        wait(x)
