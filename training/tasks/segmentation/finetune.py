"""From a command line to a fine-tuning task."""

from collections.abc import Callable
from dataclasses import replace

from training import provenance
from training.config import ConfigError, brought_up
from training.engine.task import Asked
from training.models.registry import RELATIVES
from training.records import RunRecord, parse
from training.tasks.segmentation.config import KIND, FinetuneConfig, resolve
from training.tasks.segmentation.data import open_labelled
from training.tasks.segmentation.start import Start


def prepared(asked: Asked, say: Callable[[str], None] = lambda note: None) -> tuple[FinetuneConfig, Start]:
    """The configuration of a run in `asked.out`, and what it starts from; errors of either in one line.

    `say` is told where the depth of these shards is not as that of the run it starts from. Where a run goes on, what
    its model is stands in its run.json: the weights it began with may be gone by then.
    """
    index = open_labelled(asked.data, "train").index
    if asked.resume and (asked.out / "run.json").exists():
        begun = parse(RunRecord, asked.out / "run.json")
        if begun.task != KIND:
            raise ConfigError(f"{asked.out} holds a run of {begun.task}: choose another --out")
        if asked.model not in (None, begun.model):
            raise ConfigError(f"--model {asked.model} must be {begun.model} as the run in {asked.out} is: leave it out")
        start = Start(asked.init, brought_up(begun.config)["model"], None, begun.started_from)
    else:
        start = Start.read(asked.init, asked.model)
    more = {"head": None, "rule": None, "allow_missing": (), "allow_unexpected": ()} | (asked.more or {})
    missing, unexpected = more["allow_missing"], more["allow_unexpected"]
    if (missing or unexpected) and start.model["name"] not in RELATIVES:
        raise ConfigError(
            f"--allow-missing and --allow-unexpected are for weights of {' and '.join(RELATIVES)}, got "
            f"{start.model['name']}: leave them out"
        )
    start = replace(start, allow_missing=missing, allow_unexpected=unexpected)
    config = resolve(
        asked.preset, start.model, asked.settings, num_classes=len(index.seg_names), init=asked.init,
        depth=asked.depth, head=more["head"], rule=more["rule"],
    )  # fmt: skip
    if start.found is not None and start.found.run is not None:
        record = parse(RunRecord, start.found.run / "run.json")
        provenance.check(record.shards, index, asked.data, config.data.depth, "note", say)
    return config, start
