"""precompute-depth: folder | toyrooms | verify | inspect. Heavy imports happen inside the commands."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.job import Options, SplitSummary
    from pipeline.sources import Source

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Stage 1: photographs in, RGB-D shards out. A teacher estimates depth for every image, once.\n\n"
    "Start with `precompute-depth folder PHOTOS OUT --teacher toy`, then `precompute-depth inspect OUT`.",
)
console = Console()

DEFAULT_TEACHER = "depth-anything/Depth-Anything-V2-Small-hf"

Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder to write: train/ and val/ with tars and an index.json each.")
]
Shards = Annotated[Path, typer.Argument(metavar="SHARDS", help="A folder made by precompute-depth.")]
TeacherName = Annotated[
    str,
    typer.Option(
        "--teacher",
        show_default="Depth-Anything-V2-Small",
        help=f"Hub id (default {DEFAULT_TEACHER}) or local folder of a depth model; toy = the embedded one.",
    ),
]
Stats = Annotated[
    str, typer.Option("--stats", help="auto: mean and std from a first pass; or MEAN,STD in the teacher's own unit.")
]
PerShard = Annotated[int, typer.Option("--samples-per-shard", help="Samples in one tar.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Images per teacher call; part of the fingerprint.")]
Workers = Annotated[int, typer.Option("--workers", help="Threads that decode and encode.")]
MaxRejects = Annotated[
    float,
    typer.Option(
        "--max-rejects", help="Share of rejects, rounded up to whole images, above which the job fails at its end."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Decides which sample lands in which shard.", min=0, max=2**62)]


@app.command()
def folder(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of images; SRC/CLASS/*.jpg gives classes.")],
    out: Out,
    teacher: TeacherName = DEFAULT_TEACHER,
    short_side: Annotated[
        int, typer.Option("--short-side", min=0, help="Shrink so that the short side is this; 0 keeps the size.")
    ] = 384,
    val_fraction: Annotated[float, typer.Option("--val-fraction", help="Share of images for val, by name hash.")] = 0.1,
    stats: Stats = "auto",
    samples_per_shard: PerShard = 1000,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    workers: Workers = 2,
    max_rejects: MaxRejects = 0.01,
    seed: Seed = 0,
) -> None:
    """Label any folder of photographs.

    Interrupt it whenever you like: the same line again finishes what is missing, to the same bytes. Images that cannot
    be read are listed as rejects with a reason and the job goes on.

    Examples:

        precompute-depth folder photos photos-rgbd --teacher toy

        precompute-depth folder imagenet imagenet-rgbd --short-side 256 --batch-size 128 --workers 16
    """
    from pipeline.job import Options
    from pipeline.sources import SourceError
    from pipeline.sources.folder import Folder

    if out.resolve().is_relative_to(src.resolve()):
        raise SourceError(f"{out} lies inside the source {src}: choose a folder outside it")
    _label(
        Folder(src, short_side, val_fraction), out, teacher, device,
        Options(
            samples_per_shard=samples_per_shard, batch_size=batch_size, stats=stats, max_rejects=max_rejects, seed=seed,
            workers=workers,
        ),
    )  # fmt: skip


@app.command()
def toyrooms(
    out: Out,
    teacher: Annotated[
        str, typer.Option("--teacher", help="toy = the embedded one; none = exact and sensor depth only; or any other.")
    ] = "toy",
    samples: Annotated[int, typer.Option("--samples", help="Training scenes.")] = 6000,
    val_samples: Annotated[int, typer.Option("--val-samples", help="Validation scenes.")] = 2000,
    size: Annotated[int, typer.Option("--size", help="Width and height in pixels.")] = 64,
    camouflage: Annotated[
        float, typer.Option("--camouflage", help="0: objects plain in RGB; 1: seen in depth only.")
    ] = 0.5,
    stats: Stats = "auto",
    samples_per_shard: PerShard = 1000,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    workers: Workers = 2,
    seed: Seed = 0,
) -> None:
    """Render procedural rooms with exact depth, a simulated depth sensor, classes and labels.

    The data set of the demo: everything can be tried on it in minutes, and the truth is known.

    Examples:

        precompute-depth toyrooms rooms

        precompute-depth toyrooms teacher-rooms --teacher none --samples 120000 --seed 1000
    """
    from pipeline.job import Options
    from pipeline.scenes import SceneConfig
    from pipeline.sources import SourceError
    from pipeline.sources.toyrooms import ToyRooms

    try:
        scene = SceneConfig(size_px=size, camouflage=camouflage)
    except ValueError as error:
        raise SourceError(str(error)) from None
    _label(
        ToyRooms(samples, val_samples, seed, scene), out, teacher, device,
        Options(
            samples_per_shard=samples_per_shard, batch_size=batch_size, stats=stats, seed=seed, workers=workers,
        ),
    )  # fmt: skip


@app.command()
def verify(shards: Shards) -> None:
    """Read every byte of every shard again and compare it with the index; names each damaged shard and sample."""
    from pipeline.inspect import verify as check

    problems, num_samples, num_shards = check(shards, console)
    for problem in problems:
        console.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
    if problems:
        console.print(f"{len(problems)} problem(s) in {shards}: delete the shards named above and run the job again")
        sys.exit(1)
    console.print(f"{shards}: {num_samples:,} samples in {num_shards:,} shards, all as the index says", highlight=False)


@app.command()
def inspect(
    shards: Shards,
    out: Annotated[
        Path | None, typer.Option("--out", help="PNG to write; default contact-sheet.png inside the folder.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, max=64, help="Rows of the sheet.")] = 8,
    split: Annotated[str, typer.Option("--split", help="train or val.")] = "train",
) -> None:
    """Write a contact sheet (RGB, every depth field, labels) to look at before you train on anything."""
    from pipeline.inspect import contact_sheet

    target = out or shards / "contact-sheet.png"
    contact_sheet(shards, split, samples, target)
    console.print(f"contact sheet: {target}", highlight=False, soft_wrap=True)


def _label(source: "Source", out: Path, teacher: str, device: str, options: "Options") -> None:
    from pipeline import job

    loaded = None
    if teacher != "none":
        from pipeline.teachers import Teacher

        loaded = Teacher(teacher, device)
    summaries = job.run(source, loaded, out, options, console)
    _summary(summaries, out)
    if message := job.too_many_rejects(summaries, options.max_rejects):
        raise job.JobError(message)


def _summary(summaries: "list[SplitSummary]", out: Path) -> None:
    table = Table("split", "listed", "kept", "rejected", "shards", "MB", "images/s", "teacher alone")
    for s in summaries:
        rate = f"{s.written_now / s.seconds:,.1f}" if s.written_now else "done before"
        alone = f"{s.written_now / s.teacher_seconds:,.1f}" if s.teacher_seconds else "-"
        table.add_row(
            s.split, f"{s.listed:,}", f"{s.kept:,}", f"{s.rejected:,}", f"{s.num_shards:,}", f"{s.bytes / 1e6:,.1f}",
            rate, alone,
        )  # fmt: skip
    console.print(table)
    for s in summaries:
        assert s.index is not None
        for name, depth in s.index.depth.items():
            console.print(
                f"{s.split} {name}: z = {depth.sign:+.0f} x (depth - {depth.mean:.4f}) / {depth.std:.4f} "
                f"({depth.constants_from}); realised mean {depth.realised_mean:.4f}, std {depth.realised_std:.4f}; "
                f"error <= {depth.max_error_z:.5f} z",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
        for reject in s.index.rejects[:10]:
            line = f"rejected {reject.source}: {reject.reason}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"shards: {out}", highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point: a user's mistake ends in one line and exit code 1 (2 for misuse of the command line)."""
    # Idle OpenMP threads spin by default, which starves whatever else runs: a loader's workers, another run. Sleeping
    # costs a little where nothing else does (tests/benchmarks/contention.json).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except (ValueError, OSError) as error:
        ours = type(error).__module__.split(".")[0] == "pipeline"
        if not ours and not isinstance(error, OSError):
            raise  # a defect, not a user's mistake: show where
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
