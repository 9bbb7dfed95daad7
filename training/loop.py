"""Pre-training: the loop, and what surrounds it (start, resume, evaluation, checkpoints, signals)."""

import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console

from pipeline import shards
from training import augment, checkpoint, run_log
from training.config import Config
from training.data import Batch, Share, open_shards, train_loader
from training.evaluate import Outcome, evaluate
from training.models.vit import load_checked
from training.optim import build_optimizer, learning_rate
from training.records import (
    EndLine,
    EvalLine,
    Evaluation,
    ParametersLine,
    RunRecord,
    TrainLine,
    parse,
    read_metrics,
)
from training.run_folder import TrainingError, as_evaluation, choose_device, describe, refuse_changes


class Stopped(ValueError):
    """A signal asked the run to stop and a checkpoint was saved; the exit code is the signal's, for schedulers."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@dataclass
class _Window:
    """Sums since the last metrics line; part of a checkpoint, so that a resume writes the same lines."""

    loss: float = 0.0
    grad_norm: float = 0.0
    steps: int = 0


@dataclass
class _Clock:
    train_seconds: float = 0.0
    total_seconds: float = 0.0
    waited: float = 0.0  # for data, since the last metrics line
    line_start: float = field(default_factory=time.perf_counter)
    line_images: int = 0


def pretrain(config: Config, data: Path, out: Path, *, resume: bool, console: Console) -> Evaluation:
    """Train until the last epoch, from scratch or from the newest checkpoint; returns the final evaluation."""
    return _Pretraining(config, data, out, resume, console).run()


class _Pretraining:
    def __init__(self, config: Config, data: Path, out: Path, resume: bool, console: Console) -> None:
        self.config, self.out, self.console = config, out, console
        self.train = open_shards(data, "train", config.data.depth)
        self.val = open_shards(data, "val", config.data.depth)
        _check_classes(config, self.train)
        self.device, self.autocast = choose_device(config)
        batch, count = config.optim.batch_size, len(self.train)
        self.num_steps = config.optim.epochs * count // batch
        if self.num_steps == 0:
            raise TrainingError(
                f"{count} training samples over {config.optim.epochs} epochs make no batch of {batch}: "
                "--set optim.batch_size lower or optim.epochs higher"
            )
        torch.manual_seed(config.seed)
        self.model = config.model.build().to(self.device)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.step, self.window, self.clock = 0, _Window(), _Clock()
        self.record = describe(
            config, self.out.name, data, self.train, self.val, self.model, self.num_steps, self.device
        )
        self._start_or_resume(resume)
        self.stop_signal: int | None = None

    # --- start -----------------------------------------------------------------------------------------------------

    def _start_or_resume(self, resume: bool) -> None:
        path = self.out / "run.json"
        if not path.exists() or not resume:
            # --resume on a folder without a run starts one, so that a scheduler can always repeat the same line.
            if self.out.exists() and any(self.out.iterdir()):
                what = "holds a run: add --resume to go on" if path.exists() else "is not empty and holds no run"
                raise TrainingError(f"{self.out} {what}, or choose another --out")
            run_log.write_json(path, self.record)
            return
        earlier = parse(RunRecord, path)
        refuse_changes(earlier, self.record)
        steps = checkpoint.steps_of(self.out)
        if steps:
            saved = checkpoint.load(self.out / "checkpoints" / f"step-{steps[-1]}")
            load_checked(self.model, saved.state["model"], str(saved.folder))
            self.optimizer.load_state_dict(saved.state["optimizer"])
            torch.set_rng_state(saved.state["rng"])
            self.step = saved.info.step
            self.window = _Window(**saved.state["window"])
            self.clock.train_seconds = saved.state["train_seconds"]
            self.clock.total_seconds = saved.state["total_seconds"]
        self.console.print(f"resuming {self.out} at step {self.step} of {self.num_steps}", highlight=False)

    # --- run -------------------------------------------------------------------------------------------------------

    def run(self) -> Evaluation:
        for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            if threading.current_thread() is threading.main_thread():
                signal.signal(name, self._ask_to_stop)
        self.metrics = run_log.Metrics(self.out / "metrics.jsonl", self.step)
        label = f"{self.config.model.name} ({self.config.data.depth})"
        self.progress = run_log.TrainingProgress(self.console, label, self.step, self.num_steps)
        self.started = time.perf_counter() - self.clock.total_seconds
        try:
            if self.step == 0:
                self._after_epoch(0)
            loader = train_loader(self.train, self.config, Share.of(self.config), self.step, self.num_steps)
            while self.step < self.num_steps:
                before = time.perf_counter()
                batch = next(loader)
                self.clock.waited += time.perf_counter() - before
                self._train_step(batch)
                self._after_step(time.perf_counter() - before)
            return self._finish()
        finally:
            self.progress.close()
            self.metrics.close()

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_signal = number
        signal.signal(number, signal.SIG_DFL)  # a second one stops at once

    def epochs_done(self, step: int) -> int:
        """Whole epochs in the first `step` batches; the last step ends the last epoch."""
        if step >= self.num_steps:
            return self.config.optim.epochs
        return step * self.config.optim.batch_size // len(self.train)

    def _train_step(self, batch: Batch) -> None:
        config = self.config
        batch = batch.to(self.device)
        rgb, depth, target = augment.model_inputs(batch, config)
        epoch = self.step * config.optim.batch_size / len(self.train)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(config.optim, epoch)
        with self.autocast():
            logits = self.model(rgb, depth)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=config.optim.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.grad_clip)
        if not torch.isfinite(norm):
            what = "loss" if not torch.isfinite(loss) else "gradient"
            raise TrainingError(
                f"non-finite {what} at step {self.step} before the update; samples {', '.join(batch.keys[:4])}, ...: "
                "look at them with precompute-depth inspect, or lower optim.lr"
            )
        self.optimizer.step()
        self.step += 1
        self.window.loss += loss.item()
        self.window.grad_norm += norm.item()
        self.window.steps += 1
        self.clock.line_images += len(batch.keys)

    def _after_step(self, seconds: float) -> None:
        runtime = self.config.runtime
        self.clock.train_seconds += seconds
        self.progress.step(self.step)
        if self.step % runtime.log_every == 0 or self.step == self.num_steps:
            self._log_line()
        saved = False
        if (epoch := self.epochs_done(self.step)) > self.epochs_done(self.step - 1):
            self._after_epoch(epoch)
        if self.step % runtime.checkpoint_every == 0 or self.step == self.num_steps:
            self._save()
            saved = True
        if self.stop_signal is not None:
            if not saved:
                self._save()
            name = signal.Signals(self.stop_signal).name
            raise Stopped(f"stopped by {name} at step {self.step}, saved: add --resume to go on", self.stop_signal)

    def _log_line(self) -> None:
        window, clock, config = self.window, self.clock, self.config.optim
        elapsed = max(time.perf_counter() - clock.line_start, 1e-9)
        line = TrainLine(
            step=self.step,
            epoch=self.step * config.batch_size / len(self.train),
            loss=window.loss / window.steps,
            lr=self.optimizer.param_groups[0]["lr"],
            grad_norm=window.grad_norm / window.steps,
            images_per_s=clock.line_images / elapsed,
            data_wait=clock.waited / elapsed,
        )
        self.metrics.write(line)
        self.progress.note(self.step, line.loss, line.images_per_s, line.data_wait)
        self.window = _Window()
        clock.waited, clock.line_images, clock.line_start = 0.0, 0, time.perf_counter()

    def _after_epoch(self, epoch: int) -> None:
        """Evaluation, the figures' parameters and the snapshots of an epoch's end."""
        runtime, start = self.config.runtime, time.perf_counter()
        values = self.model.figure_parameters()
        if values:
            self.metrics.write(ParametersLine(step=self.step, epoch=epoch, values=values))
        if epoch in runtime.snapshot_epochs:
            self._save_as(f"epoch-{epoch}", {"model": self.model.state_dict()}, epoch)
        if epoch and epoch % runtime.eval_every == 0 and epoch < self.config.optim.epochs:
            outcome = self._evaluate()
            self._log_evaluation(epoch, outcome)
        self.clock.line_start += time.perf_counter() - start  # not the trainer's throughput

    def _evaluate(self) -> Outcome:
        return evaluate(self.model, self.val, self.config, self.config.data.depth, self.device, self.autocast)

    def _log_evaluation(self, epoch: int, outcome: Outcome) -> None:
        self.metrics.write(
            EvalLine(
                step=self.step,
                epoch=epoch,
                top1=outcome.top1,
                top5=outcome.top5,
                loss=outcome.loss,
                num_samples=len(outcome.correct1),
                seconds=outcome.seconds,
            )
        )
        self.progress.say(f"epoch {epoch}: top-1 {outcome.top1:.1%}  top-5 {outcome.top5:.1%}  loss {outcome.loss:.3f}")

    def _save(self) -> None:
        self.clock.total_seconds = time.perf_counter() - self.started
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "window": vars(self.window),
            "train_seconds": self.clock.train_seconds,
            "total_seconds": self.clock.total_seconds,
        }
        self._save_as(f"step-{self.step}", state, self.epochs_done(self.step))
        checkpoint.prune(self.out, self.config.runtime.keep_checkpoints)

    def _save_as(self, name: str, state: dict[str, Any], epoch: int) -> None:
        folder = self.out / "checkpoints" / name
        checkpoint.save(folder, state, step=self.step, epoch=epoch, study_hash=self.record.study_hash)

    def _finish(self) -> Evaluation:
        epoch = self.config.optim.epochs
        outcome = self._evaluate()
        if not any(
            isinstance(line, EvalLine) and line.epoch == epoch for line in read_metrics(self.out / "metrics.jsonl")
        ):
            self._log_evaluation(epoch, outcome)
            total = time.perf_counter() - self.started
            self.metrics.write(
                EndLine(step=self.step, epoch=epoch, train_seconds=self.clock.train_seconds, total_seconds=total)
            )
        result = as_evaluation(outcome, self.config, self.val, self.config.data.depth, f"step-{self.step}", epoch)
        run_log.write_json(self.out / "evaluations" / "val-final.json", result)
        return result


def _check_classes(config: Config, split: shards.Split) -> None:
    have = len(split.index.class_names)
    if config.model.num_classes < have:
        raise TrainingError(
            f"model.num_classes must be at least the {have} classes of {split.store}, got {config.model.num_classes}"
        )
