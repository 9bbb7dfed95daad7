"""Table 3 of a study: fine-tunings of its runs, with several seeds where asked for, and the matrix over them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline import shards
from pipeline.shards import Split
from training.commands import matrix
from training.commands.options import console
from training.models.registry import NO_DEPTH
from training.records import Matrix, parse
from training.study.config import MatrixOptions
from training.study.stages import StudyRun
from training.tasks.segmentation.config import FinetuneConfig, resolve
from training.tasks.segmentation.data import open_labelled
from training.tasks.segmentation.matrix import DEPTHS
from training.tasks.segmentation.table3 import Recipe, fine_tuned


class TuningRow(NamedTuple):
    """A pre-trained run and the seed it is fine-tuned with."""

    run: StudyRun
    seed: int


@dataclass(frozen=True)
class Table3:
    """`folder` holds matrix.json, and under seed-N what was fine-tuned with that seed."""

    folder: Path
    options: MatrixOptions
    rows: tuple[TuningRow, ...]

    def settings(self, seed: int) -> list[str]:
        return [*self.options.settings, f"seed={seed}"]

    def configs(self) -> Iterator[tuple[Path, FinetuneConfig]]:
        """Every fine-tuning, and its folder."""
        num_classes = len(open_labelled(self.options.data, "train").index.seg_names)
        for run, seed in self.rows:
            model = run.config.model
            for depth in DEPTHS[:1] if model.name == NO_DEPTH else DEPTHS:
                config = resolve(
                    self.options.preset, model.model_dump(mode="json"), self.settings(seed), num_classes=num_classes,
                    init=str(run.folder), depth=depth,
                )  # fmt: skip
                yield self.folder / f"seed-{seed}" / f"{run.folder.name}-{depth}", config

    def splits(self) -> list[Split]:
        """The data, with either depth: DataError where they lack one."""
        return [open_labelled(self.options.data, split, depth) for split in shards.SPLITS for depth in DEPTHS]

    def is_there(self) -> bool:
        if not (self.folder / "matrix.json").exists():
            return False
        found = parse(Matrix, self.folder / "matrix.json")
        rows = {(run.folder.name, run.config.model.name, seed) for run, seed in self.rows}
        whole = all((folder / "run.json").exists() for folder, _ in self.configs())
        fingerprint = open_labelled(self.options.data, "val").index.fingerprint
        there = {(cell.name, cell.model, cell.seed) for cell in found.cells}
        return whole and (found.fingerprint, there) == (fingerprint, rows)

    def make(self) -> None:
        tuned = []
        for seed in dict.fromkeys(seed for _, seed in self.rows):
            runs = [run.folder for run, own in self.rows if own == seed]
            recipe = Recipe(self.options.preset, None, None, self.settings(seed))
            made = fine_tuned(runs, self.options.data, self.folder / f"seed-{seed}", recipe, console)
            tuned += [each.folder for each in made]
        matrix.matrix(tuned, self.options.data, self.folder)
