"""precompute-depth: imagenet | nyu | folder | toyrooms | digits | verify | inspect.

Heavy imports happen inside the commands.
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import errors
from pipeline.options import JobOptions, for_repair, labelling
from pipeline.teachers import DEFAULT_TEACHER, open_teacher
from pipeline.terminal import make_console

if TYPE_CHECKING:
    from pipeline.sources import Source

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Stage 1: photographs in, RGB-D shards out. A teacher estimates depth for every image, once.\n\n"
    "Start with `precompute-depth folder PHOTOS OUT --teacher toy`, then `precompute-depth inspect OUT`.",
)
console = make_console()

Out = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="Folder or fsspec URL (s3://...) to write: train/ and val/ with tars and an index.json each.",
    ),
]
Shards = Annotated[str, typer.Argument(metavar="SHARDS", help="A folder or URL written by precompute-depth.")]
ShortSide = Annotated[
    int, typer.Option("--short-side", min=0, help="Shrink so that the short side is this; 0 keeps the size.")
]


@labelling(app)
def imagenet(
    src: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="Folder that holds ImageNet-1k: the official tars, train/ and val/ folders, Kaggle's, the hub's "
            "parquet, or WebDataset tars.",
        ),
    ],
    out: Out,
    split: Annotated[
        str, typer.Option("--split", help="train or val; label train first, val then shares its constants.")
    ],
    layout: Annotated[
        str, typer.Option("--layout", help="auto, or official, folders, kaggle, parquet or webdataset.")
    ] = "auto",
    short_side: ShortSide = 384,
    *,
    job: JobOptions,
) -> None:
    """Label ImageNet-1k as it lies on your disk; nothing needs unpacking.

    Interrupt it whenever you like: the same line again finishes what is missing, to the same bytes. Start it on as many
    GPUs as you have (torchrun, srun, a SLURM array, or --rank and --world-size): the bytes stay the same.

    Examples:

        precompute-depth imagenet /data/imagenet imagenet-rgbd --split train --short-side 256 --batch-size 128 --dry-run

        torchrun --nproc-per-node 8 -m pipeline.cli imagenet /data/imagenet imagenet-rgbd --split train

        precompute-depth imagenet /data/imagenet imagenet-rgbd --split val
    """
    from pipeline.sources.imagenet import ImageNet

    _refuse_inside(src, out)
    source = ImageNet(src, split, short_side, max(1, job.samples_per_shard // 10), layout)
    _label(source, out, job)


@labelling(app, samples_per_shard=100, batch_size=16)
def nyu(
    src: Annotated[Path, typer.Argument(metavar="MAT", help="nyu_depth_v2_labeled.mat as its authors publish it.")],
    out: Out,
    *,
    job: JobOptions,
) -> None:
    """Label NYUDepthV2: RGB, sensor depth with holes filled (real) and as measured (raw), pseudo-depth, 40 classes.

    Writes the standard 795 training and 654 test images (as val) at full size, RGB as PNG.

    Examples:

        precompute-depth nyu nyu_depth_v2_labeled.mat nyu-rgbd --stats-from imagenet-rgbd

        precompute-depth inspect nyu-rgbd
    """
    from pipeline.sources.nyu import Nyu

    _label(Nyu(src), out, job)


@labelling(app)
def folder(
    src: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="Folder of images; SRC/CLASS/*.jpg gives classes, SRC/train/ and SRC/val/ splits."
        ),
    ],
    out: Out,
    short_side: ShortSide = 384,
    val_fraction: Annotated[float, typer.Option("--val-fraction", help="Share of images for val, by name hash.")] = 0.1,
    *,
    job: JobOptions,
) -> None:
    """Label any folder of photographs.

    Interrupt it whenever you like: the same line again finishes what is missing, to the same bytes. Images that cannot
    be read are listed as rejects with a reason and the job goes on.

    Examples:

        precompute-depth folder photos photos-rgbd --teacher toy

        precompute-depth folder photos photos-rgbd --short-side 256 --batch-size 128 --workers 16
    """
    from pipeline.sources.folder import Folder

    _refuse_inside(src, out)
    _label(Folder(src, short_side, val_fraction), out, job)


@labelling(app, teacher="toy", batch_size=64)
def toyrooms(
    out: Out,
    samples: Annotated[int, typer.Option("--samples", help="Training scenes.")] = 6000,
    val_samples: Annotated[int, typer.Option("--val-samples", help="Validation scenes.")] = 2000,
    size: Annotated[int, typer.Option("--size", help="Width and height in pixels.")] = 64,
    camouflage: Annotated[
        float, typer.Option("--camouflage", help="0: objects plain in RGB; 1: seen in depth only.")
    ] = 0.5,
    *,
    job: JobOptions,
) -> None:
    """Render procedural rooms with exact depth, a simulated depth sensor, classes and labels.

    The data set of the demo: everything can be tried on it in minutes, and the truth is known. --seed also chooses the
    rooms.

    Examples:

        precompute-depth toyrooms rooms

        precompute-depth toyrooms teacher-rooms --teacher none --samples 120000 --seed 1000
    """
    from pipeline.scenes import SceneConfig
    from pipeline.sources import SourceError
    from pipeline.sources.toyrooms import ToyRooms

    try:
        scene = SceneConfig(size_px=size, camouflage=camouflage)
    except ValueError as error:
        raise SourceError(str(error)) from None
    _label(ToyRooms(samples, val_samples, job.seed, scene), out, job)


@labelling(app, teacher="toy", batch_size=64)
def digits(
    out: Out,
    samples: Annotated[int, typer.Option("--samples", help="Training images.")] = 6000,
    val_samples: Annotated[int, typer.Option("--val-samples", help="Validation images, of other glyphs.")] = 1000,
    size: Annotated[int, typer.Option("--size", help="Width and height in pixels.")] = 64,
    *,
    job: JobOptions,
) -> None:
    """Render red and blue digits that overlap: which is on top shows in depth and not at all in RGB.

    The smallest problem in which depth matters. Labels (seg) are colour XOR parity of the digit on top, the class is
    its colour and value. Pseudo-depth cannot know the order, real and exact depth do. --seed also chooses the images.

    Examples:

        precompute-depth digits digits

        precompute-depth inspect digits

        train pretrain --preset tiny --model m4ch --data digits --out runs/digits --set data.depth=real \
          --set augment.flip=0.0 --set optim.epochs=30 --set optim.lr=1e-3
    """
    from pipeline.digits import DigitsConfig
    from pipeline.sources import SourceError
    from pipeline.sources.digits import Digits

    try:
        picture = DigitsConfig(size_px=size)
    except ValueError as error:
        raise SourceError(str(error)) from None
    _label(Digits(samples, val_samples, job.seed, picture), out, job)


@app.command()
def verify(
    shards: Shards,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make the damaged shards again, and only those, from the source.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before the recorded command runs (for scripts; --repair only).")
    ] = False,
) -> None:
    """Read every byte of every shard again and compare it with the index; names each damaged shard and sample.

    With --repair the command that made the shards runs again for what is damaged: it stands in the shards' own plan, so
    it is shown first, and runs once you agree (or with --yes). It needs the source and the teacher where they were;
    where they have moved, run that command yourself: it sees the marks and does the same.

    Examples:

        precompute-depth verify imagenet-rgbd

        precompute-depth verify imagenet-rgbd --repair
    """
    from pipeline.verify import commands, mark, restore_constants
    from pipeline.verify import verify as check

    found = check(shards, console)
    agreed: list[list[str]] = []
    for _ in range(3):  # a lost index hides what is wrong with its shards until it is there again
        for problem in found.problems:
            console.print(problem, style="red", soft_wrap=True)
        if not (found.problems and repair):
            break
        lines = [for_repair(line, shards) for line in commands(shards)]
        _agree([line for line in lines if line not in agreed], yes)
        agreed += lines
        restore_constants(shards)
        mark(shards, found)
        for line in lines:
            if app(line, standalone_mode=False) == errors.INTERRUPTED:
                raise KeyboardInterrupt
        before, found = found.problems, check(shards, console)
        if found.problems == before:
            break
    if found.problems:
        fix = (
            "it could not be repaired" if repair else "mend it with --repair, or run the job again if it is unfinished"
        )
        console.print(f"{len(found.problems)} problem(s) in {shards}: {fix}", soft_wrap=True)
        sys.exit(1)
    console.print(
        f"{shards}: {found.num_samples:,} samples in {found.num_shards:,} shards, all as the index says",
        soft_wrap=True,
    )


def _agree(lines: list[list[str]], yes: bool) -> None:
    """Show what a repair would run; go on only where a person or --yes agrees."""
    from pipeline.claim import JobError
    from pipeline.sources import printable

    for line in lines:
        console.print(f"repairing: precompute-depth {printable(shlex.join(line))}", soft_wrap=True)
    if not lines or yes:
        return
    if not sys.stdin.isatty():
        raise JobError("the repair runs what the shards' own plan says, shown above: add --yes to agree without asking")
    if not typer.confirm("Run this?"):
        raise JobError("nothing was changed: run the command yourself where you trust it")


@app.command()
def inspect(
    shards: Shards,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="PNG to write; default contact-sheet.png inside the folder (beside you for a URL)."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, max=64, help="Rows of the sheet.")] = 8,
    split: Annotated[str, typer.Option("--split", help="train or val.")] = "train",
) -> None:
    """Write a contact sheet (RGB, every depth field, labels, histograms) to look at before you train on anything."""
    from pipeline.inspect import contact_sheet

    target = out or Path("." if "://" in shards else shards) / "contact-sheet.png"
    contact_sheet(shards, split, samples, target)
    console.print(f"contact sheet: {target}", highlight=False, soft_wrap=True)


def _refuse_inside(src: Path, out: str) -> None:
    from pipeline.shards import open_store
    from pipeline.sources import SourceError

    local = open_store(out).local
    if local and local.resolve().is_relative_to(src.resolve()):
        raise SourceError(f"{out} lies inside the source {src}: choose a folder outside it")


def _label(source: "Source", out: str, job: JobOptions) -> None:
    from pipeline import job as labelling_job
    from pipeline import ranks, summary
    from pipeline.ranks import usable_cpus
    from pipeline.shards import teacher_note

    rank = ranks.resolve(job.rank, job.world_size)
    if rank.world_size > 1:
        console.print(ranks.announced(rank), highlight=False, soft_wrap=True)
    options = labelling_job.Options(
        samples_per_shard=job.samples_per_shard, batch_size=job.batch_size, stats=job.stats, stats_from=job.stats_from,
        max_rejects=job.max_rejects, seed=job.seed,
        workers=job.workers or min(usable_cpus(), 16),
    )  # fmt: skip
    loaded = None
    if job.teacher == "none":
        labelling_job.check(source, None, options)
    else:
        from pipeline.teachers.device import precision_note, use_gpu

        use_gpu(rank.local)
        loaded = open_teacher(
            job.teacher, job.device, size=job.teacher_size, aspect=job.teacher_aspect, dtype=job.dtype,
            compile=job.compile, revision=job.teacher_revision, threads=job.threads,
        )  # fmt: skip
        if note := precision_note(job.dtype, job.device):
            console.print(note, soft_wrap=True)
        if note := teacher_note(source.name, job.teacher):
            console.print(f"note: {note}. For those: --teacher {DEFAULT_TEACHER}", highlight=False, soft_wrap=True)
    if job.dry_run:
        from pipeline.dry_run import estimate

        estimate(source, loaded, out, options, rank, console)
        return
    summaries = labelling_job.run(source, loaded, out, options, rank=rank, console=console, command=job.line)
    summary.show(summaries, out, rank, console)
    if owed := labelling_job.owed(summaries):
        raise labelling_job.JobError(owed)
    finished = all(s.missing_shards == 0 for s in summaries)
    if finished and (message := labelling_job.complaint(summaries, options.max_rejects)):
        raise labelling_job.JobError(message)


def main() -> None:
    """Entry point."""
    errors.main(app, interrupted="interrupted: the same line again goes on where this stopped")


if __name__ == "__main__":
    main()
