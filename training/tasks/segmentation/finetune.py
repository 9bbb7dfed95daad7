"""From a command line to a fine-tuning task."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from training import provenance
from training.config import ConfigError
from training.models.segmentation import RELATIVES
from training.records import RunRecord, parse
from training.tasks.segmentation.config import FinetuneConfig, resolve
from training.tasks.segmentation.data import open_labelled
from training.tasks.segmentation.start import Start


def prepared(
    data: str,
    out: Path,
    *,
    preset: str,
    init: str | None,
    model: str | None = None,
    depth: str | None = None,
    head: str | None = None,
    rule: str | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    say: Callable[[str], None] = lambda note: None,
) -> tuple[FinetuneConfig, Start]:
    """The configuration of a run in `out`, and what it starts from; errors of either in one line.

    `say` is told where the depth of these shards is not as that of the run it starts from. Where a run goes on, what
    its model is stands in its run.json: the weights it began with may be gone by then.
    """
    index = open_labelled(data, "train").index
    if resume and (out / "run.json").exists():
        begun = parse(RunRecord, out / "run.json")
        if begun.task != "segmentation":
            raise ConfigError(f"{out} holds a run of train pretrain: choose another --out")
        if model not in (None, begun.model):
            raise ConfigError(f"--model {model} must be {begun.model} as the run in {out} is: leave it out")
        start = Start(init, begun.config["model"], None, begun.started_from)
    else:
        start = Start.read(init, model)
    if (allow_missing or allow_unexpected) and start.model["name"] not in RELATIVES:
        raise ConfigError(
            f"--allow-missing and --allow-unexpected are for weights of {' and '.join(RELATIVES)}, got "
            f"{start.model['name']}: leave them out"
        )
    start = replace(start, allow_missing=allow_missing, allow_unexpected=allow_unexpected)
    config = resolve(
        preset, start.model, settings, num_classes=len(index.seg_names), init=init, depth=depth, head=head, rule=rule
    )
    if start.found is not None and start.found.run is not None:
        record = parse(RunRecord, start.found.run / "run.json")
        provenance.check(record.shards, index, data, config.data.depth, "note", say)
    return config, start
