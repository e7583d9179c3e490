"""The training loop of the network: steps, learning rates, losses, and checkpoints from which training resumes exactly."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.start import Start
from hetacumn.ab_initio.stochastic_em import smooth_noise, voxel_unit
from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path
from hetacumn.common.memory import keep_freed_memory
from hetacumn.compute.cuda_graph import RecordedStep
from hetacumn.compute.interruption import Interruption
from hetacumn.compute.processes import SINGLE_PROCESS, ProcessGroup
from hetacumn.network.config import TrainConfig
from hetacumn.network.decoder import Drawing
from hetacumn.network.losses import LatentDraws, StepLosses
from hetacumn.network.model import build_model
from hetacumn.network.model_files import CHECKPOINT, check_checkpoint, checkpoint_settings, read_checkpoint
from hetacumn.particles.observations import Observations, StackFingerprint, signal_power
from hetacumn.physics.rotations import random_rotations
from hetacumn.physics.volumes import soft_sphere
from hetacumn.search.focus import WHOLE, Focus

LOOK_EVERY = 25  # steps between two rows of the history


class Trainer:
    """The training loop. All random numbers come from one generator, whose state is in the checkpoint.

    Every process of a ``group`` holds the whole stack, samples the same numbers, and works on its part of each batch. The
    gradients are summed over the group before each step.
    """

    def __init__(
        self,
        data: Observations,
        config: TrainConfig,
        out: Path,
        start: Start | None,
        group: ProcessGroup = SINGLE_PROCESS,
        focus: Focus = WHOLE,
    ) -> None:
        self.data, self.config, self.out, self.group, self.stack = data, config, out, group, StackFingerprint.of(data)
        device, box = data.y.device, data.plane.box
        self.generator = torch.Generator(device).manual_seed(config.seed)
        unit, cpu = voxel_unit(data, box), torch.Generator().manual_seed(config.seed)
        if start is not None:
            basis = start.basis.cpu()
        else:  # a smooth blob of low amplitude
            noise = smooth_noise(1 + config.latent_dim, box, cpu, box // 4)
            basis = 0.3 * unit * noise * soft_sphere(box, edge=box / 3)
            basis[0] += 0.5 * unit * soft_sphere(box, edge=box / 2 - 2)
        scale = float(data.within(4).y.abs().mean())
        self.model = build_model(config, box, basis, signal_power(data), scale, focus).to(device)
        self.draws = LatentDraws(
            data.ctf[:, : self.model.encoder.used],
            None if start is None else start.latents.to(device),
            1.0 if start is None else float(start.poses.shifts_px.std()),
        )
        if start is not None:
            latents = start.latents.to(device)
            if not (out / CHECKPOINT).exists():
                self.model.decoder.start_from(basis, latents, data.plane.k, torch.Generator(device).manual_seed(config.seed))
            self.model.encoder.start_from(partial(self._draw_slices, latents))
        self.alone, self.epoch_steps = config.pose_steps, -(-len(data) // config.batch)
        self.total = self.alone + round(config.joint_epochs * self.epoch_steps)
        fused = device.type in ("cpu", "cuda")
        decoder, encoder = list(self.model.decoder.parameters()), list(self.model.encoder.parameters())
        replayed = device.type == "cuda" and group.size == 1
        self.optimiser = torch.optim.AdamW(
            [{"params": encoder, "weight_decay": config.weight_decay}, {"params": decoder, "weight_decay": 0.0}],
            lr=config.rate,
            fused=fused,
            capturable=replayed,
        )
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float | str]] = []
        self.order: Int[Tensor, " n"] | None = None
        self._load_checkpoint()
        for parameters in self.optimiser.param_groups:  # the checkpoint may come from another kind of device
            parameters["capturable"] = replayed
            if replayed:
                parameters["lr"] = torch.as_tensor(parameters["lr"], device=device)  # a CUDA graph reads it
            else:
                parameters["lr"] = float(parameters["lr"])
        self.replay: RecordedStep[StepLosses] | None = RecordedStep(self.generator) if replayed else None
        self.drawn = float(data.plane.k[: self.model.encoder.used].norm(dim=1).max())  # highest frequency of the encoder
        with torch.no_grad():
            self.still = self.model.decoder.drawing(self.drawn)  # for task 2 alone, which does not change the decoder

    @torch.no_grad()
    def _draw_slices(self, latents: Float[Tensor, "n q"], count: int) -> Complex[Tensor, "{count} m"]:
        """Render ``count`` slices of the decoder's volumes, at random rotations and at z sampled from ``latents``."""
        rotations = random_rotations(count, self.generator, latents.device)
        rows = torch.randint(len(latents), (count,), generator=self.generator, device=latents.device)
        return self.model.decoder.drawing()(latents[rows], rotations, self.data.plane.k)

    def run(self, progress: bool = True) -> None:
        """Train to the end, from the checkpoint if one exists. SIGTERM and Ctrl-C write a checkpoint and stop."""
        keep_freed_memory()
        began = saved = time.perf_counter()
        before = self.seconds
        with (
            Interruption() as interruption,
            tqdm(total=self.total, initial=self.step, desc="training", disable=not (progress and self.group.is_leader)) as bar,
        ):
            while self.step < self.total:
                losses, stop_requests = self._advance(interruption.asked)
                now = time.perf_counter()
                look = self.step % LOOK_EVERY == 0 or self.step == self.total
                # All processes of a group must stop at the same step. They read the number of requests only when they read
                # the losses, because each reading waits for the device.
                stop = interruption.asked if self.group.size == 1 else look and bool(stop_requests)
                save = stop or now - saved > self.config.checkpoint_seconds
                if save or look:
                    values = self._check(losses)
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

    def _check(self, losses: StepLosses) -> dict[str, float]:
        """Return the losses and the gradient's norm as numbers.

        Raises:
            HetacumnError: a number is not finite. The caller has not saved this step.
        """
        values = {name: float(value) for name, value in losses.present().items()}
        if not all(math.isfinite(value) for value in values.values()):
            path = self.out / CHECKPOINT
            last = f"the last good state is {path}" if path.exists() else "no checkpoint exists yet"
            raise HetacumnError(
                f"{self.out}: loss or gradient not finite at step {self.step} ({values}); {last}; try a lower rate"
            )
        return values

    def _advance(self, asked_to_stop: bool = False) -> tuple[StepLosses, Float[Tensor, ""]]:
        """Do one step: of task 2 alone in the first phase, of both tasks in the joint phase.

        Returns the losses, and the number of processes of the process group that were asked to stop.
        """
        joint = self.step >= self.alone
        self._set_rates(joint)
        stop = torch.full((), float(asked_to_stop), device=self.data.y.device)
        if joint:
            self.replay = None  # frees its memory
            losses = self._learn_both(stop)
        else:
            step = partial(self._learn_poses, stop)
            losses = self.replay(step) if self.replay else step()
        self.step += 1
        return losses, stop

    def _learn_poses(self, stop: Float[Tensor, ""]) -> StepLosses:
        """Do a step of task 2 alone; sum ``stop`` over the process group; return the losses."""
        loss, losses = self._pose_loss(self.config.alone_batch, self.still)
        return self._descend(loss, losses, stop)

    def _learn_both(self, stop: Float[Tensor, ""]) -> StepLosses:
        """Do a step of both tasks on one batch of particles; sum ``stop`` over the process group; return the losses."""
        config, weights = self.config, self.config.losses
        done = (self.step - self.alone) / max(1, self.total - self.alone)
        radius = (config.radius[0] + (config.radius[1] - config.radius[0]) * done) * self.data.plane.box
        pose_only = (self.step - self.alone) < config.pose_only_epochs * self.epoch_steps
        rows = self._next_rows()
        noise = torch.randn(len(rows), config.latent_dim, generator=self.generator, device=rows.device)
        share, weight = self.group.share(len(rows))
        drawing = self.model.decoder.drawing(max(radius, self.drawn))  # one for both tasks
        task = self.model.reconstruct(self.data[rows[share]], radius, noise[share], weights.kl, pose_only, drawing)
        loss = weight * (weights.reconstruction * task.loss + weights.pose * task.pose)
        losses = StepLosses()
        if config.pose_task:
            pose_loss, losses = self._pose_loss(config.batch, drawing)
            loss = loss + pose_loss
        return self._descend(loss, replace(losses, misfit=weight * task.misfit, kl=weight * task.kl), stop)

    def _pose_loss(self, batch: int, drawing: Drawing) -> tuple[Float[Tensor, ""], StepLosses]:
        """Compute the weighted loss of task 2 on ``batch`` rendered images, and the terms of the loss."""
        config = self.config
        task = self.model.predict_drawn_poses(batch, self.draws, self.data.plane, self.generator, drawing, self.group)
        _, weight = self.group.share(-(-batch // 4))
        loss, losses = weight * config.losses.pose * task.pose, StepLosses(pose=weight * task.pose)
        if config.conformation_sleep:
            loss = loss + weight * config.losses.conformation * task.conformation
            losses = replace(losses, conformation=weight * task.conformation)
        return loss, losses

    def _descend(self, loss: Float[Tensor, ""], losses: StepLosses, stop: Float[Tensor, ""]) -> StepLosses:
        """Do a step of the optimiser; return the losses, summed over the group, and the norm of the gradient."""
        self.optimiser.zero_grad()
        loss.backward()
        losses = losses.detached()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.group.sum_([*gradients, *losses.present().values(), stop])
        decoder = [p.grad for p in self.model.decoder.parameters() if p.grad is not None]
        norms = [torch.nn.utils.clip_grad_norm_(self.model.encoder.parameters(), 1.0)]
        norms += [torch.nn.utils.get_total_norm(decoder)] if decoder else []
        losses = replace(losses, gradient=torch.stack(norms).norm())
        self.optimiser.step()
        return losses

    def _set_rates(self, joint: bool) -> None:
        """Set the learning rates of this step.

        Task 2 alone: warm-up and cosine decay for the encoder, 0 for the decoder. Joint phase: linear decay for both.
        """
        config = self.config
        encoder, decoder = self.optimiser.param_groups
        if joint:
            done = (self.step - self.alone) / max(1, self.total - self.alone)
            peak = config.joint_rate if self.alone else config.rate
            _set_rate(encoder, peak * min(1.0, (self.step - self.alone + 1) / 50) * (1 - 0.9 * done))
            _set_rate(decoder, config.decoder_rate * (1 - 0.9 * done))
        else:
            done = self.step / self.alone
            decay = 0.03 + 0.97 * math.cos(0.5 * math.pi * done) ** 2
            _set_rate(encoder, config.rate * min(1.0, (self.step + 1) / 200) * decay)
            _set_rate(decoder, 0.0)

    def _next_rows(self) -> Int[Tensor, " b"]:
        """Return the row indices of the next batch, in a random order that changes every epoch."""
        at = (self.step - self.alone) % self.epoch_steps
        if at == 0 or self.order is None:
            self.order = torch.randperm(len(self.data), generator=self.generator, device=self.data.y.device)
        return self.order[at * self.config.batch : (at + 1) * self.config.batch]

    def _save_checkpoint(self) -> None:
        if not self.group.is_leader:  # all processes have the same state
            return
        state = {
            "config": checkpoint_settings(self.config),
            "stack": self.stack.to_json(),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "order": self.order,
            "history": self.history,
        }
        packed = BytesIO()  # torch.save to a full disk would raise torch's own error
        torch.save(state, packed)
        with atomic_path(self.out / CHECKPOINT) as temporary:
            temporary.write_bytes(packed.getbuffer())

    def _load_checkpoint(self) -> None:
        path = self.out / CHECKPOINT
        if not path.exists():
            return
        state = read_checkpoint(path, self.data.y.device)
        check_checkpoint(path, state, self.config, self.stack)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        try:
            self.generator.set_state(state["generator"].cpu())
        except (RuntimeError, TypeError) as error:
            raise HetacumnError(
                f"{path}: from a run on another kind of device; continue on that device, or delete the file to begin anew"
            ) from error
        self.step, self.order, self.history = state["step"], state["order"], state["history"]
        self.seconds = state["seconds"]


def _set_rate(group: dict, rate: float) -> None:
    """Set the learning rate of a parameter group; a tensor is changed in place, because a CUDA graph of the step reads it."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
