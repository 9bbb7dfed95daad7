"""train: pretrain | evaluate | gap | dump | export | teacher. Heavy imports happen inside the commands."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.shards import DepthField
    from training.records import Gap

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Stage 2: train RGB-D Vision Transformers on shards, evaluate them, dump what attention does.\n\n"
    "Start with `train pretrain --preset tiny --model m4ch --data SHARDS --out runs/m4ch`.",
)
console = Console()

Data = Annotated[
    str, typer.Option("--data", help="Shards made by precompute-depth (holding train/ and val/): a folder or a URL.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder made by `train pretrain`.")]
CheckpointName = Annotated[str, typer.Option("--checkpoint", help="latest, best, epoch-N or step-N.")]

Sigmas = Annotated[
    str | None,
    typer.Option(
        "--sigma", metavar="LIST", show_default="0,0.05,0.1,0.2,0.3,0.5,0.75,1,1.5,2,3",
        help="Strengths of the noise, in units of z (standard deviations of the data set's depth).",
    ),
]  # fmt: skip
NoiseSeed = Annotated[int, typer.Option("--noise-seed", min=0, help="Another draw of the noise.")]


@app.command()
def pretrain(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="m3ch (RGB only), m4ch (depth channel), mlin, mmlp (bias on attention), mdf1, mgem (two branches).",
        ),
    ],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Run folder to make: run.json, metrics.jsonl, checkpoints/.")],
    preset: Annotated[
        str,
        typer.Option(
            "--preset", help="tiny (minutes on a laptop), thesis (the paper's recipe) or modern (see its file)."
        ),
    ] = "tiny",
    init: Annotated[
        str | None,
        typer.Option(
            "--init", help="Start from weights: timm:NAME, a file (timm's or torchvision's ViT), a run or an export."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the preset, e.g. --set optim.lr=5e-4."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest intact checkpoint in --out, or begin there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="A few steps, then say what the run would take. Writes nothing.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Watch steps 6 to 10: a table, and a trace in OUT/profile.")
    ] = False,
) -> None:
    """Pre-train one model on RGB-D shards.

    The same shards, config and seed give the same result: a run that is killed and resumed ends with the same
    weights, bit for bit on a CPU with as many threads. SIGTERM and SIGUSR1 save a checkpoint first.

    Examples:

        train pretrain --preset tiny --model m4ch --data demo/shards --out runs/m4ch --set data.depth=real

        train pretrain --preset thesis --model mlin --data imagenet-rgbd --out runs/mlin --set runtime.workers=16

        torchrun --nproc-per-node 8 -m training.cli pretrain --preset modern --model mgem --data ... --out ... --resume

        train pretrain --preset thesis --model m4ch --init timm:vit_base_patch16_224.augreg_in1k --data ... --out ...
    """
    from pipeline import shards
    from training.config import resolve

    classes = len(shards.open_split(data, "train").index.class_names) or None
    config = resolve(preset, model, settings or [], num_classes=classes, init=init)
    if dry_run:
        from training.dry_run import dry_run as try_out

        if table := try_out(config, data, out):
            console.print(table)
        return
    from training.loop import pretrain as run

    result = run(config, data, out, resume=resume, console=console, profile=profile)
    if result is not None:
        _result_table(result.model, result.depth_field, result.num_samples, result.top1, result.top5, str(out))


@app.command()
def evaluate(
    run: RunFolder,
    data: Data,
    checkpoint: CheckpointName = "latest",
    depth: Annotated[
        str | None, typer.Option("--depth", help="pseudo, real, raw, exact or online; default: the run's.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train or val.")] = "val",
    noise: Annotated[
        str | None, typer.Option("--noise", help="Add noise to depth: one Gaussian a pixel, or one a patch.")
    ] = None,
    sigma: Sigmas = None,
    noise_seed: NoiseSeed = 0,
) -> None:
    """Top-1 and top-5 on a split, every sample once; written to RUN/evaluations/.

    With --noise at every sigma, in one pass: how much a model leans on its depth being right. Every model gets the same
    noise.

    Examples:

        train evaluate runs/m4ch --data imagenet-rgbd

        train evaluate runs/m4ch --data imagenet-rgbd --noise pixel

        train evaluate runs/m4ch --data imagenet-rgbd --noise patch --sigma 0,0.5,1,2
    """
    if noise is not None or sigma is not None:
        _sweep(run, data, checkpoint, depth, split, noise, sigma, noise_seed)
        return
    from training.data import check_classes, open_shards
    from training.evaluate import evaluate as measure
    from training.online import OnlineDepth
    from training.run_folder import as_evaluation, choose_device, load_model
    from training.run_log import write_json

    config, described, saved, model = load_model(run, checkpoint)
    field = depth or config.data.depth
    opened = open_shards(data, split, field)
    check_classes(opened, described.shards.classes_sha256)
    device, autocast = choose_device(config)
    with _meter("evaluate", len(opened)) as advance:
        teacher = OnlineDepth(config, device) if field == "online" else None
        outcome = measure(model.to(device), opened, config, field, device, autocast, teacher=teacher, advance=advance)
    result = as_evaluation(outcome, config, opened, field, saved.folder.name, saved.info.epoch)
    path = run / "evaluations" / f"{split}-{field}-{saved.folder.name}.json"
    write_json(path, result)
    _result_table(result.model, field, result.num_samples, result.top1, result.top5, str(path))


@app.command()
def gap(
    run: RunFolder,
    data: Annotated[
        str, typer.Option("--data", help="Shards with pseudo and sensor depth (precompute-depth nyu): a folder or URL.")
    ],
    checkpoint: CheckpointName = "latest",
    real: Annotated[str, typer.Option("--real", help="real (holes filled) or raw (as measured).")] = "real",
    sigma: Sigmas = None,
    noise_seed: NoiseSeed = 0,
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
    from training.gap import as_record, measure, measure_inverse, open_pairs
    from training.noise import NoiseError, parse_sigmas
    from training.run_folder import choose_device, load_model
    from training.run_log import write_json

    sigmas = sorted({0.0, *parse_sigmas(sigma)})
    if len(sigmas) == 1:
        raise NoiseError(f"--sigma must hold a number above 0, got {sigma}")
    config, described, saved, model = load_model(run, checkpoint)
    splits = open_pairs(data, real)
    _tell_of_other_constants(described.shards.standardisation, splits[0].index.depth["pseudo"], data)
    count, device = sum(map(len, splits)), choose_device(config)[0]
    with _meter("mean and std of 1/d", count) as advance:
        inverse = measure_inverse(splits, config, real, advance)
    with _meter("gap", count) as advance:
        moved = measure(model.to(device), splits, config, real, inverse, device, sigmas, noise_seed, advance)
    name = saved.folder.name
    result = as_record(moved, splits, config, real, inverse, sigmas, noise_seed, name, saved.info.epoch)
    path = run / "evaluations" / f"gap-{real}-{name}.json"
    write_json(path, result)
    _gap_table(result)
    console.print(f"written to {path}", highlight=False, soft_wrap=True)


@app.command()
def dump(
    run: RunFolder,
    data: Data,
    out: Annotated[
        Path | None, typer.Option("--out", help="Zarr store to write; default RUN/dumps/CHECKPOINT.zarr.")
    ] = None,
    checkpoint: CheckpointName = "latest",
    depth: Annotated[
        str | None, typer.Option("--depth", help="pseudo, real, raw or exact; default: the run's.")
    ] = None,
    images: Annotated[int | None, typer.Option("--images", help="Images of val to use; default all.")] = None,
    raw: Annotated[int, typer.Option("--raw", help="Images whose raw scores are kept as well.")] = 64,
    patch_depth: Annotated[
        str | None, typer.Option("--patch-depth", help="mean or center4; default the model's own, else mean.")
    ] = None,
) -> None:
    """Record what attention does with depth: statistics over many images, raw scores of a few.

    Prints what it will take before it starts. `analyze` reads the result without a model or torch.
    """
    from training.data import check_classes, open_shards
    from training.dump_attention import dump as record
    from training.dump_attention import plan_dump
    from training.dumps.store import estimated_bytes
    from training.run_folder import TrainingError, choose_device, load_model

    config, described, saved, model = load_model(run, checkpoint)
    field = depth or config.data.depth
    if depth == "online":
        raise TrainingError("--depth must be a depth of the shards here: pseudo, real, raw or exact, got 'online'")
    if field == "online":
        raise TrainingError(f"{run} was trained with online depth: say with --depth which depth of the shards to dump")
    split = open_shards(data, "val", field)
    check_classes(split, described.shards.classes_sha256)
    info = plan_dump(
        config, described, saved, model, split, field, num_images=images, num_raw=raw, patch_depth=patch_depth
    )
    target = out or run / "dumps" / f"{checkpoint}.zarr"
    console.print(
        f"{info.num_images:,} images, {info.num_raw} raw, {info.num_layers} layers x {info.num_heads} heads: "
        f"at most {estimated_bytes(info) / 1e6:,.1f} MB at {target}",
        highlight=False,
        soft_wrap=True,
    )
    with _meter("dump", info.num_images) as advance:
        record(info, config, model, split, target, choose_device(config)[0], advance)


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    checkpoint: CheckpointName = "latest",
) -> None:
    """Write a checkpoint as model.safetensors and config.json, for use elsewhere.

    Load it with `training.export.from_pretrained(OUT)`, or start another run with `--init OUT`.
    """
    from training.export import export as write
    from training.run_folder import load_model

    config, described, saved, model = load_model(run, checkpoint)
    facts = {
        "run": described.name,
        "checkpoint": saved.folder.name,
        "epoch": saved.info.epoch,
        "study": config.study(),
        "shards": described.shards.model_dump(mode="json"),
    }
    write(model, config.model, out, facts)
    console.print(f"written to {out}", highlight=False, soft_wrap=True)


@app.command()
def teacher(
    data: Annotated[Path, typer.Option("--data", help="Shards with `exact` depth (toyrooms --teacher none).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for config.json, model.safetensors, preprocessor.")],
    epochs: Annotated[int, typer.Option("--epochs")] = 3,
    batch_size: Annotated[int, typer.Option("--batch-size")] = 64,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    size_px: Annotated[int, typer.Option("--size-px", help="Input side, a multiple of 14.")] = 112,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train the tiny DepthAnything that labels toy rooms; the result loads like any teacher.

    Example:

        precompute-depth toyrooms rooms --teacher none --samples 120000 --seed 1000

        train teacher --data rooms --out my-teacher
    """
    from training.teacher import train_teacher

    train_teacher(data, out, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, size_px=size_px, device=device)


def _result_table(model: str, depth: str, count: int, top1: float, top5: float, where: str) -> None:
    table = Table("model", "depth", "samples", "top-1", "top-5")
    table.add_row(model, depth, f"{count:,}", f"{top1:.2%}", f"{top5:.2%}")
    console.print(table)
    console.print(f"written to {where}", highlight=False, soft_wrap=True)


def _sweep(
    run: Path,
    data: str,
    checkpoint: str,
    depth: str | None,
    split: str,
    kind: str | None,
    sigma: str | None,
    seed: int,
) -> None:
    """`evaluate` with --noise."""
    from training.data import check_classes, open_shards
    from training.noise import Noise, NoiseError, parse_kind, parse_sigmas, sweep
    from training.run_folder import choose_device, load_model
    from training.run_log import write_json

    if kind is None:
        raise NoiseError("--sigma needs --noise pixel or --noise patch beside it")
    noise, sigmas = Noise(parse_kind(kind), seed), parse_sigmas(sigma)
    config, described, saved, model = load_model(run, checkpoint)
    field = depth or config.data.depth
    if field == "online":
        raise NoiseError("--noise is added to depth of the shards, not to online depth: say which with --depth")
    opened = open_shards(data, split, field)
    check_classes(opened, described.shards.classes_sha256)
    device, autocast = choose_device(config)
    with _meter("evaluate", len(opened)) as advance:
        result = sweep(
            model.to(device), opened, config, field, device, autocast, noise, sigmas,
            checkpoint=saved.folder.name, epoch=saved.info.epoch, advance=advance,
        )  # fmt: skip
    path = run / "evaluations" / f"noise-{kind}-{split}-{field}-{saved.folder.name}.json"
    write_json(path, result)
    table = Table("sigma", "top-1", "top-5", "loss", title=f"{result.model}, {field} depth, {kind} noise")
    for row in zip(result.sigmas, result.top1, result.top5, result.loss, strict=True):
        table.add_row(f"{row[0]:g}", f"{row[1]:.2%}", f"{row[2]:.2%}", f"{row[3]:.4f}")
    console.print(table)
    console.print(f"written to {path}", highlight=False, soft_wrap=True)


def _tell_of_other_constants(trained: dict[str, Any], here: "DepthField", data: str) -> None:
    """Sigma is in units of z: pseudo-depth must be standardised as what the model was trained on."""
    if trained["polarity"] == here.polarity and (trained["mean"], trained["std"]) != (here.mean, here.std):
        console.print(
            f"note: pseudo-depth of {data} is standardised with mean {here.mean:.4f} and std {here.std:.4f}, what the "
            f"run saw with {trained['mean']:.4f} and {trained['std']:.4f}: --stats-from of precompute-depth makes them "
            "alike",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


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
    console.print(table)
    if any(c.undefined for c in result.crossings):
        console.print("sigma* is undefined: what this model says does not change with depth", highlight=False)
    elif any(c.sigma_star is None for c in result.crossings):
        console.print(f"real depth moves it farther than noise of {top} does: give larger --sigma", highlight=False)


def _meter(label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    from training.run_log import meter

    return meter(console, label, total)


def main() -> None:
    """Entry point: a user's mistake ends in one line and exit code 1 (2 for misuse of the command line)."""
    # Idle OpenMP threads spin by default, which starves whatever else runs: a loader's workers, another run. Sleeping
    # costs a little where nothing else does (tests/benchmarks/contention.json).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except (ValueError, OSError) as error:
        ours = type(error).__module__.split(".")[0] in ("pipeline", "training")
        if not ours and not isinstance(error, OSError):
            raise  # a defect, not a user's mistake: show where
        console_error(error)
        sys.exit(getattr(error, "exit_code", 1))
    except RuntimeError as error:
        complaint = _of_the_machine(error)
        if complaint is None:
            raise
        console_error(complaint)
        sys.exit(1)
    finally:
        _end_workers()


def _of_the_machine(error: RuntimeError) -> Exception | None:
    """What to say where memory or a worker is lacking, not the code at fault."""
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return MemoryError("memory does not hold a batch: --set runtime.micro_batch lower (gradients are accumulated)")
    # torch reports a dead worker wherever the main thread happens to be.
    if "DataLoader worker" not in str(error):
        return None
    from training.data import worker_died

    return worker_died(error)


def _end_workers() -> None:
    """A loader that an error left open: its workers ignore the signals that Python would end them with at exit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would take their end for a failure
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()


def console_error(error: Exception) -> None:
    Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)


if __name__ == "__main__":
    main()
