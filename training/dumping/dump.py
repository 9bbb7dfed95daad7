"""`train dump`: one pass of a checkpoint over images of val into the Zarr contract of `training/dumps`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils.data import Dataset

from pipeline import shards
from training.dumping.interventions import Tools, intervene, interventions_of
from training.dumping.observe import DumpFailed, Views, observe
from training.dumps.pairs import partner
from training.dumps.schema import MODES, DumpInfo, Stream
from training.dumps.statistics import Statistics
from training.dumps.store import SHARD, DumpWriter
from training.dumps.tokens import gram_batch
from training.engine.checkpoint import Checkpoint
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.loading.data import load
from training.models.score_bias import ScoreBias
from training.models.vit import VisionTransformer
from training.records import RunRecord
from training.tasks.classification.config import Config
from training.tasks.classification.data import classes_sha256
from training.tasks.classification.samples import eval_batch, eval_depth, fields_of

NUM_GROUPS = 50  # of images, for jackknives
_TOLERANCE = 1e-3  # logits of the taps' path against the fused one, fp32


def spread(count: int, total: int) -> np.ndarray:
    """`count` places out of `total`, evenly spread: a split may be in the order of its classes."""
    return np.arange(count) * total // count


def causal_numbers(info: DumpInfo) -> np.ndarray:
    """Places in the dump of the causal tier's images: so many, spread, and after them their partners, in that order."""
    first = spread(info.num_causal // 2, info.num_images // 2)
    return np.concatenate([first, first + info.num_images // 2])


class DumpedImages(Dataset[Views]):
    """Images of a split at `places`, in their order, in batches of SHARD; batch `number` of them."""

    def __init__(
        self, split: shards.Split, config: Config, info: DumpInfo, numbers: np.ndarray, matched: str | None = None
    ) -> None:
        self.split, self.config, self.info, self.matched = split, config, info, matched
        self.numbers = numbers  # places in the dump
        self.places = spread(info.num_images, len(split))

    def __len__(self) -> int:
        return -(-len(self.numbers) // SHARD)

    def __getitem__(self, number: int) -> Views:
        chosen = self.numbers[number * SHARD : (number + 1) * SHARD]
        others = [partner(int(image), self.info.num_images) for image in chosen]
        field = self.info.depth_field
        fields = fields_of(field, self.info.labelled)
        samples = (self.split.members(int(self.places[image]), fields) for image in chosen)
        batch = eval_batch(samples, len(chosen), self.config, field, int(chosen[0]))
        return Views(batch, self._depth(others, field), self._depth(chosen, self.matched) if self.matched else None)

    def _depth(self, images: "np.ndarray | list[int]", field: str) -> Tensor:
        """Of the dump's own field, which is of its RGB's size, or another of the same size."""
        both = {self.info.depth_field, field}
        samples = [self.split.members(int(self.places[image]), both) for image in images]
        for members in samples if len(both) > 1 else ():
            members.check_sizes({name: members.decode(name) for name in both})
        return eval_depth(samples, self.config, field)


def counts(split: shards.Split, num_images: int | None, num_raw: int, num_causal: int) -> tuple[int, int, int]:
    """(images, raw, causal) of a dump that is asked for so many, None for the whole split."""
    images = len(split) if num_images is None else min(num_images, len(split))
    return images, min(num_raw, images), 2 * min(-(-num_causal // 2), images // 2)  # whole pairs of partners


def plan_dump(
    config: Config,
    record: RunRecord,
    saved: Checkpoint,
    model: VisionTransformer,
    split: shards.Split,
    depth_field: str,
    *,
    num_images: int | None,
    num_raw: int,
    num_causal: int = 0,
    patch_depth: str = "mean",
    other_depth: Sequence[str] = (),
) -> DumpInfo:
    """What the dump will say of itself; `num_images` None means the whole split.

    `patch_depth` is the mode of |Δ| in the statistics, whichever the model's own bias reads; dumps that shall share a
    figure need the same one. Images of other classes than the run's, or of none, are taken without their labels.
    """
    count, raw, causal = counts(split, num_images, num_raw, num_causal)
    if count < 2:
        raise DumpFailed(f"--images must be at least 2 (each is compared with another), got {count}")
    for name, number in (("--raw", num_raw), ("--causal", num_causal)):
        if number < 0:
            raise DumpFailed(f"{name} must be at least 0, got {number}")
    depth = split.index.depth[depth_field]
    if patch_depth not in MODES:
        raise DumpFailed(f"--patch-depth must be one of {', '.join(MODES)}, got {patch_depth!r}")
    biases, shape = biases_of(model), config.model
    labelled = classes_sha256(split) == record.shards.classes_sha256
    info = _checked(
        model=shape.name,
        run=record.name,
        config=record.config,
        study_hash=record.study_hash,
        checkpoint=saved.name,
        checkpoint_sha256=saved.info.sha256,
        epoch=saved.info.epoch,
        data=split.data,
        split=split.index.split,
        fingerprint=split.index.fingerprint,
        own_data=split.index.fingerprint == record.shards.val_fingerprint,
        classes_sha256=record.shards.classes_sha256,
        class_names=list(split.index.class_names) if labelled else [],
        labelled=labelled,
        depth_field=depth_field,
        other_depth=list(other_depth),
        standardisation={"mean": depth.mean, "std": depth.std, "polarity": depth.polarity, "unit": depth.unit},
        patch_depth=patch_depth,
        scale=(shape.width // shape.heads) ** -0.5,
        bias=biases[0].stored if biases else None,
        num_prefix=shape.num_prefix,
        num_layers=shape.depth,
        first_attention_layer=shape.depth - shape.num_blocks,
        streams=streams_of(config),
        num_heads=shape.heads,
        grid=shape.grid,
        image_size=shape.image_size,
        num_images=count,
        num_raw=raw,
        num_groups=min(NUM_GROUPS, count),
        gram_batch=gram_batch(count),
        dtype="float32",
        max_fused_difference=0.0,
    )
    if num_causal == 0:
        return info
    names = interventions_of(info, matched_field(info, split))
    return info.model_copy(update={"num_causal": causal, "interventions": names})


def _checked(**facts: Any) -> DumpInfo:
    try:
        return DumpInfo(**facts)
    except ValidationError as error:
        first = error.errors()[0]
        name, got = ".".join(map(str, first["loc"])), f"{first['input']!r:.60}"
        raise DumpFailed(
            f"no reader would take this dump, {name}: {first['msg']}, got {got}: rename it, or verify the shards"
        ) from None


def biases_of(model: VisionTransformer) -> list[ScoreBias]:
    """Of every block, on some image; none where the model adds nothing."""
    size = model.config.image_size
    found = model.biases(torch.zeros(1, 1, size, size, device=model.cls_token.device))
    return [bias for bias in found if bias is not None]


def matched_field(info: DumpInfo, split: shards.Split) -> str | None:
    """Another depth of the same images: real depth, or pseudo-depth for real."""
    wanted = "pseudo" if info.depth_field == "real" else "real"
    return wanted if wanted in split.index.depth else None


def streams_of(config: Config) -> list[Stream]:
    shape = config.model
    first = shape.depth - shape.num_blocks
    tokens = Stream(
        name="tokens", first_layer=first, num_layers=shape.num_blocks, prefix=shape.num_prefix, width=shape.width
    )
    branches = shape.branches.items()
    return [tokens, *(Stream(name=n, first_layer=0, num_layers=first, prefix=0, width=w) for n, w in branches)]


@torch.inference_mode()
def dump(
    info: DumpInfo,
    config: Config,
    model: VisionTransformer,
    split: shards.Split,
    out: Path,
    device: torch.device,
    advance: Callable[[int], None],
) -> DumpInfo:
    """Write the dump and return what it says of itself; memory does not grow with the number of images."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = model.to(device).eval()
    writer = DumpWriter(out, info)  # refuses a target that is no dump before any work
    images = DumpedImages(split, config, info, np.arange(info.num_images))
    difference = _fused_difference(model, images[0].to(device))
    writer.info = info.model_copy(update={"max_fused_difference": difference})
    with writer:
        like = torch.zeros(0, device=device)
        statistics = Statistics(info, writer.write, like)
        for views in load(images, range(len(images)), config.runtime):
            observe(model, views.to(device), statistics, writer)
            advance(len(views.batch.keys))
        statistics.finish()
        if not statistics.finished["statistics/probe/position"][..., 0].any():
            raise DumpFailed(f"no patch of these images has {info.depth_field} depth: choose another with --depth")
        for name, values in bias_parameters(model).items():
            writer.write(f"parameters/{name}", 0, values)
        if info.num_causal:
            tools = Tools.of(model, info, statistics)
            del statistics  # what follows needs as much memory
            chosen = DumpedImages(split, config, info, causal_numbers(info), matched_field(info, split))
            batches = load(chosen, range(len(chosen)), config.runtime)
            intervene(model, info, tools, (views.to(device) for views in batches), writer, advance)
    return writer.info


def _fused_difference(model: VisionTransformer, views: Views) -> float:
    """Largest difference of logits between the explicit and the fused path on the first batch; raises above 1e-3."""
    rgb = normalise(views.batch.rgb, RGB_MEAN, RGB_STD)
    explicit = model(rgb, views.batch.depth, lambda name, tensor: tensor)
    difference = float((explicit - model(rgb, views.batch.depth)).abs().max())
    if not difference <= _TOLERANCE:
        raise DumpFailed(
            f"explicit and fused attention differ by {difference:.2e} in the logits, more than {_TOLERANCE}"
        )
    return difference


def bias_parameters(model: VisionTransformer) -> dict[str, np.ndarray]:
    """What the dump keeps of each block's bias: head_scale (blocks, heads), and what its form needs besides."""
    every = [{"head_scale": bias.head_scale} | bias.parameters() for bias in biases_of(model)]
    names = every[0] if every else {}
    return {name: torch.stack([each[name] for each in every]).detach().float().cpu().numpy() for name in names}
