"""train matrix: Table 3, real against pseudo-depth in training and in testing."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.terminal import print_table
from training.commands.options import Data, HeadChoice, SelectChoice, Settings, console, told, written

if TYPE_CHECKING:
    from training.records import SegmentationEvaluation


def matrix(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Pre-trained runs, which are fine-tuned here, and fine-tuned ones, which are reused."
        ),
    ],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder for matrix.json and the runs that are made.")],
    preset: Annotated[
        str, typer.Option("--preset", help="As for finetune: dformer-nyu, tiny or a TOML file.")
    ] = "dformer-nyu",
    head: Annotated[HeadChoice | None, typer.Option("--head", help="ham (default), pyramid or linear.")] = None,
    select: Annotated[
        SelectChoice | None, typer.Option("--select", help="best-on-val (default) or best-on-test.")
    ] = None,
    settings: Settings = None,
    real: Annotated[
        str, typer.Option("--real", metavar="FIELD", help="Which depth field stands for real: raw, exact, your own.")
    ] = "real",
    pseudo: Annotated[
        str, typer.Option("--pseudo", metavar="FIELD", help="Which stands for pseudo: one that `add` wrote, your own.")
    ] = "pseudo",
    multi_scale: Annotated[
        bool, typer.Option("--multi-scale", help="Test with the recipe's scales and mirrors, as the authors do.")
    ] = False,
) -> None:
    """Table 3: train with real and with pseudo-depth, test each with both, for all models given.

    Fine-tunes every pre-trained run twice into OUT/NAME-real and OUT/NAME-pseudo (a model without depth once), unless
    they are there, then tests. Stopped anywhere, the same line goes on. On a cluster fine-tune first, one job a run,
    and give the fine-tuned runs. Intervals leave each test image out once, the same for all.

    Examples:

        train matrix runs/m3ch runs/mlin runs/m4ch --data nyu-rgbd --out table3

        train matrix nyu/m4ch-real nyu/m4ch-pseudo nyu/dformer-real nyu/dformer-pseudo --data nyu-rgbd --out table3
    """
    import training.tasks.segmentation.matrix
    from pipeline import files
    from training import records
    from training.commands.evaluate import examined
    from training.engine.log import write_json
    from training.engine.results import Target
    from training.runs import load
    from training.tasks.segmentation.table3 import Recipe, fine_tuned, rows_of, tables

    files.check_writable(out / "matrix.json")
    recipe = Recipe(preset, head, select, settings or [], {"real": real, "pseudo": pseudo})
    finished = fine_tuned(runs, data, out, recipe, console)

    def evaluated(run: Path, depth: str) -> "SegmentationEvaluation":
        fix = "copy the run to where it can be written, and give the copy"
        done = examined(Target(run, data, depth, None, "note", told, fix), load(run, "best"), "val", multi_scale)
        assert done is not None and isinstance(done.record, records.SegmentationEvaluation)
        return done.record

    rows = rows_of(finished, data, recipe.fields, evaluated, multi_scale)
    result = training.tasks.segmentation.matrix.matrix(rows, data, recipe.fields)
    for table in tables(result):
        print_table(console, table)
    written(write_json(out, "matrix.json", result))
