"""train teacher: the depth estimator that labels toy rooms."""

from pathlib import Path
from typing import Annotated

import typer


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
    from training.tasks.depth.toy_teacher import train_teacher

    train_teacher(data, out, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, size_px=size_px, device=device)
