"""What becomes of a run of a study: STAGES, in their order. Each makes what is missing by the command of its name.

A stage is there when its files are, and are those asked for. A new one is a line in STAGES and its two functions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import training.commands.dump
import training.commands.evaluate
import training.commands.gap
from pipeline import files
from pipeline.errors import UserError
from training.commands.options import NoiseChoice, console
from training.dumping.dump import counts
from training.dumps.store import DumpError, open_dump
from training.engine import checkpoint
from training.engine.loop import train
from training.engine.resume import finished
from training.noise.gap import open_pairs, pseudo_of
from training.noise.sweep import SIGMAS
from training.records import AnyEvaluation, Gap, NoiseSweep, RecordError, read_evaluation
from training.study.config import StudyFile
from training.tasks.classification.config import Config
from training.tasks.classification.data import open_shards
from training.tasks.classification.task import PreTraining


@dataclass(frozen=True)
class StudyRun:
    """A pre-training run in `folder`, which has its name, and what shall become of it."""

    folder: Path
    config: Config
    stages: Sequence[str]
    checkpoints: Sequence[str]  # dumped beside the last


def pretrained(study: StudyFile, run: StudyRun) -> bool:
    return is_finished(run.folder)


def is_finished(folder: Path) -> bool:
    return (folder / "run.json").exists() and finished(folder) is not None


def pretrain(study: StudyFile, run: StudyRun) -> None:
    train(PreTraining(run.config), study.data, run.folder, resume=True, console=console)


# --- dumps -------------------------------------------------------------------------------------------------------


class AskedDump(NamedTuple):
    """A dump; numbers as `train dump` takes them."""

    checkpoint: str
    raw: int
    causal: int


def asked(study: StudyFile, run: StudyRun) -> list[AskedDump]:
    beside = [AskedDump(checkpoint, 0, 0) for checkpoint in run.checkpoints]
    return [AskedDump("latest", study.dump.raw, study.dump.causal), *beside]


def missing_dumps(study: StudyFile, run: StudyRun) -> Iterator[AskedDump]:
    split = open_shards(study.data, "val", run.config.data.depth)
    for one in asked(study, run):
        try:
            info = open_dump(_place(run, one)).info
        except DumpError:
            yield one
            continue
        found = (info.num_images, info.num_raw, info.num_causal)
        sha256 = checkpoint.read_info(checkpoint.find(run.folder, one.checkpoint)).sha256
        if (info.checkpoint_sha256, info.fingerprint, *found) != (
            sha256, split.index.fingerprint, *counts(split, study.dump.images, one.raw, one.causal)
        ):  # fmt: skip
            yield one


def _place(run: StudyRun, one: AskedDump) -> Path:
    return run.folder / "dumps" / f"{one.checkpoint}.zarr"


def dumped(study: StudyFile, run: StudyRun) -> bool:
    return not list(missing_dumps(study, run))


def dump(study: StudyFile, run: StudyRun) -> None:
    for one in missing_dumps(study, run):
        _take_away_other(_place(run, one), run)
        training.commands.dump.dump(
            run.folder, study.data, checkpoint=[one.checkpoint], images=study.dump.images, raw=one.raw,
            causal=one.causal,
        )  # fmt: skip


def _take_away_other(place: Path, run: StudyRun) -> None:
    """This run's whole dump of other numbers: `train dump` would not replace more by less."""
    try:
        found = open_dump(place).info
    except DumpError:
        return  # for `train dump` to say
    if (found.run, found.study_hash) == (run.folder.name, run.config.study_hash()):
        files.take_away(place)


# --- noise and gap -----------------------------------------------------------------------------------------------


def _evaluations(run: StudyRun) -> Iterator[AnyEvaluation]:
    """What was measured on the last checkpoint; a damaged file is not there."""
    latest = checkpoint.find(run.folder, "latest").name
    for path in files.listed(run.folder / "evaluations", ".json"):
        try:
            found = read_evaluation(path)
        except RecordError:
            continue
        if found.checkpoint == latest:
            yield found


def missing_noise(study: StudyFile, run: StudyRun) -> list[NoiseChoice]:
    depth = run.config.data.depth
    fingerprint = open_shards(study.data, "val", depth).index.fingerprint
    there = {
        each.noise
        for each in _evaluations(run)
        if isinstance(each, NoiseSweep)
        and (each.fingerprint, each.depth_field, each.noise_seed, tuple(each.sigmas)) == (fingerprint, depth, 0, SIGMAS)
    }
    return [NoiseChoice(kind) for kind in study.noise if kind not in there]


def has_noise(study: StudyFile, run: StudyRun) -> bool:
    return not missing_noise(study, run)


def noise(study: StudyFile, run: StudyRun) -> None:
    training.commands.evaluate.evaluate(run.folder, study.data, noise=missing_noise(study, run))


def has_gap(study: StudyFile, run: StudyRun) -> bool:
    assert study.pairs is not None
    pseudo = pseudo_of(study.pairs, run.config.data.depth)
    wanted = {split.index.split: split.index.fingerprint for split in open_pairs(study.pairs, "real", pseudo)}
    return any(
        isinstance(each, Gap)
        and (each.fingerprints, each.real_field, each.pseudo_field, each.noise_seed) == (wanted, "real", pseudo, 0)
        and tuple(each.sigmas) == SIGMAS
        for each in _evaluations(run)
    )  # fmt: skip


def gap(study: StudyFile, run: StudyRun) -> None:
    assert study.pairs is not None
    training.commands.gap.gap(run.folder, study.pairs)


# --- the table ---------------------------------------------------------------------------------------------------


class Stage(NamedTuple):
    is_there: Callable[[StudyFile, StudyRun], bool]
    make: Callable[[StudyFile, StudyRun], None]


STAGES = {
    "pretrain": Stage(pretrained, pretrain),  # always
    "dump": Stage(dumped, dump),
    "noise": Stage(has_noise, noise),
    "gap": Stage(has_gap, gap),
}


def is_there(test: Callable[[], bool]) -> bool:
    """Not, where it cannot be read: whoever makes it says why."""
    try:
        return test()
    except UserError:
        return False
