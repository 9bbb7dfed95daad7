"""train export: a checkpoint for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from training.commands.options import CheckpointName, PretrainedRun, console


def export(
    run: PretrainedRun,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    checkpoint: CheckpointName = "latest",
) -> None:
    """Write a checkpoint as model.safetensors and config.json, for use elsewhere.

    Load it with `training.export.from_pretrained(OUT)`, or start another run with `--init OUT`.
    """
    from training import export as exported
    from training.runs import load

    loaded = load(run, checkpoint, "train pretrain")
    config = loaded.task.config
    facts = {
        "run": loaded.record.name,
        "checkpoint": loaded.saved.name,
        "epoch": loaded.saved.info.epoch,
        "study": config.study(),
        "shards": loaded.record.shards.model_dump(mode="json"),
    }
    exported.export(loaded.model, config.model, out, facts)
    console.print(f"written to {out}", highlight=False, soft_wrap=True)
