"""train dump: what attention does with depth, for `analyze`."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pipeline.terminal import print_table
from training.commands.options import (
    AcceptOther,
    Data,
    PatchDepthChoice,
    PretrainedRun,
    console,
    meter,
    refuse_ranks,
    told,
)

if TYPE_CHECKING:
    from training.dumps.schema import DumpInfo


def dump(
    run: PretrainedRun,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Zarr store to write; default RUN/dumps/CHECKPOINT.zarr, with -DEPTH, -center4, -DATA where not as "
            "the run has it.",
        ),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option("--checkpoint", help="latest, best, epoch-N or step-N; repeat it for several. Default latest."),
    ] = None,
    depth: Annotated[
        str | None, typer.Option("--depth", help="pseudo, real, raw or exact; default: the run's.")
    ] = None,
    images: Annotated[int | None, typer.Option("--images", help="Images of val to use; default all.")] = None,
    raw: Annotated[int, typer.Option("--raw", help="Images whose raw scores and outputs are kept as well.")] = 64,
    causal: Annotated[
        int, typer.Option("--causal", help="Images whose depth is changed too, many passes each; 500 are advised.")
    ] = 0,
    patch_depth: Annotated[
        PatchDepthChoice,
        typer.Option(
            "--patch-depth",
            help="Depth of a patch in the statistics: mean, or center4 (the paper's printed code), then for all dumps "
            "together: a figure takes one. A model's own bias reads its own either way.",
        ),
    ] = "mean",
    accept_other_depth: AcceptOther = False,
) -> None:
    """Record what attention does with depth, in one pass: statistics over many images, raw scores of a few.

    Statistics cover every layer and head, and memory does not grow with the number of images; they are what `analyze`
    draws from, without a model or torch. Images are spread evenly over val; those without classes, such as NYU's, do as
    well, for all but what changed depth does to accuracy. Raw scores serve the report's examples. --causal adds what
    happens when depth is swapped with another image's, flattened, replaced by the sensor's, kept out of single blocks,
    or erased from their outputs. Prints what it will take before it starts; a dump that is interrupted leaves nothing.

    Examples:

        train dump runs/m4ch --data imagenet-rgbd --images 5000 --causal 500

        train dump runs/m3ch --data imagenet-rgbd --checkpoint epoch-0 --checkpoint epoch-5 --images 1000 --raw 0
    """
    from pipeline import files
    from training.dumping.observe import DumpFailed
    from training.engine.checkpoint import find
    from training.engine.machine import TrainingError
    from training.records import RunRecord, parse

    refuse_ranks("a dump is made")
    names = list(dict.fromkeys(checkpoint or ["latest"]))
    if out is not None and len(names) > 1:
        raise DumpFailed(f"--out names one store, got {len(names)} checkpoints: leave it out, or give them one by one")
    if depth == "online":
        raise TrainingError("--depth must be a depth of the shards here: pseudo, real, raw or exact, got 'online'")
    parse(RunRecord, run / "run.json")
    for name in names:
        find(run, name)  # the last may be missing, and the first take hours
    if out is None:
        files.refuse_links(run, "dumps")
        files.sweep(run / "dumps")  # what killed ones left, which would stay for ever
    table = Table("checkpoint", "images", "raw", "causal", "explicit vs fused", "MB on disk")
    table.add_column("store", overflow="fold")
    for name in names:
        with _ended_by_sigterm():
            target, info = _dumped(run, data, out, name, depth, images, raw, causal, patch_depth, accept_other_depth)
        size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
        counts = (f"{number:,}" for number in (info.num_images, info.num_raw, info.num_causal))
        table.add_row(info.checkpoint, *counts, f"{info.max_fused_difference:.1e}", f"{size / 1e6:,.1f}", str(target))
    print_table(console, table)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the command through what cleans up, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _dumped(
    run: Path,
    data: str,
    out: Path | None,
    checkpoint: str,
    depth: str | None,
    images: int | None,
    raw: int,
    causal: int,
    patch_depth: PatchDepthChoice,
    accept_other_depth: bool,
) -> "tuple[Path, DumpInfo]":
    import training.dumping.dump
    from training import provenance
    from training.dumps.estimate import estimated_bytes, estimated_memory
    from training.engine.machine import TrainingError, choose_device
    from training.engine.results import foreign_name
    from training.provenance import AcceptOtherDepth
    from training.runs import load
    from training.tasks.classification.data import open_shards

    loaded = load(run, checkpoint, "train pretrain")
    config, described, saved, model = loaded.task.config, loaded.record, loaded.saved, loaded.model
    field = depth or config.data.depth
    if field == "online":
        raise TrainingError(f"{run} was trained with online depth: say with --depth which depth of the shards to dump")
    other = "" if field == config.data.depth else f"-{field}"
    if patch_depth != "mean":
        other += f"-{patch_depth}"
    split = open_shards(data, "val", field, labelled=False)
    if split.index.fingerprint != described.shards.val_fingerprint:
        other += f"-{foreign_name(split)}"
    target = out or run / "dumps" / f"{checkpoint}{other}.zarr"
    how: AcceptOtherDepth = "accept" if accept_other_depth else "refuse"
    differences = provenance.check(described.shards, split.index, data, field, how, told)
    info = training.dumping.dump.plan_dump(
        config, described, saved, model, split, field, num_images=images, num_raw=raw, num_causal=causal,
        patch_depth=patch_depth, other_depth=differences,
    )  # fmt: skip
    if images is not None and images > info.num_images:
        console.print(f"note: val holds {info.num_images:,} images, fewer than the {images:,} asked for: all are taken")
    if not info.labelled:
        lacking = "other classes than the run was trained on" if split.index.class_names else "no classes"
        told(f"note: {data} has {lacking}: the dump has no labels, and says nothing of right and wrong answers")
    console.print(
        f"{info.num_images:,} images, {info.num_raw} raw, {info.num_causal} causal "
        f"({len(info.interventions)} changes), {info.num_layers} layers x {info.num_heads} heads: "
        f"at most {estimated_bytes(info) / 1e6:,.1f} MB at {target}, "
        f"{estimated_memory(info) / 1e6:,.1f} MB of memory beside the model's",
        highlight=False,
        soft_wrap=True,
    )
    with meter("dump", info.num_images + info.num_causal) as advance:
        return target, training.dumping.dump.dump(info, config, model, split, target, choose_device(config)[0], advance)
