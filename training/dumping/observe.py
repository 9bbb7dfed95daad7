"""What `train dump` takes from one batch of images: every statistic, and of the first images the raw tier."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from training.dumps.schema import MODES, DumpInfo, Mode
from training.dumps.scores import Bias
from training.dumps.statistics import Statistics
from training.dumps.store import DumpWriter
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.models.patch_depth import patch_depth
from training.models.vit import VisionTransformer
from training.tasks.classification.batch import ImageBatch


class DumpFailed(UserError):
    """The dump cannot be made; one line that says why."""


class Views(NamedTuple):
    """A batch, the same number of depths of the images' partners, and depths of another field, if there is one."""

    batch: ImageBatch
    other: Tensor
    matched: Tensor | None

    def to(self, device: torch.device) -> "Views":
        matched = None if self.matched is None else self.matched.to(device)
        return Views(self.batch.to(device), self.other.to(device), matched)


def observe(model: VisionTransformer, views: Views, statistics: Statistics, writer: DumpWriter) -> None:
    """One batch into the statistics and, of the first images, the raw tier."""
    info, batch = statistics.info, views.batch
    numbers = np.arange(batch.first, batch.first + len(batch.keys))
    size = info.image_size // info.grid[0]
    modes = {mode: patch_depth(batch.depth.float(), size, mode) for mode in MODES}
    other = patch_depth(views.other.float(), size, info.patch_depth)
    statistics.begin(numbers, modes[info.patch_depth], other, patch_colour(batch.rgb, size))
    statistics.inputs(batch.rgb.float() / 255)
    raw = _Raw(info, batch.first, len(batch.keys))
    scales = [bias.head_scale if bias else None for bias in model.biases(batch.depth[:1])]
    logits = model(normalise(batch.rgb, RGB_MEAN, RGB_STD), batch.depth, _Observer(scales, statistics, raw))
    statistics.end()
    raw.write(writer, batch.rgb, modes)
    writer.write("statistics/labels", batch.first, batch.label.int().cpu().numpy())
    writer.write("statistics/predicted", batch.first, logits.argmax(1).int().cpu().numpy())
    writer.write_keys(batch.first, batch.keys)


def patch_colour(rgb: Tensor, patch_size: int) -> Tensor:
    """uint8 (batch, 3, height, width) -> mean colour of patches (batch, patches, 3) in 0..1."""
    return torch.nn.functional.avg_pool2d(rgb.float() / 255, patch_size).flatten(2).transpose(1, 2)


class _Observer:
    """Taps that hand every tensor to the statistics as it comes and keep none; nothing is changed."""

    def __init__(self, head_scales: Sequence[Tensor | None], statistics: Statistics, raw: "_Raw") -> None:
        self.statistics, self.raw, self.first = statistics, raw, statistics.info.first_attention_layer
        self.head_scales = head_scales  # of each block's bias
        self._scores: Tensor

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        _, number, kind = name.split(".", 2)
        layer = int(number) - self.first
        values = tensor.float()
        if kind == "attn.scores_pre_bias":
            self.raw.scores(layer, values)
            self._scores = values
            if self.head_scales[layer] is None:
                self.statistics.scores(layer, values)
        elif kind == "attn.bias":
            scale = self.head_scales[layer]
            assert scale is not None
            strongest = int(scale.abs().argmax())
            table = (values[:, strongest] / scale[strongest]).nan_to_num(0.0)  # no head has any: 0 / 0
            self.statistics.scores(layer, self._scores, Bias(scale, table))
            self.raw.bias(table)
        elif kind == "attn.pattern":
            self.statistics.pattern(layer, values)
        else:
            stream = kind.removesuffix("resid_post").rstrip(".") or "tokens"
            place = layer if stream == "tokens" else int(number)
            prefix = self.statistics.info.stream(stream).prefix
            summary = torch.cat([values[:, :prefix], values[:, prefix:].mean(1, keepdim=True)], 1)
            _halved(summary, f"output of block {int(number) + 1}")  # as the store will: it would not tell
            self.statistics.tokens(stream, place, values)
            self.raw.tokens(stream, place, values)
        return tensor


class _Raw:
    """The raw rows of one batch, written at once: a batch is a file. Images beyond the raw tier cost nothing."""

    def __init__(self, info: DumpInfo, first: int, count: int) -> None:
        self.info, self.first = info, first
        self.keep = max(0, min(count, info.num_raw - first))
        self._rows: dict[str, list[np.ndarray]] = {}

    def scores(self, layer: int, scores: Tensor) -> None:
        if self.keep:
            kept = scores[: self.keep]
            mean = kept.mean(-1)
            # Row means are kept apart: raw scores can exceed what fp16 holds, and softmax ignores them.
            block = self.info.first_attention_layer + layer + 1
            self._add("scores_pre_bias", _halved(kept - mean[..., None], f"scores of block {block}"))
            self._add("row_mean", mean.cpu().numpy())

    def bias(self, table: Tensor) -> None:
        if self.keep and self.info.bias == "raw":
            self._add("bias_table", table[: self.keep].cpu().numpy())

    def tokens(self, stream: str, layer: int, tokens: Tensor) -> None:
        if self.keep:
            block = self.info.stream(stream).first_layer + layer + 1
            self._add(f"resid_post/{stream}", _halved(tokens[: self.keep], f"output of block {block}"))

    def _add(self, name: str, values: np.ndarray) -> None:
        self._rows.setdefault(name, []).append(values)

    def write(self, writer: DumpWriter, rgb: Tensor, modes: dict[Mode, Tensor]) -> None:
        if not self.keep:
            return
        for name, layers in self._rows.items():
            writer.write(f"raw/{name}", self.first, np.stack(layers, 1))
        for mode, patches in modes.items():
            writer.write(f"raw/patch_depth/{mode}", self.first, patches.nan_to_num(nan=float("inf")).cpu().numpy())
        writer.write("raw/rgb", self.first, rgb.permute(0, 2, 3, 1).cpu().numpy())


def _halved(values: Tensor, what: str) -> np.ndarray:
    half = values.half()
    if not bool(torch.isfinite(half).all()):
        raise DumpFailed(f"{what} holds values that fp16 cannot (65,504 at most): the checkpoint has diverged")
    return half.cpu().numpy()
