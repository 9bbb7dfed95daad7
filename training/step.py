"""One training step of one rank: its pieces of the global batch forward and backward, then one update.

Gradients of the pieces are accumulated, averaged over ranks with the last one, clipped, and looked at before they
change a weight: a non-finite loss or gradient, on whatever rank, stops every rank with the weights as they were.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from training import augment
from training.batch import Batch
from training.config import Config
from training.models.vit import VisionTransformer, load_checked
from training.online import OnlineDepth
from training.optim import WeightAverage, build_optimizer, learning_rate
from training.ranks import Ranks
from training.share import Share


class NonFinite(ValueError):
    """A loss or gradient that is no number; one line that names step and samples."""


@dataclass(frozen=True)
class StepSummary:
    """Of the global batch."""

    loss: float
    grad_norm: float  # before clipping
    stop: bool  # some rank was asked to stop


class TrainingStep:
    """Model, optimizer, averaged weights and online teacher of one rank. `self(...)` is one step."""

    def __init__(
        self,
        config: Config,
        model: VisionTransformer,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[None]],
        ranks: Ranks,
        share: Share,
    ) -> None:
        self.config, self.device, self.autocast, self.ranks, self.share = config, device, autocast, ranks, share
        self.model = model.to(device)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.average = WeightAverage(self.model, config.optim.ema_decay) if config.optim.ema_decay else None
        self.teacher = OnlineDepth(config, device) if config.data.depth == "online" else None
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

    def __call__(self, pieces: Iterable[Batch], step: int, epoch: float, stop: bool = False) -> StepSummary:
        """Step number `step` (from 0) at the fractional `epoch`, on the `share.pieces` batches of this rank."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optim, epoch)
        self.optimizer.zero_grad(set_to_none=True)
        keys: list[str] = []
        loss = torch.zeros((), device=self.device)
        for number, piece in enumerate(pieces):
            keys += piece.keys
            loss += self._accumulate(piece, number == self.share.pieces - 1)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.grad_clip)
        # The one time a step that the host waits for the device; what follows is queued before the device runs dry.
        asked = torch.full((), float(stop), device=self.device)
        values = self.ranks.mean(torch.stack([loss, norm, asked])).tolist()
        if not all(map(math.isfinite, values)):
            self._complain(step, keys, loss.item())
        self.optimizer.step()
        if self.average:
            self.average.update(self.model, step + 1)
        return StepSummary(values[0], values[1], values[2] > 0)

    def _accumulate(self, piece: Batch, last: bool) -> torch.Tensor:
        """Adds a piece's gradient; returns its part of the loss."""
        rgb, depth, target = augment.model_inputs(piece.to(self.device), self.config)
        if self.teacher:
            depth = self.teacher(rgb)
        size = self.config.runtime.micro_batch or len(rgb)
        loss = torch.zeros((), device=self.device)
        chunks = list(zip(rgb.split(size), depth.split(size), target.split(size), strict=True))
        for number, (some_rgb, some_depth, some_target) in enumerate(chunks):
            wait = self._parallel is not None and not (last and number == len(chunks) - 1)
            with self._parallel.no_sync() if self._parallel and wait else nullcontext():
                with self.autocast():
                    logits = self._forward(some_rgb, some_depth)
                smoothing = self.config.optim.label_smoothing
                part = F.cross_entropy(logits.float(), some_target, label_smoothing=smoothing, reduction="sum")
                part = part / (self.share.piece * self.share.pieces)
                part.backward()
            loss += part.detach()
        return loss

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
    def evaluated(self) -> VisionTransformer:
        """The model whose accuracy counts: the averaged one where there is one."""
        return self.average.model if self.average else self.model  # type: ignore[return-value]

    def weights(self) -> dict[str, Any]:
        """What a checkpoint of weights holds."""
        return {"model": self.model.state_dict()} | ({"ema": self.average.model.state_dict()} if self.average else {})

    def state(self) -> dict[str, Any]:
        """What a checkpoint to resume from holds of the step."""
        return self.weights() | {"optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any], where: str) -> None:
        load_checked(self.model, state["model"], where)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            load_checked(self.average.model, state["ema"], where)
