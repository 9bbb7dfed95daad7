"""`train dump`: one pass of a checkpoint over a split into the Zarr contract of `training/dumps`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline import shards
from training.augment import RGB_MEAN, RGB_STD, normalise
from training.checkpoint import Checkpoint
from training.config import Config
from training.data import EvalBatches, eval_loader
from training.dumps import sums
from training.dumps.store import DumpInfo, DumpWriter
from training.models.attention import Taps
from training.models.patch_depth import MODES, patch_depth
from training.models.vit import VisionTransformer
from training.records import RunRecord

_BATCH = 16
_TOLERANCE = 1e-3  # logits of the taps' path against the fused one, fp32


class DumpFailed(ValueError):
    """The dump cannot be made; one line that says why."""


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
    patch_depth: str | None = None,
) -> DumpInfo:
    """What the dump will say of itself; `num_images` None means the whole split.

    `patch_depth` is the mode of |Δ| in the statistics. Dumps that shall share a figure need the same one.
    """
    if config.model.num_blocks < config.model.depth:
        raise DumpFailed(
            f"dumps need plain attention in every block, and {config.model.name} begins with blocks of two branches, "
            "whose dumps are not available yet"
        )
    count = len(split) if num_images is None else min(num_images, len(split))
    if count < 1:
        raise DumpFailed(f"--images must be at least 1, got {num_images}")
    if num_raw < 0:
        raise DumpFailed(f"--raw must be at least 0, got {num_raw}")
    depth = split.index.depth[depth_field]
    mode = patch_depth or getattr(config.model, "patch_depth", "mean")
    if mode not in MODES:
        raise DumpFailed(f"--patch-depth must be one of {', '.join(MODES)}, got {mode!r}")
    return DumpInfo(
        model=config.model.name,
        run=record.name,
        config=record.config,
        study_hash=record.study_hash,
        checkpoint=saved.folder.name,
        checkpoint_sha256=saved.info.sha256,
        epoch=saved.info.epoch,
        data=split.data,
        split=split.index.split,
        fingerprint=split.index.fingerprint,
        depth_field=depth_field,
        standardisation={name: getattr(depth, name) for name in ("mean", "std", "polarity", "unit")},
        patch_depth=mode,
        scale=(config.model.width // config.model.heads) ** -0.5,
        has_bias=model.has_bias,
        cls_index=0,
        num_layers=config.model.depth,
        num_heads=config.model.heads,
        grid=config.model.grid,
        image_size=config.model.image_size,
        num_images=count,
        num_raw=min(num_raw, count),
        dtype="float32",
        max_fused_difference=0.0,
    )


@torch.inference_mode()
def dump(
    info: DumpInfo,
    config: Config,
    model: VisionTransformer,
    split: shards.Split,
    out: Path,
    device: torch.device,
    advance: Callable[[int], None],
) -> None:
    """Write the dump; memory does not grow with the number of images."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = model.to(device).eval()
    writer = DumpWriter(out, info)  # refuses a target that is no dump before any work
    bins = {part: [sums.ScoreBins.zeros(info.num_heads) for _ in range(info.num_layers)] for part in info.parts}
    first = 0
    batches = eval_loader(split, config, info.depth_field, _BATCH)
    writer.info = info.model_copy(
        update={"max_fused_difference": _fused_difference(model, split, config, info, device)}
    )
    with writer:
        while first < info.num_images:
            batch = next(batches).to(device)
            keep = min(len(batch.keys), info.num_images - first)
            rgb, depth = batch.rgb[:keep], batch.depth[:keep]
            taps: Taps = {}
            model(normalise(rgb, RGB_MEAN, RGB_STD), depth, taps)
            _write_batch(writer, info, bins, first, rgb, depth, taps)
            writer.write_keys(first, batch.keys[:keep])
            first += keep
            advance(keep)
        for part in info.parts:
            for name in ("sum", "sum_sq", "sum_centred", "count", "images"):
                stacked = np.stack([getattr(layer, name) for layer in bins[part]])
                writer.write(f"statistics/{part}/bins/{name}", 0, stacked)


def _fused_difference(
    model: VisionTransformer, split: shards.Split, config: Config, info: DumpInfo, device: torch.device
) -> float:
    """Largest difference of logits between the explicit and the fused path on the first batch; raises above 1e-3."""
    batch = EvalBatches(split, config, info.depth_field, _BATCH)[0].to(device)
    rgb = normalise(batch.rgb, RGB_MEAN, RGB_STD)
    difference = float((model(rgb, batch.depth, {}) - model(rgb, batch.depth)).abs().max())
    if not difference <= _TOLERANCE:
        raise DumpFailed(
            f"explicit and fused attention differ by {difference:.2e} in the logits, more than {_TOLERANCE}"
        )
    return difference


def _write_batch(
    writer: DumpWriter,
    info: DumpInfo,
    bins: dict[str, list[sums.ScoreBins]],
    first: int,
    rgb: torch.Tensor,
    depth: torch.Tensor,
    taps: Taps,
) -> None:
    patch_size = info.image_size // info.grid[0]
    modes: dict[str, torch.Tensor] = {mode: patch_depth(depth.float(), patch_size, mode) for mode in MODES}
    pairs = sums.Pairs.of(modes[info.patch_depth], info.grid)
    writer.write("statistics/pair_rows", first, pairs.rows().cpu().numpy())
    rows: dict[str, list[np.ndarray]] = {part: [] for part in info.parts}
    cosines: dict[str, list[np.ndarray]] = {part: [] for part in info.parts}
    for layer in range(info.num_layers):
        scores = taps[f"blocks.{layer}.attn.scores_pre_bias"].float()
        bias = taps.get(f"blocks.{layer}.attn.bias")
        for part in info.parts:
            total = scores if part == "content" or bias is None else scores + bias.float()
            patches = total[:, :, 1:, 1:]
            layer_rows, layer_cosines = sums.score_rows(patches, pairs)
            rows[part].append(layer_rows.cpu().numpy())
            cosines[part].append(layer_cosines.cpu().numpy())
            bins[part][layer].update(patches, pairs)
    for part in info.parts:
        writer.write(f"statistics/{part}/rows", first, np.stack(rows[part], 1))
        writer.write(f"statistics/{part}/cosines", first, np.stack(cosines[part], 1))
    if first < info.num_raw:
        scores = torch.stack(
            [taps[f"blocks.{layer}.attn.scores_pre_bias"].float() for layer in range(info.num_layers)], 1
        )
        mean = scores.mean(-1)
        # Row means are kept apart: raw scores can exceed what fp16 holds, and softmax ignores them.
        writer.write("raw/scores_pre_bias", first, (scores - mean[..., None]).half().cpu().numpy())
        writer.write("raw/row_mean", first, mean.cpu().numpy())
        for mode, patches in modes.items():
            writer.write(f"raw/patch_depth/{mode}", first, patches.nan_to_num(nan=float("inf")).cpu().numpy())
        writer.write("raw/rgb", first, rgb.permute(0, 2, 3, 1).cpu().numpy())
