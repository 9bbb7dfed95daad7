"""The loop of every run, and what surrounds it (start, resume, evaluation, checkpoints, signals)."""

import math
import signal
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from pydantic import BaseModel
from rich.console import Console

from pipeline import files
from pipeline.errors import UserError
from pipeline.terminal import print_table
from training.engine import checkpoint, frozen, log
from training.engine.describe import describe
from training.engine.found import At, Found
from training.engine.machine import Machine, TrainingError, choose_device, describe_device, slow_precision
from training.engine.meter import StepMeter
from training.engine.profiling import profiler
from training.engine.ranks import Ranks, started
from training.engine.resume import FINAL, Hold, begin_or_refuse, earlier_checkpoint, finished, progress_fault
from training.engine.share import Share, check_batch_size
from training.engine.step import StepSummary, TrainingStep
from training.engine.task import Task
from training.engine.trackers import check_trackers
from training.models.attention import set_attention
from training.records import EndLine, ParametersLine

_NONE_YET = -1.0  # in a checkpoint, where nothing was evaluated; scores lie above it


class Stopped(UserError):
    """A signal asked the run to stop and a checkpoint was saved; the exit code is the signal's, for schedulers."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class _StopAsked(Exception):
    """Some rank got a signal; raised on every rank, between steps or batches of an evaluation."""


def train(
    task: Task[Any, Any],
    data: str,
    out: Path,
    *,
    resume: bool,
    console: Console,
    profile: bool = False,
) -> BaseModel | None:
    """Train until the last epoch, from the start or from the newest checkpoint; returns the final evaluation.

    Under torchrun every process calls this; the first one writes, speaks, and alone gets the evaluation.
    """
    ranks, hold = Ranks.join(choose_device(task.config)[0].type), Hold(out)
    try:
        return _Training(task, data, out, hold, ranks, console, resume, profile).run()
    except (dist.DistError, RuntimeError) as error:
        if ranks.world_size > 1 and _lost_a_rank(error):
            raise TrainingError(
                f"rank {ranks.rank} lost the others ({str(error).splitlines()[0][:120]}): one of them failed or was "
                "killed; its own message says why. Add --resume to go on from the last checkpoint"
            ) from error
        raise
    finally:
        hold.release()
        ranks.leave()


def _lost_a_rank(error: Exception) -> bool:
    words = ("gloo", "NCCL", "Connection", "Broken pipe", "Timeout", "timed out")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


class _Training:
    def __init__(
        self,
        task: Task[Any, Any],
        data: str,
        out: Path,
        hold: Hold,
        ranks: Ranks,
        console: Console,
        resume: bool,
        profile: bool,
    ) -> None:
        config = task.config
        self.config, self.out, self.ranks, self.profile = config, out, ranks, profile
        self.console = console if ranks.first else Console(quiet=True)
        if (found := started()) and found.by_slurm:
            self.console.print(
                f"rank {ranks.rank} of {ranks.world_size}, as SLURM's variables say: this srun's tasks train one model "
                "together. For one process: srun --ntasks 1",
                soft_wrap=True,
            )
        check_trackers(config)
        self.task = task
        task.open(data)
        check_batch_size(config.optim, task.num_train, task.smaller_batch)
        self.machine = Machine.here(config, ranks, self._stop_together)
        self.share = Share.of(config, ranks.rank, ranks.world_size)
        self.epochs = task.epochs
        self.num_steps = self.epochs.num_steps
        torch.manual_seed(config.seed)
        model = task.build()
        set_attention(model, config.runtime.attention)
        self.checked: checkpoint.Checkpoint | None = None  # by the first rank
        saved = ranks.by_first(lambda: self._earlier(resume, hold))
        report = None
        if config.init is not None and (saved is None or task.frozen):
            report = task.initialise(model)
            print_table(self.console, report.table())
        self.training = TrainingStep(task, model, self.machine, self.share)
        self.record = describe(out.name, task, model, self.machine, report)
        self.step, self.epochs_logged = 0, -1
        self.best: float | None = None  # score of an evaluation so far
        self.meter, self.earlier_seconds, self.num_lines, self.resumes = StepMeter(), 0.0, 0, 0
        self.record = ranks.by_first(lambda: begin_or_refuse(out, self.record, hold))
        if saved is not None:
            self._restore(self.checked or checkpoint.load(out / "checkpoints" / saved))
            self.checked = None
        self.stop_signal: int | None = None
        self.asked_at = 0.0

    # --- start -----------------------------------------------------------------------------------------------------

    def _earlier(self, resume: bool, hold: Hold) -> str | None:
        self.checked = earlier_checkpoint(self.out, resume, hold, self.console.print)
        return self.checked.folder.name if self.checked else None

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        if saved.info.study_hash != self.record.study_hash:
            raise TrainingError(f"{saved.folder} belongs to another run: restore this run's own checkpoints")
        state = saved.state
        if (fault := progress_fault(state)) is not None:
            raise TrainingError(f"{saved.folder} does not say where the run was ({fault}): restore its own checkpoints")
        self.training.load(state, str(saved.folder))
        torch.set_rng_state(state["rng"])
        self.step, self.epochs_logged = saved.info.step, state["epochs_logged"]
        self.best = None if state["best"] == _NONE_YET else state["best"]
        if self.best is not None and not (self.out / "checkpoints" / "best" / "checkpoint.json").exists():
            self.best = None
            self.console.print(f"{self.out}/checkpoints/best is gone: the next evaluation makes a new one")
        self.meter.load(state)
        self.num_lines, self.earlier_seconds = state["num_lines"], state["total_seconds"]
        self.resumes = state.get("resumes", 0) + 1  # checkpoints of before did not count
        self.console.print(f"resuming {self.out} at step {self.step} of {self.num_steps}", highlight=False)

    # --- run -------------------------------------------------------------------------------------------------------

    def run(self) -> BaseModel | None:
        if self.step == self.num_steps and (done := self.ranks.by_first(lambda: finished(self.out))):
            self.console.print(f"{self.out} is finished", highlight=False)
            return done if self.ranks.first else None
        before = self._heed_signals()
        share = self.share
        self.console.print(
            f"global batch {self.config.optim.batch_size}: {share.world_size} x {share.pieces} x {share.piece} "
            f"(ranks, pieces, samples); {self.num_steps:,} steps, {self.config.optim.epochs} epochs, "
            f"{self.task.num_train:,} samples, on {describe_device(self.machine.device)}",
            highlight=False,
            soft_wrap=True,
        )
        if note := slow_precision(self.config, self.machine.device):
            self.console.print(note, soft_wrap=True)
        self.log = log.RunLog(self.config, self.out, self.num_lines, self.step, self.ranks.first)
        if self.ranks.first and self.log.num_lines < self.num_lines:
            lost = self.num_lines - self.log.num_lines
            self.console.print(f"metrics.jsonl lacks {lost} lines that the checkpoint knows of", highlight=False)
        self.progress = log.TrainingProgress(self.console, self.task.label, self.step, self.num_steps)
        self.started = time.perf_counter() - self.earlier_seconds
        self.saved_step = self.step
        watched: AbstractContextManager[Any] = profiler(self.out, self.console) if self.profile else nullcontext()
        try:
            with watched as watch:
                result = self._run(watch)
            for name, handler in before.items():  # there is no step any more after which to stop
                signal.signal(name, handler)
            return result
        except _StopAsked:
            if self.saved_step != self.step:
                self._save()
            number = max(n or 0 for n in self.ranks.gather(self.stop_signal))
            raise Stopped(
                f"stopped by {signal.Signals(number).name} at step {self.step}, saved: add --resume to go on", number
            ) from None
        finally:
            self.progress.close()
            self.log.close()

    def _run(self, watch: Any) -> BaseModel | None:
        loader = self.meter.timed(self.task.loader(self.share, self.step, self.num_steps))
        summary: StepSummary | None = None
        result: BaseModel | None = None
        while True:
            due = self.step % self.config.runtime.checkpoint_every == 0 or self.step == self.num_steps
            if due and self.step != self.saved_step:
                self._save()
            # After the save: an epoch's end that was interrupted is gone through again, evaluation and all.
            if (epoch := self.epochs.done(self.step)) > self.epochs_logged:
                result = self._end_epoch(epoch)
            if summary and summary.stop:
                raise _StopAsked
            if self.step == self.num_steps:
                return result
            before = time.perf_counter()
            pieces = islice(loader, self.share.pieces)
            summary = self.training(pieces, self.step, self.epochs.at(self.step), self.stop_signal is not None)
            self._after_step(summary, time.perf_counter() - before)
            if watch:
                watch.step()

    def _heed_signals(self) -> dict[signal.Signals, Any]:
        """From now on they stop the run after its step; returns what handled them before."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        names = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        return {name: signal.signal(name, self._ask_to_stop) for name in names}

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        # A scheduler's signal comes twice where a launcher passes it on too; an impatient person's Ctrl-C comes later.
        if self.stop_signal == number == signal.SIGINT and time.monotonic() - self.asked_at > 1:
            raise KeyboardInterrupt
        self.stop_signal, self.asked_at = number, time.monotonic()

    def _after_step(self, summary: StepSummary, seconds: float) -> None:
        self.step += 1
        self.meter.add(summary, seconds)
        self.progress.step(self.step)
        if self.step % self.config.runtime.log_every == 0 or self.step == self.num_steps:
            batch = self.config.optim.batch_size
            line = self.meter.line(self.step, self.epochs.at(self.step), self.training.lr, batch)
            self.log.write(line)
            self.progress.note(self.step, line.loss, line.images_per_s, line.data_wait)

    # --- the end of an epoch ---------------------------------------------------------------------------------------

    def _end_epoch(self, epoch: int) -> BaseModel | None:
        """Evaluation, then the figures' parameters, the snapshots and, at the end, what concludes the run.

        Nothing is written before the evaluation is done.
        """
        start, last = time.perf_counter(), epoch == self.config.optim.epochs
        due = epoch > 0 and (last or self.task.is_due(epoch))
        found = self.task.evaluate(self.training.evaluated, self.machine) if due else None
        frozen.train_mode(self.training.model, self.task.frozen)
        if found and not math.isfinite(found.loss):
            raise TrainingError(
                f"the loss of {self.task.label} after epoch {epoch} is {found.loss}: it has diverged. Train again with "
                "a lower optim.lr, in another --out"
            )
        values = self.task.figure_parameters(self.training.evaluated)
        if values:
            self.log.write(ParametersLine(step=self.step, epoch=epoch, values=values))
        if epoch in self.config.runtime.snapshot_epochs:
            self._write_checkpoint(f"epoch-{epoch}", self.training.weights())
        if found:
            self._take_note(epoch, found)
        result = self._conclude(epoch, found) if found and last else None
        self.epochs_logged = epoch
        self.meter.leave_out(time.perf_counter() - start)
        return result

    def _stop_together(self) -> None:
        if self.ranks.any(self.stop_signal is not None):
            raise _StopAsked

    def _take_note(self, epoch: int, found: Found) -> None:
        self.log.write(found.line(self.step, epoch))
        self.progress.say(f"epoch {epoch}: {found}")
        if self.best is None or found.score > self.best:
            self.best = found.score
            self._write_checkpoint("best", self.training.weights())

    def _conclude(self, epoch: int, found: Found) -> BaseModel | None:
        result = self.task.conclude(found, self.out, At(f"step-{self.step}", epoch), self.machine)
        if not self.ranks.first:
            return None
        self.log.write(
            EndLine(
                step=self.step,
                epoch=epoch,
                train_seconds=self.meter.train_seconds,
                total_seconds=time.perf_counter() - self.started,
                resumes=self.resumes,
            )
        )
        log.write_json(self.out, FINAL, result)
        return result

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.log.flush()
        state = (
            self.training.state()
            | self.meter.state()
            | {
                "rng": torch.get_rng_state(),
                "num_lines": self.log.num_lines,
                "epochs_logged": self.epochs_logged,
                "best": _NONE_YET if self.best is None else self.best,
                "resumes": self.resumes,
                "total_seconds": time.perf_counter() - self.started,
            }
        )
        self._write_checkpoint(f"step-{self.step}", state)
        if self.ranks.first:
            checkpoint.prune(self.out, self.config.runtime.keep_checkpoints)
        self.saved_step = self.step

    def _write_checkpoint(self, name: str, state: dict[str, Any]) -> None:
        if self.ranks.first:
            checkpoint.save(
                files.folder_in(self.out, "checkpoints") / name,
                state,
                step=self.step,
                epoch=self.epochs.done(self.step),
                study_hash=self.record.study_hash,
            )
