"""Training and inference with tensors that pretend to be on a GPU: devices and shapes, without numbers.

A tensor left on the CPU is an error there, as it is on the real thing. And what a real one would have to be waited for is an
error too: a number asked for, a copy between it and the CPU.
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

from hetacumn import fourier
from hetacumn.ab_initio import Start
from hetacumn.fourier import HalfPlane
from hetacumn.joint import State, Tangent, climb
from hetacumn.search import pose_grid, search_grid, shift_grid
from hetacumn.training import Trainer


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("pretended", _Backend())
DEVICE = torch.device("pretended", 0)


class Unwaited(TorchDispatchMode):
    """No copies between the device and the CPU. (Numbers asked for are an error already: there are none.)"""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            sources = [one for one in args if isinstance(one, torch.Tensor)]
            assert len({one.device for one in (*sources, found)}) == 1, f"{sources[-1].device} copied to {found.device}"
        return found


@pytest.fixture
def mode(monkeypatch):
    def count(plane: HalfPlane, radius: float) -> int:  # of a table that is on the CPU wherever the plane is
        return int(np.searchsorted(np.asarray(plane._squares), radius**2, side="right"))

    monkeypatch.setattr(HalfPlane, "count", count)
    yield FakeTensorMode()
    for cached in (fourier._narrowing, fourier._centring):
        cached.cache_clear()


def pretend(mode: FakeTensorMode, thing):
    """A thing like it, its tensors on the pretended device."""
    if isinstance(thing, torch.nn.Parameter):
        return torch.nn.Parameter(pretend(mode, thing.detach()))
    if isinstance(thing, torch.Tensor):
        with mode:
            return mode.from_tensor(thing).to(DEVICE)
    if isinstance(thing, HalfPlane):
        plane = HalfPlane.__new__(HalfPlane)
        plane.__dict__ |= {name: pretend(mode, value) for name, value in thing.__dict__.items()}
        plane._squares = thing._squares.numpy()
        return plane
    if isinstance(thing, torch.nn.Module):
        for module in thing.modules():
            if isinstance(getattr(module, "plane", None), HalfPlane):
                module.plane = pretend(mode, module.plane)
            for tensors in (module._parameters, module._buffers):
                tensors.update({name: pretend(mode, value) for name, value in tensors.items() if value is not None})
        return thing
    if is_dataclass(thing):
        return replace(thing, **{field.name: pretend(mode, getattr(thing, field.name)) for field in fields(thing)})
    return thing


@pytest.fixture
def toy(blobs):
    return make_toy([hinged(blobs, 0), hinged(blobs, 80)], 40, 16, snr=0.5, device="cpu")


@pytest.fixture(params=[{}, {"feedback": ()}, {"symmetrised": True}, {"templates": 0}, {"decoder": "coordinate"}], ids=str)
def trainer(request, toy, tmp_path, mode) -> Trainer:
    torch.manual_seed(0)
    linear = "decoder" not in request.param
    start = Start(toy.basis(2), toy.poses, toy.latents(2), "given", {}) if linear else None
    trainer = Trainer(toy.data, replace(TINY, **request.param), tmp_path, start)
    trainer.data, trainer.draws = pretend(mode, trainer.data), pretend(mode, trainer.draws)
    trainer.model = pretend(mode, trainer.model)
    parts = (trainer.model.encoder, trainer.model.decoder)
    trainer.optimiser = torch.optim.AdamW([{"params": list(part.parameters())} for part in parts])
    with mode, torch.no_grad():
        trainer.still = trainer.model.decoder.drawing(trainer.drawn)
        trainer.model.tangent()  # tables that are made and copied once
    return trainer


def test_no_step_of_training_waits_for_the_device(trainer, mode):
    with mode, Unwaited():
        for _ in range(trainer.total):
            record, stop = trainer._advance()
    assert {"misfit", "kl", "pose", "conformation"} == set(record)
    assert {value.device for value in (*record.values(), stop)} == {DEVICE}
    assert all(p.grad is not None and p.grad.device == DEVICE for p in trainer.model.parameters())


def test_no_pass_of_inference_waits_but_to_look_again(trainer, mode):
    model, data = trainer.model.eval(), trainer.data
    with mode, torch.no_grad():
        tangent = model.tangent()
        with Unwaited():
            mean, found = model.encode(data)
            if model.feedback:
                for state, value in (model._correct(data, found, mean, tangent), model._look_again(data, tangent)):
                    assert state.device == value.device == DEVICE
    assert mean.device == found.rotations.device == DEVICE


def test_search_and_climb_do_not_wait(toy, mode):
    data, volumes, basis = (pretend(mode, thing) for thing in (toy.data, toy.volumes, toy.basis(2)))
    rotations, shifts = pretend(mode, pose_grid(1, 4)), pretend(mode, shift_grid(1.0, 3))
    with mode, torch.no_grad():
        tangent = Tangent(basis)
        found = search_grid(data, volumes, rotations, shifts)
        state = State(found.poses, torch.zeros(len(data), len(basis) - 1, device=DEVICE))
        with Unwaited():
            state, value = climb(data, tangent, state, (0.2, 0.3))
    assert state.device == value.device == found.volume.device == DEVICE


@pytest.mark.parametrize("wait", [lambda x: float(x.sum()), lambda x: x[x > 0], lambda x: x.cpu(),
                                  lambda x: x + torch.ones(3), lambda x: x.nonzero()])
def test_what_waits_is_noticed(mode, wait):
    x = pretend(mode, torch.ones(3))
    with mode, Unwaited(), pytest.raises((RuntimeError, AssertionError)):
        wait(x)
