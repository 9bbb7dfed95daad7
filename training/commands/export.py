"""train export: a checkpoint for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from training.commands.options import CheckpointName, PretrainedRun, console


def export(
    run: PretrainedRun,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to make.")] = None,
    folder: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="The same, without --out.")] = None,
    checkpoint: CheckpointName = "latest",
) -> None:
    """Write a checkpoint as model.safetensors and config.json, for use elsewhere.

    Load it with `training.export.from_pretrained(OUT)`, or start another run with `--init OUT`.

    Example:

        train export runs/m4ch --checkpoint best --out m4ch
    """
    import training.export
    from training.runs import load

    target = out or folder
    if target is None or (out and folder):
        raise typer.BadParameter("give the folder to make once, as --out OUT")
    loaded = load(run, checkpoint, "train pretrain")
    config = loaded.task.config
    facts = {
        "run": loaded.record.name,
        "checkpoint": loaded.saved.name,
        "epoch": loaded.saved.info.epoch,
        "study": training.export.study_of(config),
        "shards": loaded.record.shards.model_dump(mode="json"),
    }
    training.export.export(loaded.model, config.model, target, facts)
    console.print(f"written to {target}", highlight=False, soft_wrap=True)
