"""Fine-tuning of a classifier: a pre-trained model gets a new head for other classes, and all of it is trained on.

What comes of it is a run of classification like any other, to be evaluated, dumped, exported and drawn as those are;
this is how one begins. The last checkpoint counts, so that val chooses nothing.
"""

from collections.abc import Callable
from typing import Any, Self

from pipeline import shards
from training import provenance, weights
from training.config import ConfigError, brought_up
from training.engine.task import Asked
from training.export import model_config
from training.models import pretrained
from training.models.pretrained import Report, Weights
from training.models.vit import VisionTransformer
from training.records import RunRecord, parse
from training.tasks.classification.config import KIND, Config, resolve
from training.tasks.classification.data import check_labelled
from training.tasks.classification.task import PreTraining, capped


class Tuning(PreTraining):
    """`found` are the weights it begins with; none where every weight starts fresh, or where a run goes on."""

    made_by = "train finetune --task classification"

    def __init__(self, config: Config, found: Weights | None = None) -> None:
        super().__init__(config)
        self.found = found

    @classmethod
    def of(cls, asked: Asked, say: Callable[[str], None]) -> Self:
        index = shards.open_split(asked.data, "train").index
        check_labelled(index, asked.data)
        given, found = _beginning(asked)
        fresh = {**given, "head_init": "fresh"}

        def made(settings: list[str]) -> Config:
            return resolve(
                asked.preset, given["name"], settings, num_classes=len(index.class_names), init=asked.init,
                depth=asked.depth, given=fresh,
            )  # fmt: skip

        config = capped(made, asked.settings, index.num_samples, say)
        if found is not None and found.run is not None:
            record = parse(RunRecord, found.run / "run.json")
            provenance.check(record.shards, index, asked.data, config.data.depth, "note", say)
        return cls(config, found)

    def load(self, model: VisionTransformer) -> Report:
        source = self.config.init
        return pretrained.load(model, self.found, source) if self.found and source else super().load(model)

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"started_from": weights.origin(self.found) if self.found else None}


def _beginning(asked: Asked) -> tuple[dict[str, Any], Weights | None]:
    """The model as far as it is known before the preset, and its weights.

    Where a run goes on, what its model is stands in its run.json: the weights it began with may be gone by then.
    """
    path = asked.out / "run.json"
    if asked.resume and path.exists():
        begun = parse(RunRecord, path)
        if begun.task != KIND:
            raise ConfigError(f"{asked.out} holds a run of {begun.task}: choose another --out")
        if asked.model not in (None, begun.model):
            raise ConfigError(f"--model {asked.model} must be {begun.model} as the run in {asked.out} is: leave it out")
        return model_config(brought_up(begun.config)["model"], str(path)).sizes, None
    if asked.init is not None:
        return weights.start(asked.init, asked.model)
    if asked.model is None:
        raise ConfigError("--model must be given where there is no --init to start from")
    return {"name": asked.model}, None
