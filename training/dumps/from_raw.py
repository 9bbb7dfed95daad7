"""CONTRACT: the statistics of a dump computed again from its raw tier, by the code that streamed them. No torch.

What `train dump` adds up on the device can so be checked, and computed for the raw images alone. Raw scores are kept in
fp16 beside their row means in fp32, so the two agree to fp16's rounding.
"""

import numpy as np

from training.dumps.pairs import partner
from training.dumps.schema import DumpInfo, arrays
from training.dumps.scores import Bias
from training.dumps.statistics import Statistics
from training.dumps.store import SHARD, Dump, DumpError


def raw_scores(dump: Dump, layer: int, images: slice) -> np.ndarray:
    """Float64 (images, heads, T, T): the scores before any bias of an attention layer, row means put back."""
    centred = dump.read("raw/scores_pre_bias", (images, layer)).astype(np.float64)
    return centred + dump.read("raw/row_mean", (images, layer)).astype(np.float64)[..., None]


def raw_depth(dump: Dump, mode: str, images: slice) -> np.ndarray:
    """Float64 (images, P): patch depth in z, NaN where a patch has no valid pixel."""
    return _with_gaps(dump.read(f"raw/patch_depth/{mode}", images))


def raw_bias(dump: Dump, layer: int, depth: np.ndarray, images: slice) -> Bias | None:
    """What a model with a bias adds to an attention layer's scores of these images; None for other models. Float64.

    From its parameters, or its table as it was kept. `depth` (images, P) in the mode the model reads (`bias_mode`), NaN
    invalid. Zero on class tokens and where a depth is missing.
    """
    info = dump.info
    if info.bias is None:
        return None
    every = dump["parameters/head_scale"].astype(np.float64)
    scale = every if every.ndim == 1 else every[layer]  # until schema 4 one for all layers
    if info.bias == "raw":
        return Bias(scale, dump.read("raw/bias_table", (images, layer)).astype(np.float64))
    difference = np.nan_to_num(depth[:, :, None] - depth[:, None])
    known = ~np.isnan(depth)
    pairs = known[:, :, None] & known[:, None]
    if info.bias == "linear":
        table = float(dump["parameters/alpha"][layer]) * abs(difference)
    else:
        w, b, a = dump["parameters/phi"][layer].astype(np.float64)
        table = sum(a[k] * np.maximum(w[k] * difference + b[k], 0) for k in range(len(w)))
    table = np.pad(np.where(pairs, table, 0.0), [(0, 0), (info.num_prefix, 0), (info.num_prefix, 0)])
    return Bias(scale, table)


def biased(scores: np.ndarray, bias: Bias | None) -> np.ndarray:
    """Scores (images, heads, T, T) with what the model adds to them."""
    return scores if bias is None else scores + bias.head_scale[:, None, None] * bias.table[:, None]


def bias_mode(info: DumpInfo) -> str:
    """The patch depth that the model itself reads, which the statistics may differ from."""
    return str(info.config.get("model", {}).get("patch_depth", info.patch_depth))


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def statistics_of_raw(dump: Dump) -> dict[str, np.ndarray]:
    """The arrays of `statistics/`, over the images of the raw tier; a shard of images is held at once."""
    if dump.info.num_raw == 0:
        raise DumpError(f"{dump.path} holds no raw scores: make it again with train dump --raw 64")
    info = dump.info.model_copy(update={"num_images": dump.info.num_raw, "num_raw": 0, "num_causal": 0})
    found = {name: np.full(spec.shape, np.nan) for name, spec in arrays(info).items() if name.startswith("statistics/")}

    def write(name: str, place: int | tuple[int, int], values: np.ndarray) -> None:
        if name in found:
            found[name][place if isinstance(place, tuple) else slice(place, place + len(values))] = values

    statistics = Statistics(info, write, np.zeros(0))
    for first in range(0, info.num_images, SHARD):
        _add_shard(dump, statistics, slice(first, min(first + SHARD, info.num_images)))
    statistics.finish()
    return found


def _add_shard(dump: Dump, statistics: Statistics, images: slice) -> None:
    info = dump.info
    numbers = np.arange(images.start, images.stop)
    others = [partner(int(n), info.num_images) for n in numbers]
    other = np.concatenate([_with_gaps(dump.read("statistics/patch_depth", slice(n, n + 1))) for n in others])
    side = info.image_size // info.grid[0]
    rgb = dump.read("raw/rgb", images).astype(np.float64) / 255
    colour = (
        rgb.reshape(len(numbers), info.grid[0], side, info.grid[1], side, 3).mean((2, 4)).reshape(len(numbers), -1, 3)
    )
    statistics.begin(numbers, raw_depth(dump, info.patch_depth, images), other, colour)
    statistics.inputs(rgb)
    own = raw_depth(dump, bias_mode(info), images)
    for layer in range(info.num_attention_layers):
        scores = raw_scores(dump, layer, images)
        bias = raw_bias(dump, layer, own, images)
        statistics.scores(layer, scores, bias)
        statistics.pattern(layer, softmax(biased(scores, bias)))
    for stream in info.streams:
        for layer in range(stream.num_layers):
            tokens = dump.read(f"raw/resid_post/{stream.name}", (images, layer)).astype(np.float64)
            statistics.tokens(stream.name, layer, tokens)
    statistics.end()


def _with_gaps(depth: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(depth), np.nan, depth.astype(np.float64))
