"""Weights from elsewhere, read and told apart: timm's, a file, a run of ours, an exported model of ours."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from training import records
from training.config import ConfigError
from training.engine import checkpoint
from training.export import WEIGHTS, is_export, model_config, read_export
from training.models.layouts import renamed, unwrapped
from training.models.pretrained import Report, Weights, load
from training.models.vit import ModelError, VisionTransformer, check_fits
from training.models.weight_files import content_of, first_line, sha256_of

SOURCES = "timm:NAME, a weights file (.pth, .pt, .bin, .safetensors), a run (RUN or RUN:epoch-<n>) or an exported model"


def initialise(model: VisionTransformer, source: str) -> Report:
    """Load `source` into `model`: timm:NAME, a file, RUN, RUN:epoch-<n> or an exported folder. ModelError if unfit."""
    return load(model, read(source), source)


def read(source: str) -> Weights:
    """Find and read `source`; ModelError says in one line why not."""
    if source.startswith("timm:"):
        return weights_of_timm(fetched(source.removeprefix("timm:")), source)
    path = Path(source)
    if path.is_file():
        return _file(path)
    folder, name = path, "latest"
    if not path.exists() and ":" in source:
        before, _, name = source.rpartition(":")
        folder = Path(before)
    if (folder / "run.json").is_file():
        return _run(folder, name)
    if path.is_dir() and is_export(path):
        config, state = read_export(path)
        return Weights(source, state, sha256_of(path / WEIGHTS), config, config.heads)
    kind = "a folder of another kind" if path.is_dir() else "nothing there"
    raise ModelError(f"init must be {SOURCES}, got {source!r}: {kind}")


def start(source: str, moniker: str | None) -> tuple[dict[str, Any], Weights]:
    """What a model that begins with `source` is, as far as that tells, and its weights; ModelError if unfit.

    ConfigError where `moniker`, which a command line may name, is not what the source is, or is lacking.
    """
    found = read(source)
    if found.config is None:
        if moniker is None:
            raise ConfigError(f"--model must be given: {source} is a file of weights and does not say what it is")
        return {"name": moniker}, found
    if moniker not in (None, found.config.name):
        raise ConfigError(f"--model {moniker} must be {found.config.name} as {source} is: leave it out")
    check_fits(found.config.build, found.state, found.where)
    return found.config.sizes, found


def origin(found: Weights) -> dict[str, Any] | None:
    """The run they come from, as far as tables need it; None of what is no run."""
    if found.run is None:
        return None
    record = records.parse(records.RunRecord, found.run / "run.json")
    return {
        "run": record.name,
        "checkpoint": found.checkpoint,
        "study_hash": record.study_hash,
        "seed": record.seed,
        "depth_field": record.shards.depth_field,
        "source": record.shards.source,
        "teacher": record.shards.teacher,
    }


def _file(path: Path) -> Weights:
    state = renamed(unwrapped(content_of(path), str(path)))
    note = "A file of weights does not say how many heads they have: the model's number is taken."
    return Weights(str(path), state, sha256_of(path), note=note)


def _run(folder: Path, name: str) -> Weights:
    try:
        record = records.parse(records.RunRecord, folder / "run.json")
        if record.task != "classification":
            how = "fine-tuned for" if record.task == "segmentation" else "of task"
            raise ModelError(
                f"{folder} is a run {how} {record.task}, whose weights start nothing: give a run of train pretrain, or "
                "of train finetune --task classification"
            )
        saved = checkpoint.load(checkpoint.find(folder, name))
        if saved.info.study_hash != record.study_hash:
            raise ModelError(f"{saved.folder} belongs to another run than {folder}: restore this run's own checkpoints")
    except (records.RecordError, checkpoint.CheckpointError) as error:
        raise ModelError(str(error)) from None
    config = model_config(record.config.get("model"), str(folder / "run.json"))
    if config.freeze != "none":
        raise ModelError(f"{folder} trained a head alone: give what it began with, {record.config.get('init')}")
    return Weights(
        str(saved.folder), saved.weights, saved.info.sha256, config, config.heads, run=folder, checkpoint=name
    )


def fetched(name: str) -> nn.Module:
    """timm's model of this name with its weights; ModelError says in one line why not."""
    import timm

    where = f"timm:{name}"
    if not timm.is_model(name.split(".")[0]):
        raise ModelError(f"{where}: timm {timm.__version__} has no such model; timm.list_models('vit_*') lists them")
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub client's, the network library's or timm's own
        raise ModelError(
            f"{where} could not be fetched ({first_line(error)}): "
            "try again with a network, or download the weights and give the file"
        ) from None


def sha256_of_state(state: Mapping[str, Tensor]) -> str:
    """Of names and values."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode() + state[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def weights_of_timm(theirs: nn.Module, where: str) -> Weights:
    """A timm model's weights; ModelError where it computes something else than our ViT from the same weights."""
    import timm

    if not isinstance(theirs, timm.models.VisionTransformer):
        raise ModelError(f"{where} must be one of timm's Vision Transformers, got a {type(theirs).__name__}")
    block = theirs.blocks[0]
    activation = getattr(getattr(block, "mlp", None), "act", None)
    if not isinstance(activation, nn.GELU) or activation.approximate != "none":
        raise ModelError(f"{where} must use GELU, got {activation}: choose another model")
    if theirs.global_pool != "token":
        raise ModelError(f"{where} must classify by its class token, got pooling {theirs.global_pool!r}")
    eps = getattr(theirs.norm, "eps", None)
    if eps != 1e-6:
        raise ModelError(f"{where} must have LayerNorms with eps 1e-6, got {eps}: choose another model")
    state = theirs.state_dict()
    trained = getattr(theirs, "pretrained_cfg", {})  # a timm registry model has one
    note = ""
    if "mean" in trained:
        note = f"Its images were normalised by mean {trained['mean']} and std {trained['std']}; ours are by ImageNet's."
    return Weights(where, state, sha256_of_state(state), heads=block.attn.num_heads, note=note)
