"""Metrics for dashboards, beside metrics.jsonl: TensorBoard in RUN/tensorboard; W&B or trackio where asked for."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pipeline import files
from training.config import ConfigError, StudyConfig
from training.records import EndLine, MetricsLine, ParametersLine, ScoresLine

_PROJECT = "pseudodepth"


class Tracker(Protocol):
    def log(self, values: dict[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    def __init__(self, out: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Hides what an earlier life of the run logged from this step on, as metrics.jsonl drops it.
        self._writer = SummaryWriter(str(files.folder_in(out, "tensorboard")), purge_step=resume_step)

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbLike:
    """Weights & Biases, or trackio, which speaks the same language."""

    def __init__(self, module: str, out: Path, config: StudyConfig) -> None:
        self._module: Any = import_module(module)
        # The run's own name makes a resumed run go on in the same curves.
        settings: dict[str, Any] = {"name": out.name, "config": config.model_dump(mode="json"), "resume": "allow"}
        if module == "wandb":
            settings |= {"id": f"{out.name}-{config.study_hash()}", "dir": str(out)}
        self._module.init(project=_PROJECT, **settings)

    def log(self, values: dict[str, float], step: int) -> None:
        self._module.log(values, step=step)

    def close(self) -> None:
        self._module.finish()


def check_trackers(config: StudyConfig) -> None:
    """Refuse what is not installed, before anything is done."""
    for name in config.runtime.loggers:
        if find_spec(name) is None:
            raise ConfigError(f"runtime.loggers: {name} is not installed: pip install {name}, or leave it out")


def open_trackers(config: StudyConfig, out: Path, resume_step: int) -> list[Tracker]:
    return [
        TensorBoard(out, resume_step) if name == "tensorboard" else WandbLike(name, out, config)
        for name in config.runtime.loggers
    ]


def scalars(line: MetricsLine) -> dict[str, float]:
    """`train/loss` and so on: every number of a line that makes a curve."""
    if isinstance(line, ParametersLine):
        return {
            f"parameters/{name}/{block}": value
            for name, values in line.values.items()
            for block, value in enumerate(values)
            if isinstance(value, float)
        }
    if isinstance(line, EndLine):
        return {}
    fields = line.model_dump(exclude={"kind", "step", "scores"}) | (line.scores if isinstance(line, ScoresLine) else {})
    return {f"{line.kind}/{name}": float(value) for name, value in fields.items() if value is not None}
