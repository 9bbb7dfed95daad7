"""One training step of one rank: its pieces of the global batch forward and backward, then one update.

Gradients of the pieces are accumulated, averaged over ranks with the last one, clipped, and looked at before they
change a weight: a non-finite loss or gradient, on whatever rank, stops every rank with the weights as they were.
"""

import math
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import UserError
from training.engine import frozen
from training.engine.checkpoint import is_plain
from training.engine.machine import Machine
from training.engine.optim import WeightAverage, build_optimizer
from training.engine.share import Share
from training.engine.task import Task
from training.models.vit import ModelError, load_checked
from training.random_numbers import generator

_CHOSEN_HERE = ("foreach", "fused", "capturable")  # by the machine; may differ from where the state was saved


class NonFinite(UserError):
    """A loss or gradient that is no number; one line that names step and samples."""


@dataclass(frozen=True)
class StepSummary:
    """Of the global batch."""

    loss: float
    grad_norm: float  # before clipping
    stop: bool  # some rank was asked to stop


class TrainingStep:
    """Model, optimizer and averaged weights of one rank. `self(...)` is one step.

    Batch norms, which some models have, count over all ranks on GPUs; on CPUs over each rank's own piece, and
    their running statistics are averaged over ranks after every step. They see one micro-batch at a time.
    """

    def __init__(self, task: Task[Any, Any], model: nn.Module, machine: Machine, share: Share) -> None:
        self.task, self.config, self.share = task, task.config, share
        self.device, self.autocast, self.ranks = machine.device, machine.autocast, machine.ranks
        device, ranks, config = self.device, self.ranks, self.config
        frozen.freeze(model, task.frozen)
        if ranks.world_size > 1 and device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(device)
        frozen.train_mode(self.model, task.frozen)
        task.place(device)
        self.optimizer = build_optimizer(self.model, config.optim, task.rate_factors)
        # Of each group; beside it, so that checkpoints are alike with and without factors.
        self.rated = [
            config.optim.model_copy(update={"lr": group["lr"], "warmup_epochs": task.warmup_epochs})
            for group in self.optimizer.param_groups
        ]
        decay = config.optim.ema_decay
        self.average = WeightAverage(self.model, decay, task.frozen) if decay else None
        self._parallel: DistributedDataParallel | None = None
        forward: Any = self.model
        if ranks.world_size > 1:
            # Of depthwise weights, whose dimension of size 1 has a stride that means nothing.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
            on_gpu = [device.index] if device.type == "cuda" else None
            forward = self._parallel = DistributedDataParallel(
                self.model, on_gpu, gradient_as_bucket_view=True, broadcast_buffers=False
            )
        # Compiled around the parallel module, and never stored under it: checkpoints keep the model's own names.
        self._forward = torch.compile(forward) if config.runtime.compile else forward

    def __call__(self, pieces: Iterable[Any], step: int, epoch: float, stop: bool = False) -> StepSummary:
        """Step number `step` (from 0) at the fractional `epoch`, on the `share.pieces` batches of this rank."""
        for group, optim in zip(self.optimizer.param_groups, self.rated, strict=True):
            group["lr"] = self.config.schedule.rate(optim, epoch)
        self.optimizer.zero_grad(set_to_none=True)
        if self.task.draws:  # so that a resume needs no generator's state, on whatever device
            torch.manual_seed(int(generator(self.config.seed, "step", step, self.ranks.rank).integers(2**62)))
        pieces, count = self._counted(pieces)
        keys: list[str] = []
        loss = torch.zeros((), device=self.device)
        for number, piece in enumerate(pieces):
            keys += piece.keys
            loss += self._accumulate(piece, count, number == self.share.pieces - 1)
        clip = self.config.optim.grad_clip
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), math.inf if clip is None else clip)
        # The one time a step that the host waits for the device; what follows is queued before the device runs dry.
        asked = torch.full((), float(stop), device=self.device)
        values = self.ranks.mean(torch.stack([loss, norm, asked])).tolist()
        if not all(map(math.isfinite, values)):
            self._complain(step, keys, loss.item())
        self.optimizer.step()
        self._average_statistics()
        if self.average:
            self.average.update(self.model, step + 1)
        return StepSummary(values[0], values[1], values[2] > 0)

    def _counted(self, pieces: Iterable[Any]) -> tuple[Iterable[Any], torch.Tensor | int]:
        """The pieces, and what their losses are divided by: a rank's mean share of the global batch's targets."""
        if not self.task.counts:
            return pieces, self.share.piece * self.share.pieces
        pieces = list(pieces)
        own = sum(self.task.count(piece) for piece in pieces)
        count = torch.full((), float(own), device=self.device)
        return pieces, self.ranks.mean(count).clamp_min(1 / self.ranks.world_size)

    def _accumulate(self, piece: Any, count: torch.Tensor | int, last: bool) -> torch.Tensor:
        """Adds a piece's gradient; returns its part of the loss."""
        inputs = self.task.inputs(piece.to(self.device))
        size = self.config.runtime.micro_batch or len(inputs[0])
        loss = torch.zeros((), device=self.device)
        chunks = list(zip(*(tensor.split(size) for tensor in inputs), strict=True))
        for number, chunk in enumerate(chunks):
            wait = self._parallel is not None and not (last and number == len(chunks) - 1)
            with self._parallel.no_sync() if self._parallel and wait else nullcontext():
                part = self.task.loss(self._run, *chunk) / count
                part.backward()
            loss += part.detach()
        return loss

    def _run(self, *inputs: torch.Tensor) -> Any:
        with self.autocast():
            return self._forward(*inputs)

    @torch.no_grad()
    def _average_statistics(self) -> None:
        if self.ranks.world_size == 1 or self.device.type == "cuda":
            return
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.training:
                for statistics in (module.running_mean, module.running_var):
                    assert statistics is not None
                    self.ranks.mean(statistics)

    def _complain(self, step: int, keys: list[str], loss: float) -> None:
        """On every rank at once; the samples named are those of ranks whose loss is at fault, or else of all."""
        told = self.ranks.gather((math.isfinite(loss), keys))
        what = "gradient" if all(fine for fine, _ in told) else "loss"
        blamed = [key for fine, own in told if what == "gradient" or not fine for key in own]
        more = f", ... ({len(blamed):,} in all)" if len(blamed) > 8 else ""
        raise NonFinite(
            f"non-finite {what} at step {step} before the update; samples {', '.join(blamed[:8])}{more}: "
            "look at them with precompute-depth inspect, or lower optim.lr"
        )

    @property
    def lr(self) -> float:
        """Of the last step, of what has no factor; where everything has one, of the first that has."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def evaluated(self) -> nn.Module:
        """The model whose accuracy counts: the averaged one where there is one."""
        return self.average.model if self.average else self.model

    def weights(self) -> dict[str, Any]:
        """What a checkpoint of weights holds."""
        kept = {"model": self.model} | ({"ema": self.average.model} if self.average else {})
        return {name: frozen.trained(model.state_dict(), self.task.frozen) for name, model in kept.items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint to resume from holds of the step."""
        return self.weights() | {"optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any], where: str) -> None:
        load_checked(self.model, frozen.whole(state["model"], self.model, self.task.frozen), where)
        _refuse_other_moments(self.optimizer, state.get("optimizer"), where)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            average = self.average.model
            load_checked(average, frozen.whole(state.get("ema", {}), average, self.task.frozen), where)


def _refuse_other_moments(optimizer: torch.optim.Optimizer, saved: Any, where: str) -> None:
    """ModelError where a checkpoint keeps no state of this optimizer: told here, not by its first step."""
    groups = optimizer.state_dict()["param_groups"]
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    saved = saved if isinstance(saved, dict) else {}
    state, theirs = saved.get("state"), saved.get("param_groups")
    alike = isinstance(state, dict) and isinstance(theirs, list) and len(theirs) == len(groups)
    for ours, group in zip(groups, theirs, strict=True) if alike else ():
        same = isinstance(group, dict) and group.get("params") == ours["params"]
        alike = alike and same and all(type(group.get(n)) is type(v) for n, v in ours.items() if n not in _CHOSEN_HERE)
    for number, moments in state.items() if alike else ():
        known = isinstance(number, int) and 0 <= number < len(shapes) and isinstance(moments, dict)
        known = known and moments.keys() == {"step", "exp_avg", "exp_avg_sq"}  # AdamW's
        alike = alike and known and all(is_plain(m) and m.shape in ((), shapes[number]) for m in moments.values())
    if not alike:
        raise ModelError(f"{where} keeps no state of this run's optimizer: restore this run's own checkpoints")
