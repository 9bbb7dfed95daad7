"""train evaluate: how good a finished run is, on any data, and with noise on its depth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pipeline.terminal import print_table
from training.commands.options import (
    AcceptOther,
    Data,
    NoiseChoice,
    NoiseSeed,
    ResultOut,
    RunFolder,
    Sigmas,
    SplitChoice,
    console,
    meter,
    refuse_ranks,
    tell_of_precision,
    told,
    written,
)

if TYPE_CHECKING:
    from training.engine.results import Target
    from training.engine.task import LoadedRun, Result


def evaluate(
    run: RunFolder,
    data: Data,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint", help="latest, best, epoch-N or step-N; default latest, of a run that labels pixels best."
        ),
    ] = None,
    depth: Annotated[
        str | None, typer.Option("--depth", help="pseudo, real, raw, exact or online; default: the run's.")
    ] = None,
    split: Annotated[SplitChoice, typer.Option("--split", help="train or val (NYU's test images).")] = "val",
    multi_scale: Annotated[
        bool,
        typer.Option(
            "--multi-scale", help="Of a run that labels pixels: also the sum over the recipe's scales and mirrors."
        ),
    ] = False,
    noise: Annotated[
        list[NoiseChoice] | None,
        typer.Option(
            "--noise", help="Add noise to depth: one Gaussian a `pixel`, or one a `patch`; repeat it for both."
        ),
    ] = None,
    sigma: Sigmas = None,
    noise_seed: NoiseSeed = 0,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="TEACHER", help="Of a run of train depth: any teacher's depth beside it."),
    ] = None,
    every_pixel: Annotated[
        bool,
        typer.Option("--every-pixel", help="Of a run of train depth: ask at every pixel that has depth, one by one."),
    ] = False,
    out: ResultOut = None,
    accept_other_depth: AcceptOther = False,
) -> None:
    """Accuracy of a run on a split, every sample once; written to RUN/evaluations/.

    Of a run that classifies top-1, top-5 and mean-class (the mean of the classes' top-1); with --noise top-1 and top-5
    at every sigma, in one pass: how much a model leans on its depth being right. Every model gets the same noise. Of a
    run that labels pixels mIoU, every labelled pixel once, and a contact sheet of predictions to look at. Of a run of
    train depth the errors of metric depth, asked and mapped densely, near depth edges and elsewhere. Depth by
    another teacher, or standardised otherwise than what the run was trained with, is refused: its z means something
    else.

    Examples:

        train evaluate runs/m4ch --data imagenet-rgbd

        train evaluate runs/m4ch --data imagenet-rgbd --noise pixel --noise patch --sigma 0,0.5,1,2

        train evaluate runs/m4ch-nyu-real --data nyu-rgbd --depth pseudo --multi-scale

        train evaluate runs/spd-v15 --data nyu-rgbd --against depth-anything/Depth-Anything-V2-Small-hf
    """
    from training.engine.results import MeasureError, Target
    from training.runs import described, load

    target = Target(run, data, depth, out, "accept" if accept_other_depth else "refuse", told)
    if noise or sigma is not None:
        made_by = described(run)[0].made_by
        if made_by != "train pretrain":
            raise MeasureError(
                f"--noise and --sigma are for runs of train pretrain, {run} is of {made_by}: leave them out"
            )
        _sweeps(target, checkpoint or "latest", split, noise or [], sigma, noise_seed)
        return
    loaded = load(run, checkpoint)
    more = {"against": against, "every_pixel": every_pixel}
    made_by = loaded.task.made_by
    if (against is not None or every_pixel) and made_by != "train depth":
        raise MeasureError(
            f"--against and --every-pixel are for runs of train depth, {run} is of {made_by}: leave them out"
        )
    examined(target, loaded, split, multi_scale, show=True, more=more)


def examined(
    target: "Target",
    loaded: "LoadedRun",
    split: str,
    multi_scale: bool,
    show: bool = False,
    more: "dict[str, Any] | None" = None,
) -> "Result | None":
    """Evaluate, show and write; the first rank's result, the others get None."""
    from training.engine.machine import Machine, choose_device
    from training.engine.ranks import Ranks
    from training.engine.task import Examination

    config = loaded.task.config
    ranks = Ranks.join(choose_device(config)[0].type)
    machine = Machine.here(config, ranks)
    tell_of_precision(machine, config)
    try:
        result = loaded.task.examine(loaded, Examination(target, split, multi_scale, machine, meter, more or {}))
    finally:
        ranks.leave()
    if not ranks.first:
        return None
    for table in (*result.details, *loaded.task.tables(result.record)) if show else ():
        print_table(console, table)
    # Before the record: whoever finds that takes all for done.
    picture = result.draw(result.place) if result.draw else None
    path = target.write(result.place, result.record)
    if show:
        written(f"{path}, to look at: {picture}" if picture else path)
    return result


def _sweeps(target: "Target", checkpoint: str, split: str, kinds: Sequence[str], sigma: str | None, seed: int) -> None:
    """`evaluate` with --noise."""
    from training.engine.machine import Machine
    from training.engine.task import At
    from training.noise.sweep import Noise, NoiseError, parse_kind, parse_sigmas, sweep
    from training.runs import load
    from training.tasks.classification.data import check_classes, open_shards

    refuse_ranks("noise is measured")
    if not kinds:
        raise NoiseError("--sigma needs --noise pixel or --noise patch beside it")
    noises, sigmas = [Noise(parse_kind(kind), seed) for kind in dict.fromkeys(kinds)], parse_sigmas(sigma)
    loaded = load(target.run, checkpoint, "train pretrain")
    config, trained, saved = loaded.task.config, loaded.record.shards, loaded.saved
    field = target.depth or config.data.depth
    if field == "online":
        raise NoiseError("--noise is added to depth of the shards, not to online depth: say which with --depth")
    opened = open_shards(target.data, split, field)
    check_classes(opened, trained.classes_sha256)
    other = target.opened(trained, opened, field)
    machine = Machine.here(config)
    tell_of_precision(machine, config)
    for noise in noises:
        with meter("evaluate", len(opened)) as advance:
            result = sweep(
                loaded.model.to(machine.device), opened, config, field, machine, noise, sigmas,
                at=At.of(saved), other_depth=other, advance=advance,
            )  # fmt: skip
        table = Table("sigma", "top-1", "top-5", "loss", title=f"{result.model}, {field} depth, {noise.kind} noise")
        for row in zip(result.sigmas, result.top1, result.top5, result.loss, strict=True):
            table.add_row(f"{row[0]:g}", f"{row[1]:.2%}", f"{row[2]:.2%}", f"{row[3]:.4f}")
        print_table(console, table)
        name = f"noise-{noise.kind}-{split}-{field}-{saved.name}"
        written(target.write(target.place(name, trained, opened), result))
