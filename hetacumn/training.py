"""Train HetACUMN on a stack: ab initio start, conditional pose task, both tasks; checkpoints and exact resume."""

from __future__ import annotations

import json
import math
import re
import signal
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio import Start, ab_initio
from hetacumn.ab_initio_config import AbInitioConfig
from hetacumn.decoder import CoordinateDecoder, VoxelDecoder, linear_basis
from hetacumn.encoder import Encoder, TemplateStem
from hetacumn.errors import HetacumnError
from hetacumn.fourier import HalfPlane
from hetacumn.model import HetACUMN, LatentDraws
from hetacumn.observations import Observations, signal_power
from hetacumn.particles import Poses
from hetacumn.preprocess import Preprocessing
from hetacumn.project import atomic_path, keep_freed_memory, peak_memory_mb, provenance, write_json
from hetacumn.settings import merged, read_settings
from hetacumn.so3 import random_rotations
from hetacumn.stochastic_em import smooth_noise, voxel_unit
from hetacumn.team import ALONE, Team
from hetacumn.volumes import soft_sphere


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run.

    The switches name what this project adds to the bare method of the paper: ``warm_start``, ``conformation_sleep``,
    ``hypotheses`` > 1, ``feedback`` and ``second_look``; ``conditional``, ``pose_task`` and ``symmetrised`` make the
    ablations and the amortized baseline.
    """

    classes: int = 2
    latent_dim: int = 4
    seed: int = 0
    # switches
    warm_start: bool = True
    pose_task: bool = True
    conditional: bool = True
    conformation_sleep: bool = True
    hypotheses: int = 8
    feedback: tuple[tuple[int, float], ...] = ((4, 0.15), (2, 0.2), (1, 0.35), (1, 0.45))  # see joint.compete; () for none
    second_look: float = 0.05  # about the share of the images, at prediction; 0 for none
    second_rounds: tuple[tuple[int, float], ...] = ((16, 0.15), (16, 0.15), (4, 0.2), (2, 0.25))  # of that look
    faint_feedback: tuple[tuple[int, float], ...] = ((8, 0.2), (8, 0.25), (4, 0.35), (2, 0.45), (1, 0.45))  # see suited
    faint_second_look: float = 0.5
    faint_second_rounds: tuple[tuple[int, float], ...] = ((16, 0.25), (16, 0.3), (8, 0.35), (4, 0.4))
    symmetrised: bool = False
    decoder: str = "voxel"  # or "coordinate"
    # sizes
    templates: int = 768  # matched filters of the encoder's first layer; 0 for convolutions
    encoder_radius: float = 0.375  # the band that the templates see, cycles per pixel; see encoder.REACH
    width: int = 384
    padding: float = 2.0
    # schedule
    alone_steps: int = 4500  # of the pose task alone, first
    joint_epochs: float = 3.0  # of both tasks, over the training particles
    pose_only_epochs: float = 0.0  # at the start of the joint phase, z held at 0
    alone_batch: int = 256
    batch: int = 128
    rate: float = 2e-3
    joint_rate: float = 2e-4
    decoder_rate: float = 1e-4  # the ab initio volumes are near the truth, the first amortized poses are not
    weight_decay: float = 1e-2
    # losses
    pose_weight: float = 1.0
    conformation_weight: float = 1.0
    kl_weight: float = 1.0
    radius: tuple[float, float] = (0.25, 0.45)  # of the reconstruction, cycles per pixel, over the joint phase
    reconstruction_weight: float = 0.01
    # run
    checkpoint_seconds: float = 60.0
    ab_initio: AbInitioConfig = field(default_factory=AbInitioConfig)

    def __post_init__(self):
        rounds = ("feedback", "second_rounds", "faint_feedback", "faint_second_rounds")
        looks = ("second_look", "faint_second_look")
        for name in rounds:
            if not all(count >= 1 and 0 < radius <= 0.5 for count, radius in getattr(self, name)):
                raise HetacumnError(f"{name} is {getattr(self, name)!r}; expected pairs of a number from 1 on, how many take "
                                    "part, and a radius over 0 and up to 0.5 cycles per pixel")
        for name, of in zip(looks, ("second_rounds", "faint_second_rounds"), strict=True):
            if not 0 <= getattr(self, name) <= 1:
                raise HetacumnError(f"{name} is {getattr(self, name)!r}; expected a share from 0 to 1")
            if getattr(self, name) and not getattr(self, of):
                raise HetacumnError(f"{of} is empty; expected rounds, or 0 for {name}")

    def suited(self, data: Observations) -> TrainConfig:
        """The settings for images as faint as these: where the molecule says less of the pose, searches are thorough; more
        hypotheses compete, and more images are looked at again, if feedback is wanted at all."""
        if self.ab_initio.faintness(data) == 1:
            return self
        config = replace(self, ab_initio=self.ab_initio.thorough())
        if not self.feedback:
            return config
        second_look = self.second_look and self.faint_second_look
        return replace(config, feedback=self.faint_feedback, second_look=second_look, second_rounds=self.faint_second_rounds)

    @classmethod
    def from_params(cls, settings: dict, **more) -> TrainConfig:
        """From nested dicts, as params.yaml or config.json hold them, with ``more`` laid over."""
        return read_settings(cls, {**settings, **more})


def pick_device(name: str | None = None) -> torch.device:
    """The device named, or CUDA where there is one, or the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def build_model(config: TrainConfig, box: int, basis: Tensor | None = None, power: Tensor | None = None,
                scale: float = 1.0) -> HetACUMN:
    """The model of a config; ``basis`` ``(1 + q, box, box, box)`` starts a voxel decoder, ``power`` ``(m,)`` is that of
    the particles, ``scale`` what a coordinate decoder expects of a coefficient."""
    encoder = Encoder(
        HalfPlane(box), config.latent_dim, config.width, config.hypotheses, config.conditional, config.templates,
        config.encoder_radius, power,
    )
    if config.decoder == "voxel":
        basis = torch.zeros(1 + config.latent_dim, box, box, box) if basis is None else basis
        decoder = VoxelDecoder(basis, config.padding)
    elif config.decoder == "coordinate":
        decoder = CoordinateDecoder(box, config.latent_dim, scale=scale)
    else:
        raise HetacumnError(f"decoder is '{config.decoder}'; expected voxel or coordinate")
    return HetACUMN(encoder, decoder, config.symmetrised, config.feedback, config.second_look, config.second_rounds)


# The run ---------------------------------------------------------------------------------------------------


START, MODEL, CHECKPOINT = "start.safetensors", "model.safetensors", "checkpoint.pt"
LOOK_EVERY = 25  # steps between two lines of the history
DOUBT_SAMPLE = 4000  # particles that say what a bad fit is


def method_config(params: dict, method: str, **more) -> TrainConfig:
    """The settings of a method in params.yaml: ``train``, with what the method has of its own, and ``more``."""
    known = params.get("methods") or {}
    if method not in known:
        raise HetacumnError(f"unknown method '{method}'; expected one of {', '.join(known)}")
    settings = merged({"train": params.get("train"), f"methods.{method}": known[method]})
    for name, instead in (("volumes", "classes"), ("components", "latent_dim")):
        if name in (settings.get("ab_initio") or {}):
            raise HetacumnError(f"ab_initio.{name} is set; expected {instead}, which it is taken from")
    return TrainConfig.from_params(settings, **more)


def wanted_classes(params: dict, dataset: str = "", asked: int | None = None) -> int:
    """How many classes to look for: as asked, or what ``classes`` in params.yaml says (a number, or one a dataset), or 4."""
    known = params.get("classes")
    found = known.get(dataset) if isinstance(known, dict) else known
    wanted = asked if asked is not None else 4 if found is None else found
    if not isinstance(wanted, int) or wanted < 1:
        raise HetacumnError(f"classes is {wanted!r}; expected a number from 1 on")
    return wanted


def training_share(count: int, share: float) -> np.ndarray:
    """A random ``share`` of ``count`` particles, as sorted positions from 0; the same whatever seed one trains with, so that
    a start serves all of them."""
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise HetacumnError(f"trained_share is {share!r}; expected a number over 0 and up to 1")
    chosen = np.random.default_rng(0).permutation(count)[: max(1, round(share * count))]
    return np.sort(chosen)


def run_method(
    method: str, data: Observations, config: TrainConfig, out: Path | str, pixel_A: float,
    start: Path | str | None = None, team: Team = ALONE, preprocessing: Preprocessing | None = None,
) -> None:
    """Train ``method`` on a packed stack: ``em`` is the ab initio start alone, all others are :func:`train`.

    Leaves in ``out``: ``start.safetensors`` or ``model.safetensors`` with ``history.csv``; ``config.json``, of which settings,
    of which stack and how prepared (if it is told) they are; and ``run.json``. Called again after an interruption it goes on
    where it was; after its end it does nothing. Of a ``team`` each process calls it with the whole stack; the leader alone
    makes the start.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if config.classes > len(data):
        raise HetacumnError(f"{config.classes} classes of {len(data)} particles; expected no more classes than particles")
    if len(data) < 2:
        raise HetacumnError("1 particle to train on; expected 2 at least")
    config, begin, seconds = config.suited(data), None, 0.0
    facts = {"method": method, "config": asdict(config), "box": data.plane.box, "pixel_A": pixel_A,
             "stack": stack_identity(data), "preprocessing": preprocessing and asdict(preprocessing)}  # fmt: skip
    finished = method != "em" and _is_finished(out, facts)
    team.wait()  # before the leader writes what the others look at
    if finished:
        tqdm.write(f"{out / MODEL}: trained already with these settings; delete it to train anew")
        return
    if config.warm_start or method == "em":
        for turn in (team.leads, not team.leads):  # the others find what the leader made
            if turn:
                begin, seconds = _find_or_make_start(data, config, out, start)
            team.wait()
    if method != "em":
        seconds += train(data, config, out, pixel_A, begin, team=team, facts=facts)
    elif team.leads:
        _write_facts(out, facts)
    if team.leads:
        facts = {"train_seconds": round(seconds, 1), "peak_memory_mb": round(peak_memory_mb())}
        write_json(out / "run.json", {**read_run(out), **facts, "device": device_name(data.y.device, team)})


def _is_finished(out: Path, facts: dict) -> bool:
    """Whether a folder holds what training with these settings, on this stack, left at its end."""
    left = (MODEL, "config.json", "history.csv", "run.json")
    if (out / CHECKPOINT).exists() or not all((out / name).exists() for name in left):
        return False
    before, wanted = read_config(out), json.loads(json.dumps(facts))
    same_stack = _same_stack(before.get("stack", ""), wanted.pop("stack"))
    return same_stack and {**before, **wanted} == before


def _write_facts(out: Path, facts: dict) -> None:
    """``config.json``, once there is what it speaks of: until then that of an earlier model there stays beside it."""
    write_json(out / "config.json", {**facts, **provenance()})


def _find_or_make_start(
    data: Observations, config: TrainConfig, out: Path, start: Path | str | None
) -> tuple[Start, float]:
    """The start of the folder named, or of ``out`` if a run before this made it with these settings, or a new one; and its
    seconds."""
    path = (Path(start) if start else out) / START
    wanted = start_settings(config)
    if start or path.exists():
        begin, settings = load_start(path, data).to(data.y.device), _read_tensors(path)[1]["settings"]
        if not start and settings != wanted:
            names = ", ".join(name for name in wanted if wanted[name] != settings.get(name))
            raise HetacumnError(f"{path}: made with other {names}; delete it to begin anew, or choose another folder")
        found = len(begin.basis) - 1
        if found != config.latent_dim:
            raise HetacumnError(f"{path}: a subspace of {found} components; expected {config.latent_dim}, latent_dim")
        return begin, read_run(path.parent).get("start_seconds", 0.0)
    began = time.perf_counter()
    begin = ab_initio(data, ab_initio_config(config), config.seed)
    seconds = time.perf_counter() - began
    save_start(path, begin, stack_identity(data), wanted)
    write_json(out / "run.json", {**read_run(out), "start_seconds": round(seconds, 1)})
    return begin, seconds


def stack_identity(data: Observations) -> str:
    """What tells one stack from another: how many particles; the mean power of all, of the first and of the last image, and of
    the CTFs."""
    images = (data.y, data.y[0], data.y[-1], data.ctf)
    power, first, last, ctf = (float(of.abs().square().double().mean()) for of in images)
    return f"{len(data)} particles of power {power:.6f} ({first:.6f} to {last:.6f}), of CTFs {ctf:.6f}"


def _same_stack(one: str, other: str) -> bool:
    """Whether two of :func:`stack_identity` are of one stack: in numbers, to what two devices agree in."""
    found, wanted = ([float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)] for text in (one, other))
    return len(found) == len(wanted) == 5 and found[0] == wanted[0] and np.allclose(found, wanted, rtol=1e-5, atol=0)


def train(data: Observations, config: TrainConfig, out: Path, pixel_A: float, start: Start | None = None,
          progress: bool = True, team: Team = ALONE, facts: dict | None = None) -> float:
    """Train the network and write ``model.safetensors`` and ``history.csv``, and ``facts`` if there are any as ``config.json``;
    the seconds it took.

    An interrupted run, called again with the same config and data, goes on from ``out/checkpoint.pt`` and ends, on a
    CPU, with the same bits as one that was not interrupted.
    """
    torch.manual_seed(config.seed)
    trainer = Trainer(data, config, out, start, team)
    trainer.run(progress)
    if not team.leads:
        return trainer.seconds
    trainer.model.eval().set_doubt(data[:DOUBT_SAMPLE])
    save_model(out / MODEL, trainer.model, config, data.plane.box, pixel_A)
    with atomic_path(out / "history.csv") as temporary:
        pd.DataFrame(trainer.history).to_csv(temporary, index=False, float_format="%.6g")
    if facts is not None:
        _write_facts(out, facts)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return trainer.seconds


def ab_initio_config(config: TrainConfig) -> AbInitioConfig:
    """The start's settings, its classes and components those of the run."""
    return replace(config.ab_initio, volumes=config.classes, components=config.latent_dim)


def device_name(device: torch.device, team: Team = ALONE) -> str:
    """What a table calls the device, or so many of them."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return name if team.size == 1 else f"{team.size} x {name}"


def read_run(out: Path | str) -> dict:
    """The facts of a run that differ from run to run (seconds, memory, device), kept apart from its results."""
    path = Path(out) / "run.json"
    return json.loads(path.read_text()) if path.exists() else {}


class Trainer:
    """The loop. All randomness comes from one generator, whose state is in the checkpoint.

    Of a ``team`` every process holds the whole stack, draws the same numbers, and works on its share of each batch; the
    gradients are added up before each step.
    """

    def __init__(self, data: Observations, config: TrainConfig, out: Path, start: Start | None, team: Team = ALONE):
        self.data, self.config, self.out, self.team = data, config, out, team
        device, box = data.y.device, data.plane.box
        self.generator = torch.Generator(device).manual_seed(config.seed)
        unit, cpu = voxel_unit(data, box), torch.Generator().manual_seed(config.seed)
        if start is not None:
            basis = start.basis.cpu()
        else:  # a faint smooth blob
            noise = smooth_noise(1 + config.latent_dim, box, cpu, box // 4)
            basis = 0.3 * unit * noise * soft_sphere(box, edge=box / 3)
            basis[0] += 0.5 * unit * soft_sphere(box, edge=box / 2 - 2)
        scale = float(data.within(4).y.abs().mean())
        self.model = build_model(config, box, basis, signal_power(data), scale).to(device)
        self.draws = LatentDraws(
            data.ctf[:, : self.model.encoder.used], None if start is None else start.latents.to(device),
            1.0 if start is None else float(start.poses.shifts_px.std()),
        )
        if start is not None and isinstance(self.model.encoder.stem, TemplateStem):
            self._start_templates(start)
        self.alone = config.alone_steps if config.pose_task else 0
        self.epoch_steps = -(-len(data) // config.batch)
        self.total = self.alone + round(config.joint_epochs * self.epoch_steps)
        fused = device.type in ("cpu", "cuda")
        decoder, encoder = list(self.model.decoder.parameters()), list(self.model.encoder.parameters())
        self.optimiser = torch.optim.AdamW(
            [{"params": encoder, "weight_decay": config.weight_decay}, {"params": decoder, "weight_decay": 0.0}],
            lr=config.rate, fused=fused,
        )
        self.step, self.history, self.seconds = 0, [], 0.0
        self.order: Tensor | None = None
        self._load_checkpoint()
        self.drawn = float(data.plane.k[: self.model.encoder.used].norm(dim=1).max())  # the highest frequency the encoder sees
        with torch.no_grad():
            self.still = self.model.decoder.drawing(self.drawn)  # for the pose task alone, which leaves the decoder as it is

    @torch.no_grad()
    def _start_templates(self, start: Start) -> None:
        count = self.model.encoder.stem.filters.out_features
        device = self.data.y.device
        rotations = random_rotations(count, self.generator, device)
        rows = torch.randint(len(start.latents), (count,), generator=self.generator, device=device)
        slices = self.model.decoder.drawing()(start.latents.to(device)[rows], rotations, self.data.plane.k)
        self.model.encoder.start_templates(slices)

    def run(self, progress: bool = True) -> None:
        """From wherever the checkpoint left off to the end. SIGTERM and Ctrl-C leave a checkpoint first."""
        keep_freed_memory()
        began = saved = time.perf_counter()
        before = self.seconds
        with _Interruption() as interruption, tqdm(
            total=self.total, initial=self.step, desc="training", disable=not (progress and self.team.leads)
        ) as bar:
            while self.step < self.total:
                record, asked = self._advance(interruption.asked)
                now = time.perf_counter()
                look = self.step % LOOK_EVERY == 0 or self.step == self.total
                # A team stops at one step, and asks the device for what it says only when it looks anyway.
                stop = interruption.asked if self.team.size == 1 else look and bool(asked)
                save = stop or now - saved > self.config.checkpoint_seconds
                if save or look:
                    values = self._check(record)
                    if look:
                        phase = "pose task" if self.step <= self.alone else "joint"
                        self.history.append({"step": self.step, "phase": phase, **values})
                    bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
                bar.update()
                self.seconds = before + now - began
                if save:
                    self._save_checkpoint()
                    saved = now
                if stop:
                    raise KeyboardInterrupt

    def _check(self, record: dict[str, Tensor]) -> dict[str, float]:
        """The losses and the gradient's norm as numbers. Raises :class:`HetacumnError` where one is not finite, before anything
        is saved."""
        values = {name: float(value) for name, value in record.items()}
        if not all(math.isfinite(value) for value in values.values()):
            path = self.out / CHECKPOINT
            last = f"the last good state is {path}" if path.exists() else "no state was saved yet"
            raise HetacumnError(f"{self.out}: not finite at step {self.step} ({values}); {last}; try a "
                                "lower rate")
        return values

    def _advance(self, asked_to_stop: bool = False) -> tuple[dict[str, Tensor], Tensor]:
        """One step: task 2 alone at first, then both tasks on one batch of particles. Returns the losses, and how many
        processes of the team were asked to stop."""
        config, joint = self.config, self.step >= self.alone
        self._set_rates(joint)
        record, loss, drawing = {}, 0.0, self.still
        if joint:
            done = (self.step - self.alone) / max(1, self.total - self.alone)
            radius = (config.radius[0] + (config.radius[1] - config.radius[0]) * done) * self.data.plane.box
            pose_only = (self.step - self.alone) < config.pose_only_epochs * self.epoch_steps
            rows = self._next_rows()
            noise = torch.randn(len(rows), config.latent_dim, generator=self.generator, device=rows.device)
            mine, weight = self.team.share(len(rows))
            drawing = self.model.decoder.drawing(max(radius, self.drawn))  # one for both tasks
            task = self.model.reconstruct(self.data[rows[mine]], radius, noise[mine], config.kl_weight, pose_only, drawing)
            loss = loss + weight * (config.reconstruction_weight * task["loss"] + config.pose_weight * task["pose"])
            record |= {"misfit": weight * task["misfit"], "kl": weight * task["kl"]}
        if config.pose_task:
            batch = config.batch if joint else config.alone_batch
            task = self.model.predict_drawn_poses(batch, self.draws, self.data.plane, self.generator, drawing, self.team)
            _, weight = self.team.share(-(-batch // 4))
            loss = loss + weight * config.pose_weight * task["loss"]
            record |= {"pose": weight * task["loss"]}
            if config.conformation_sleep:
                loss = loss + weight * config.conformation_weight * task["conformation"]
                record |= {"conformation": weight * task["conformation"]}
        self.optimiser.zero_grad()
        loss.backward()
        record = {name: value.detach() for name, value in record.items()}
        stop = torch.full((), float(asked_to_stop), device=self.data.y.device)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.team.add_up_([*gradients, *record.values(), stop])
        decoder = [p.grad for p in self.model.decoder.parameters() if p.grad is not None]
        norms = [torch.nn.utils.clip_grad_norm_(self.model.encoder.parameters(), 1.0)]
        norms += [torch.nn.utils.get_total_norm(decoder)] if decoder else []
        record["gradient"] = torch.stack(norms).norm()
        self.optimiser.step()
        self.step += 1
        return record, stop

    def _set_rates(self, joint: bool) -> None:
        """Warm-up and cosine decay of the pose task alone; then a lower rate that decays too. The decoder joins in then."""
        config = self.config
        encoder, decoder = self.optimiser.param_groups
        if joint:
            done = (self.step - self.alone) / max(1, self.total - self.alone)
            peak = config.joint_rate if self.alone else config.rate
            encoder["lr"] = peak * min(1.0, (self.step - self.alone + 1) / 50) * (1 - 0.9 * done)
            decoder["lr"] = config.decoder_rate * (1 - 0.9 * done)
        else:
            done = self.step / self.alone
            decay = 0.03 + 0.97 * math.cos(0.5 * math.pi * done) ** 2
            encoder["lr"] = config.rate * min(1.0, (self.step + 1) / 200) * decay
            decoder["lr"] = 0.0

    def _next_rows(self) -> Tensor:
        """The next batch of a random order of the particles, a new order every epoch."""
        at = (self.step - self.alone) % self.epoch_steps
        if at == 0 or self.order is None:
            self.order = torch.randperm(len(self.data), generator=self.generator, device=self.data.y.device)
        return self.order[at * self.config.batch : (at + 1) * self.config.batch]

    def _save_checkpoint(self) -> None:
        if not self.team.leads:  # all have the same state
            return
        state = {
            "config": self._identity(), "step": self.step, "seconds": self.seconds,
            "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(), "order": self.order, "history": self.history,
        }
        packed = BytesIO()  # into a file that finds the disk full, torch writes on to an error of its own
        torch.save(state, packed)
        with atomic_path(self.out / CHECKPOINT) as temporary:
            temporary.write_bytes(packed.getbuffer())

    def _identity(self) -> str:
        """What a checkpoint must agree in: the settings and the stack."""
        return json.dumps({**asdict(self.config), "stack": stack_identity(self.data)})

    def _load_checkpoint(self) -> None:
        path = self.out / CHECKPOINT
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.data.y.device, weights_only=True)
        except Exception as error:  # torch raises what it likes, over many lines
            raise HetacumnError(f"{path}: not a readable checkpoint; delete it to begin anew") from error
        if state["config"] != self._identity():
            raise HetacumnError(f"{path}: from a run with other settings or particles; delete it to begin anew")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        try:
            self.generator.set_state(state["generator"].cpu())
        except (RuntimeError, TypeError) as error:
            raise HetacumnError(f"{path}: from a run on another kind of device; go on there, or delete it to begin anew"
                                ) from error
        self.step, self.order, self.history = state["step"], state["order"], state["history"]
        self.seconds = state["seconds"]


class _Interruption:
    """Within it SIGTERM and Ctrl-C only ask to stop, so that a step is done whole before its state is saved."""

    def __init__(self):
        self.asked = False

    def _ask(self, signum, frame) -> None:
        self.asked = True

    def __enter__(self) -> _Interruption:
        self.before = {}
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


# Files -----------------------------------------------------------------------------------------------------


def _write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(save(tensors, {"facts": json.dumps(facts)}))


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    if not path.exists():
        raise HetacumnError(f"{path}: no such file; train first")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])
    except (SafetensorError, TypeError, KeyError) as error:
        raise HetacumnError(f"{path}: expected a safetensors file of this program ({error})") from error


def save_model(path: Path, model: HetACUMN, config: TrainConfig, box: int, pixel_A: float) -> None:
    """Weights and, in the file's header, what they are: config, box and pixel size."""
    _write_tensors(path, model.state_dict(), {"config": asdict(config), "box": box, "pixel_A": pixel_A})


@dataclass(frozen=True)
class Trained:
    """A model read back: with its config, box and pixel size in Å."""

    model: HetACUMN
    config: TrainConfig
    box: int
    pixel_A: float

    def basis(self) -> Tensor:
        """Mean and components ``(1 + q, box, box, box)`` that stand for the decoder's volumes."""
        with torch.no_grad():
            return linear_basis(self.model.decoder)


def trained_preprocessing(out: Path | str, stack: object, over: object = None) -> Preprocessing:
    """How the images were prepared that the model of a folder was made from, or, if it does not say, ``stack`` of the
    settings; in either case with other settings of ``stack`` laid ``over``."""
    facts = read_config(out)
    return Preprocessing.from_params(merged({"": facts.get("preprocessing") or stack, "stack": over}), box=facts["box"])


def read_config(out: Path | str) -> dict:
    """A run's ``config.json``: method, ``config``, box, pixel size, stack and versions."""
    path = Path(out) / "config.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HetacumnError(f"{path}: expected the settings of a run ({error})") from error


def load_config(out: Path | str) -> TrainConfig:
    """The settings in a run's ``config.json``."""
    try:
        return TrainConfig.from_params(read_config(out)["config"])
    except KeyError as error:
        raise HetacumnError(f"{Path(out) / 'config.json'}: expected the settings of a run (no {error})") from error


def load_model(out: Path | str, device: torch.device | str = "cpu") -> Trained:
    """The model of a finished run's folder."""
    tensors, facts = _read_tensors(Path(out) / MODEL)
    config = TrainConfig.from_params(facts["config"])
    model = build_model(config, facts["box"])
    model.load_state_dict(tensors)
    return Trained(model.to(device).eval(), config, facts["box"], facts["pixel_A"])


def start_settings(config: TrainConfig) -> dict:
    """What a run of its own would make its start with, as JSON has it."""
    return json.loads(json.dumps({**asdict(ab_initio_config(config)), "seed": config.seed}))


def save_start(path: Path, start: Start, stack: str, settings: dict) -> None:
    """An ab initio start, as safetensors, with the :func:`stack_identity` it is of and the :func:`start_settings`."""
    tensors = {"basis": start.basis, "rotations": start.poses.rotations, "shifts_px": start.poses.shifts_px,
               "latents": start.latents}
    _write_tensors(path, tensors, {"route": start.route, "scores": start.scores, "stack": stack, "settings": settings})


def load_start(path: Path, data: Observations | None = None) -> Start:
    """What :func:`save_start` wrote. Raises :class:`HetacumnError` where that is of another stack than ``data``, if given."""
    tensors, facts = _read_tensors(path)
    if data is not None and not _same_stack(facts["stack"], stack_identity(data)):
        raise HetacumnError(f"{path}: of another stack ({facts['stack']}); expected {stack_identity(data)}; delete it or "
                            "choose another folder")
    return Start(tensors["basis"], Poses(tensors["rotations"], tensors["shifts_px"]), tensors["latents"],
                 facts["route"], facts["scores"])
