"""train gap: what the difference between pseudo and real depth is worth as noise."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pipeline.terminal import print_table
from training.commands.options import (
    CheckpointName,
    NoiseSeed,
    ResultOut,
    RunFolder,
    Sigmas,
    console,
    meter,
    refuse_ranks,
    told,
    written,
)

if TYPE_CHECKING:
    from training.records import Gap


def gap(
    run: RunFolder,
    data: Annotated[
        str,
        typer.Option(
            "--data", help="Shards with pseudo-depth and depth in metres (precompute-depth nyu, rgbd): a folder or URL."
        ),
    ],
    checkpoint: CheckpointName = "latest",
    real: Annotated[
        str,
        typer.Option("--real", help="real (holes filled), raw (as measured), or another field of the scene in metres."),
    ] = "real",
    sigma: Sigmas = None,
    noise_seed: NoiseSeed = 0,
    out: ResultOut = None,
) -> None:
    """How strong noise on pseudo-depth would have to be to move the model as far as real depth does.

    sigma* is that strength: 0 where real depth is as good as pseudo-depth to this model, large where it is something
    else altogether. Pseudo-depth is the run's own depth field, where a teacher made that. `train evaluate --noise` at
    sigma* says what such a shift costs in accuracy. Uses every image of train and val, whole; classes are not needed.
    Written to RUN/evaluations/.

    Examples:

        precompute-depth nyu nyu_depth_v2_labeled.mat nyu-rgbd --stats-from imagenet-rgbd

        train gap runs/m4ch --data nyu-rgbd

        train gap runs/m4ch --data nyu-rgbd --real raw --sigma 0,0.25,0.5,1,2,4,8
    """
    from training.engine.found import At
    from training.engine.machine import choose_device
    from training.engine.results import Target
    from training.noise.gap import as_record, measure, measure_inverse, open_pairs, pseudo_of
    from training.noise.sweep import NoiseError, parse_sigmas
    from training.provenance import check_splits
    from training.runs import load

    refuse_ranks("the gap is measured")
    target = Target(run, data, None, out, "note", told)
    sigmas = sorted({0.0, *parse_sigmas(sigma)})
    if len(sigmas) == 1:
        raise NoiseError(f"--sigma must hold a number above 0, got {sigma}")
    loaded = load(run, checkpoint, "train pretrain")
    config, described, saved, model = loaded.task.config, loaded.record, loaded.saved, loaded.model
    pseudo = pseudo_of(data, config.data.depth)
    splits = open_pairs(data, real, pseudo)
    for split in splits[1:]:
        check_splits(splits[0], split, pseudo)
    other = target.opened(described.shards, splits[0], pseudo)
    count, device = sum(map(len, splits)), choose_device(config)[0]
    with meter("mean and std of 1/d", count) as advance:
        inverse = measure_inverse(splits, config, real, advance)
    with meter("gap", count) as advance:
        moved = measure(model.to(device), splits, config, real, inverse, device, sigmas, noise_seed, advance, pseudo)
    result = as_record(moved, splits, config, real, inverse, sigmas, noise_seed, At.of(saved), other, pseudo)
    _gap_table(result)
    written(target.write(target.place(f"gap-{real}-{saved.name}", described.shards, splits[-1]), result))


def _gap_table(result: "Gap") -> None:
    top = f"{result.sigmas[-1]:g}"

    def shown(sigma: float | None) -> str:
        return f"above {top}" if sigma is None else f"{sigma:.3f}"

    table = Table(
        "noise", "real depth as", "f", "e*", "sigma*", "95 % of resamples",
        title=f"{result.model}, {result.pseudo_field} to {result.real_field} depth, {result.num_images:,} images",
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
