"""What the labelling commands do once they have their source."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands import console
from pipeline.commands.options import LabellingOptions
from pipeline.teachers import DEFAULT_TEACHER, open_teacher

if TYPE_CHECKING:
    from pipeline.output import Output
    from pipeline.sources import Source


def label(source: "Source", out: "str | Output", job: LabellingOptions, accept_polarity: bool = False) -> None:
    """Run the job, or tell what it would cost, and print what came of it."""
    from pipeline import ranks, summary
    from pipeline.claim import JobError
    from pipeline.dry_run import estimate
    from pipeline.job import Options, check_options, complaint, owed, run
    from pipeline.output import Output
    from pipeline.shards import open_store, teacher_note

    output = out if isinstance(out, Output) else Output(open_store(out))
    rank = ranks.resolve(job.rank, job.world_size)
    if rank.world_size > 1:
        console.print(ranks.announced(rank), highlight=False, soft_wrap=True)
    options = Options(
        samples_per_shard=job.samples_per_shard, batch_size=job.batch_size, stats=job.stats, stats_from=job.stats_from,
        max_rejects=job.max_rejects, seed=job.seed,
        workers=job.workers or min(ranks.usable_cpus(), 16), accept_polarity=accept_polarity,
    )  # fmt: skip
    loaded = None
    if job.teacher == "none":
        check_options(source, None, options)
    else:
        from pipeline.teachers.device import precision_note, use_gpu

        use_gpu(rank.local)
        loaded = open_teacher(
            job.teacher, job.device, size=job.teacher_size, aspect=job.teacher_aspect, dtype=job.dtype,
            compile=job.compile, revision=job.teacher_revision, threads=job.threads, fov=job.teacher_fov, typed=True,
        )  # fmt: skip
        if note := precision_note(job.dtype, job.device):
            console.print(note, soft_wrap=True)
        if note := teacher_note(source.name, job.teacher):
            console.print(f"note: {note}. For those: --teacher {DEFAULT_TEACHER}", highlight=False, soft_wrap=True)
    if job.dry_run:
        estimate(source, loaded, output, options, rank, console)
        return
    summaries = run(source, loaded, output, options, rank=rank, console=console, command=job.line)
    summary.show(summaries, str(output.data), rank, console)
    if message := owed(summaries):
        raise JobError(message)
    finished = all(s.missing_shards == 0 for s in summaries)
    if finished and (message := complaint(summaries, options.max_rejects)):
        raise JobError(message)


def refuse_inside(src: Path, out: str) -> None:
    """SourceError where the shards would lie among the photographs."""
    from pipeline.shards import open_store
    from pipeline.sources import SourceError

    local = open_store(out).local
    if local and local.resolve().is_relative_to(src.resolve()):
        raise SourceError(f"{out} lies inside the source {src}: choose a folder outside it")
