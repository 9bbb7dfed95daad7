"""train: evaluate | gap | matrix. What finished runs are asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pipeline.errors import UserError
from pipeline.terminal import print_table
from training.commands.options import (
    AcceptOther,
    CheckpointName,
    Data,
    RunFolder,
    Settings,
    classes_table,
    console,
    foreign_name,
    meter,
    refuse_ranks,
    result_table,
    segmentation_table,
    told,
    written,
)

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from pipeline.shards import Split
    from training.provenance import AcceptOtherDepth
    from training.records import Gap, SegmentationEvaluation, ShardsSeen
    from training.runs import AnyConfig


class MeasureError(UserError):
    """What was asked does not suit the run; one line that names the fix."""


Sigmas = Annotated[
    str | None,
    typer.Option(
        "--sigma", metavar="LIST", show_default="0,0.05,0.1,0.2,0.3,0.5,0.75,1,1.5,2,3",
        help="Strengths of the noise, in units of z (standard deviations of the data set's depth).",
    ),
]  # fmt: skip
ResultOut = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the result; default RUN/evaluations. For a run that cannot be written to."),
]
NoiseSeed = Annotated[int, typer.Option("--noise-seed", min=0, help="Another draw of the noise.")]


def evaluate(
    run: RunFolder,
    data: Data,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", help="latest, best, epoch-N or step-N; default latest, of a fine-tuned run best."),
    ] = None,
    depth: Annotated[
        str | None, typer.Option("--depth", help="pseudo, real, raw, exact or online; default: the run's.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train or val (NYU's test images).")] = "val",
    multi_scale: Annotated[
        bool,
        typer.Option("--multi-scale", help="Of a fine-tuned run: also the sum over the recipe's scales and mirrors."),
    ] = False,
    noise: Annotated[
        list[str] | None,
        typer.Option(
            "--noise", help="Add noise to depth: one Gaussian a `pixel`, or one a `patch`; repeat it for both."
        ),
    ] = None,
    sigma: Sigmas = None,
    noise_seed: NoiseSeed = 0,
    out: ResultOut = None,
    accept_other_depth: AcceptOther = False,
) -> None:
    """Accuracy of a run on a split, every sample once; written to RUN/evaluations/.

    Of a pre-trained run top-1 and top-5; with --noise at every sigma, in one pass: how much a model leans on its depth
    being right. Every model gets the same noise. Of a fine-tuned run mIoU, every labelled pixel once, and a contact
    sheet of predictions to look at. Depth by another teacher, or standardised otherwise than what the run was trained
    with, is refused: its z means something else.

    Examples:

        train evaluate runs/m4ch --data imagenet-rgbd

        train evaluate runs/m4ch --data imagenet-rgbd --noise pixel --noise patch --sigma 0,0.5,1,2

        train evaluate runs/m4ch-nyu-real --data nyu-rgbd --depth pseudo --multi-scale
    """
    from training.records import RunRecord, parse

    target = _Target(run, data, depth, out, "accept" if accept_other_depth else "refuse")
    if parse(RunRecord, run / "run.json").task == "segmentation":
        if noise or sigma is not None:
            raise MeasureError(f"--noise and --sigma are for pre-trained runs, {run} is fine-tuned: leave them out")
        segmentation(target, checkpoint or "best", split, multi_scale, say=True)
        return
    if multi_scale:
        raise MeasureError(f"--multi-scale is for fine-tuned runs, {run} is pre-trained: leave it out")
    if noise or sigma is not None:
        _sweeps(target, checkpoint or "latest", split, noise or [], sigma, noise_seed)
    else:
        _classification(target, checkpoint or "latest", split)


@dataclass(frozen=True)
class _Target:
    """What is measured on what, and where the result goes: `out`, or RUN/evaluations."""

    run: Path
    data: str
    depth: str | None
    out: Path | None
    other_depth: "AcceptOtherDepth"
    fix: str = "give the result a place with --out FOLDER"

    def opened(self, trained: "ShardsSeen", split: "Split", field: str) -> list[str]:
        """Look at the data's depth, and whether the result could be written, before any work; how it differs."""
        from pipeline import files
        from training.provenance import check

        if not self.out:
            files.refuse_links(self.run, "evaluations")
        try:
            files.check_writable((self.out or self.run / "evaluations") / "x.json")
        except files.WriteError as error:
            place, why = self.out or f"{self.run}/evaluations", getattr(error.__cause__, "strerror", error)
            raise MeasureError(f"cannot write to {place} ({why}): {self.fix}") from error
        return check(trained, split.index, self.data, field, self.other_depth, told)

    def place(self, name: str, *foreign: "Split") -> Path:
        """Where the result NAME lies, less its ending; with the name of the data in it where they are not the run's."""
        from pipeline import files

        folder = files.folder_in(self.out) if self.out else files.folder_in(self.run, "evaluations")
        return folder / (name + "".join(f"-{foreign_name(split)}" for split in foreign[:1]))

    def write(self, name: str, result: "BaseModel", *foreign: "Split") -> Path:
        """Write the result as NAME.json, whole or not at all."""
        from training.engine.log import write_json

        place = self.place(name, *foreign)
        return write_json(place.parent, f"{place.name}.json", result)


def _foreign(trained: "ShardsSeen", split: "Split") -> "list[Split]":
    """The split, where the run was neither trained nor validated on it."""
    own = {"train": trained.train_fingerprint, "val": trained.val_fingerprint}
    return [] if own[split.index.split] == split.index.fingerprint else [split]


def _classification(target: _Target, checkpoint: str, split: str) -> None:
    from training.engine.ranks import Ranks
    from training.loading.data import check_classes, open_shards
    from training.runs import choose_device, load_model
    from training.tasks.classification.evaluate import as_evaluation
    from training.tasks.classification.evaluate import evaluate as measured
    from training.tasks.classification.online import OnlineDepth

    config, described, saved, model = load_model(target.run, checkpoint)
    field = target.depth or config.data.depth
    opened = open_shards(target.data, split, field)
    check_classes(opened, described.shards.classes_sha256)
    other = target.opened(described.shards, opened, field)
    ranks = Ranks.join(choose_device(config)[0].type)
    device, autocast = choose_device(config, ranks.local_rank)
    _tell_of_precision(config, device)
    try:
        with meter("evaluate", len(opened)) as advance:
            teacher = OnlineDepth(config, device) if field == "online" else None
            outcome = measured(
                model.to(device), opened, config, field, device, autocast, ranks=ranks, teacher=teacher,
                advance=advance,
            )  # fmt: skip
    finally:
        ranks.leave()
    if not ranks.first:
        return
    result = as_evaluation(outcome, config, opened, field, saved.name, saved.info.epoch, other)
    result_table(result.model, field, result.num_samples, result.top1, result.top5)
    name = f"{split}-{field}-{saved.name}"
    written(target.write(name, result, *_foreign(described.shards, opened)))


def segmentation(
    target: _Target, checkpoint: str, split: str, multi_scale: bool, say: bool = False
) -> "SegmentationEvaluation":
    """Evaluate a fine-tuned run; the record and a contact sheet are written by the first rank."""
    from training.engine.ranks import Ranks
    from training.runs import choose_device, load_segmenter
    from training.tasks.segmentation.data import check_labels, open_labelled, whole
    from training.tasks.segmentation.evaluate import as_evaluation
    from training.tasks.segmentation.evaluate import evaluate as measured
    from training.tasks.segmentation.sheet import Sheet

    config, described, saved, model = load_segmenter(target.run, checkpoint)
    field = target.depth or config.data.depth
    opened = open_labelled(target.data, split, field)
    check_labels(opened, described.shards.classes_sha256)
    other = target.opened(described.shards, opened, field)
    ranks = Ranks.join(choose_device(config)[0].type)
    device, autocast = choose_device(config, ranks.local_rank)
    _tell_of_precision(config, device)
    scales = config.test.scales if multi_scale else ()
    sheet = Sheet(list(opened.index.seg_names), len(opened))
    try:
        with meter("evaluate", len(opened)) as advance:
            outcome = measured(
                model.to(device), whole(opened), config, field, device, autocast, scales=scales, ranks=ranks,
                advance=advance, look=sheet.look,
            )  # fmt: skip
        sheet.rows = {place: row for rows in ranks.gather(sheet.rows) for place, row in rows.items()}
    finally:
        ranks.leave()
    result = as_evaluation(outcome, config, opened, field, saved, scales, other)
    if not ranks.first:
        return result
    if say:
        classes_table(result)
        segmentation_table(result)
    name = f"{split}-{field}-{saved.name}{'-multi' if multi_scale else ''}"
    foreign = _foreign(described.shards, opened)
    trained = f"{result.model}, trained with {described.shards.depth_field} depth"
    scores = result.multi or result.single
    views = f", {2 * len(scales)} views summed" if result.multi else ""
    place = target.place(name, *foreign)
    picture = place.with_name(f"{place.name}.png")
    # Before the record: whoever finds that takes all for done.
    sheet.write(picture, f"{trained}, on {split} with {field}{views}: mIoU {scores.miou:.1%}")
    path = target.write(name, result, *foreign)
    if say:
        written(f"{path}, to look at: {picture}")
    return result


def gap(
    run: RunFolder,
    data: Annotated[
        str, typer.Option("--data", help="Shards with pseudo and sensor depth (precompute-depth nyu): a folder or URL.")
    ],
    checkpoint: CheckpointName = "latest",
    real: Annotated[str, typer.Option("--real", help="real (holes filled) or raw (as measured).")] = "real",
    sigma: Sigmas = None,
    noise_seed: NoiseSeed = 0,
    out: ResultOut = None,
) -> None:
    """How strong noise on pseudo-depth would have to be to move the model as far as real depth does.

    sigma* is that strength: 0 where real depth is as good as pseudo-depth to this model, large where it is something
    else altogether. `train evaluate --noise` at sigma* says what such a shift costs in accuracy. Uses every image of
    train and val, whole; classes are not needed. Written to RUN/evaluations/.

    Examples:

        precompute-depth nyu nyu_depth_v2_labeled.mat nyu-rgbd --stats-from imagenet-rgbd

        train gap runs/m4ch --data nyu-rgbd

        train gap runs/m4ch --data nyu-rgbd --real raw --sigma 0,0.25,0.5,1,2,4,8
    """
    from training.noise.gap import as_record, measure, measure_inverse, open_pairs
    from training.noise.sweep import NoiseError, parse_sigmas
    from training.provenance import check_splits
    from training.runs import choose_device, load_model

    refuse_ranks("the gap is measured")
    target = _Target(run, data, None, out, "note")
    sigmas = sorted({0.0, *parse_sigmas(sigma)})
    if len(sigmas) == 1:
        raise NoiseError(f"--sigma must hold a number above 0, got {sigma}")
    config, described, saved, model = load_model(run, checkpoint)
    splits = open_pairs(data, real)
    for split in splits[1:]:
        check_splits(splits[0], split, "pseudo")
    other = target.opened(described.shards, splits[0], "pseudo")
    count, device = sum(map(len, splits)), choose_device(config)[0]
    with meter("mean and std of 1/d", count) as advance:
        inverse = measure_inverse(splits, config, real, advance)
    with meter("gap", count) as advance:
        moved = measure(model.to(device), splits, config, real, inverse, device, sigmas, noise_seed, advance)
    name = saved.name
    result = as_record(moved, splits, config, real, inverse, sigmas, noise_seed, name, saved.info.epoch, other)
    _gap_table(result)
    written(target.write(f"gap-{real}-{name}", result, *_foreign(described.shards, splits[-1])))


def _sweeps(target: _Target, checkpoint: str, split: str, kinds: list[str], sigma: str | None, seed: int) -> None:
    """`evaluate` with --noise."""
    from training.loading.data import check_classes, open_shards
    from training.noise.sweep import Noise, NoiseError, parse_kind, parse_sigmas, sweep
    from training.runs import choose_device, load_model

    refuse_ranks("noise is measured")
    if not kinds:
        raise NoiseError("--sigma needs --noise pixel or --noise patch beside it")
    noises, sigmas = [Noise(parse_kind(kind), seed) for kind in dict.fromkeys(kinds)], parse_sigmas(sigma)
    config, described, saved, model = load_model(target.run, checkpoint)
    field = target.depth or config.data.depth
    if field == "online":
        raise NoiseError("--noise is added to depth of the shards, not to online depth: say which with --depth")
    opened = open_shards(target.data, split, field)
    check_classes(opened, described.shards.classes_sha256)
    other = target.opened(described.shards, opened, field)
    device, autocast = choose_device(config)
    _tell_of_precision(config, device)
    for noise in noises:
        with meter("evaluate", len(opened)) as advance:
            result = sweep(
                model.to(device), opened, config, field, device, autocast, noise, sigmas,
                checkpoint=saved.name, epoch=saved.info.epoch, other_depth=other, advance=advance,
            )  # fmt: skip
        table = Table("sigma", "top-1", "top-5", "loss", title=f"{result.model}, {field} depth, {noise.kind} noise")
        for row in zip(result.sigmas, result.top1, result.top5, result.loss, strict=True):
            table.add_row(f"{row[0]:g}", f"{row[1]:.2%}", f"{row[2]:.2%}", f"{row[3]:.4f}")
        print_table(console, table)
        name = f"noise-{noise.kind}-{split}-{field}-{saved.name}"
        written(target.write(name, result, *_foreign(described.shards, opened)))


def _tell_of_precision(config: "AnyConfig", device: "torch.device") -> None:
    from training.runs import slow_precision

    if note := slow_precision(config, device):
        told(note)


def _gap_table(result: "Gap") -> None:
    top = f"{result.sigmas[-1]:g}"

    def shown(sigma: float | None) -> str:
        return f"above {top}" if sigma is None else f"{sigma:.3f}"

    table = Table(
        "noise", "real depth as", "f", "e*", "sigma*", "95 % of resamples",
        title=f"{result.model}, pseudo to {result.real_field} depth, {result.num_images:,} images",
    )  # fmt: skip
    for c in result.crossings:
        reading = "z" if c.reading == "z" else "-1/d"
        within = shown(c.low) if c.low == c.high else f"{shown(c.low)} to {shown(c.high)}"
        found = ("undefined", "") if c.undefined else (shown(c.sigma_star), within)
        table.add_row(c.noise, reading, c.output, f"{c.e_star:.4g}", *found)
    print_table(console, table)
    if any(c.undefined for c in result.crossings):
        console.print("sigma* is undefined: what this model says does not change with depth", highlight=False)
    elif any(c.sigma_star is None for c in result.crossings):
        console.print(f"real depth moves it farther than noise of {top} does: give larger --sigma", highlight=False)


def matrix(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Pre-trained runs, which are fine-tuned here, and fine-tuned ones, which are reused."
        ),
    ],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder for matrix.json and the runs that are made.")],
    preset: Annotated[str, typer.Option("--preset", help="As for finetune: dformer-nyu or tiny.")] = "dformer-nyu",
    head: Annotated[str | None, typer.Option("--head", help="ham (default), pyramid or linear.")] = None,
    select: Annotated[str | None, typer.Option("--select", help="best-on-val (default) or best-on-test.")] = None,
    settings: Settings = None,
    multi_scale: Annotated[
        bool, typer.Option("--multi-scale", help="Test with the recipe's scales and mirrors, as the authors do.")
    ] = False,
) -> None:
    """Table 3: train with real and with pseudo-depth, test each with both, for all models given.

    Fine-tunes every pre-trained run twice into OUT/NAME-real and OUT/NAME-pseudo (a model without depth once), unless
    they are there, then tests. Stopped anywhere, the same line goes on. On a cluster fine-tune first, one job a run,
    and give the fine-tuned runs. Intervals resample the test images, the same for all.

    Examples:

        train matrix runs/m3ch runs/mlin runs/m4ch --data nyu-rgbd --out table3

        train matrix nyu/m4ch-real nyu/m4ch-pseudo nyu/dformer-real nyu/dformer-pseudo --data nyu-rgbd --out table3
    """
    from pipeline import files
    from training.engine.log import write_json
    from training.tasks.segmentation.matrix import matrix as made
    from training.tasks.segmentation.table3 import Recipe, fine_tuned, rows_of, tables

    files.check_writable(out / "matrix.json")
    recipe = Recipe(preset, head, select, settings or [])
    finished = fine_tuned(runs, data, out, recipe, console)

    def evaluated(run: Path, depth: str) -> "SegmentationEvaluation":
        fix = "copy the run to where it can be written, and give the copy"
        return segmentation(_Target(run, data, depth, None, "note", fix), "best", "val", multi_scale)

    rows = rows_of(finished, data, evaluated, multi_scale)
    result = made(rows, data)
    for table in tables(result):
        print_table(console, table)
    written(write_json(out, "matrix.json", result))
