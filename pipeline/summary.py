"""What a labelling run tells people at its end."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipeline.ranks import Rank
from pipeline.split_job import SplitSummary
from pipeline.terminal import print_table


def show(summaries: Sequence[SplitSummary], out: str, rank: Rank, console: Console) -> None:
    table = Table("split", "listed", "kept", "rejected", "shards", "MB", "images/s", "teacher alone")
    for s in summaries:
        rate = f"{s.written_now / s.seconds:,.1f}" if s.written_now else "done before"
        alone = f"{s.written_now / s.teacher_seconds:,.1f}" if s.teacher_seconds else "-"
        table.add_row(
            s.split, f"{s.listed:,}", f"{s.kept:,}", f"{s.rejected:,}", f"{s.num_shards:,}", f"{s.bytes / 1e6:,.1f}",
            rate, alone,
        )  # fmt: skip
    print_table(console, table)
    for s in summaries:
        if s.written_now:
            console.print(f"{s.split}: {bottleneck(s)}", highlight=False, soft_wrap=True)
        for name, depth in s.index.depth.items() if s.index else ():
            console.print(
                f"{s.split} {name}: z = {depth.sign:+.0f} x (depth - {depth.mean:.4f}) / {depth.std:.4f} "
                f"({depth.constants_from}); realised mean {depth.realised_mean:.4f}, std {depth.realised_std:.4f}; "
                f"error <= {depth.max_error_z:.5f} z",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
        for reject in s.rejects[:10]:
            line = f"rejected {reject.source}: {reject.reason}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if others := s.missing_shards - s.own_missing:
            console.print(
                f"{s.split}: {rank} is done; {others:,} shards of other ranks are not; the last rank writes "
                "the index. If no other rank runs, the same line with --rank 0 --world-size 1 finishes the job.",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
    for line in [line for s in summaries for line in s.notes]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"shards: {out}", highlight=False, soft_wrap=True)


def bottleneck(summary: SplitSummary) -> str:
    """Where the time went: the teacher, and what it waited for."""
    spent = {
        "the teacher": summary.teacher_seconds,
        "the workers (reading, decoding, encoding)": summary.waited.get("workers", 0.0),
        "the writer": summary.waited.get("writer", 0.0),
    }
    shares = {name: 100 * seconds / max(summary.seconds, 1e-9) for name, seconds in spent.items()}
    slowest, *others = sorted(shares, key=lambda name: -shares[name])
    rest = ", ".join(f"{name} {shares[name]:.0f} %" for name in others)
    return f"the bottleneck was {slowest}, {shares[slowest]:.0f} % of the time ({rest})"
