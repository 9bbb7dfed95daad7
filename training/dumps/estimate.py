"""What a dump will take, told before it is made: bytes of the store, and of memory beside the model's. No torch."""

from training.dumps.pairs import REGRESSORS
from training.dumps.schema import DumpInfo, arrays
from training.dumps.store import SHARD
from training.dumps.tokens import NUM_FOLDS

_PAIR_PLANES = 4 + 3.5 * len(REGRESSORS)  # float64 numbers a pair of patches while its regressors are made


def estimated_bytes(info: DumpInfo) -> int:
    """Uncompressed size of the store."""
    return sum(spec.num_bytes for spec in arrays(info).values())


def estimated_memory(info: DumpInfo) -> int:
    """Most bytes that are held at once: sums, a block of features, a batch; the model and its activations on top.

    What the observational statistics held an allocator may keep when the causal tier begins: their sums stay counted.
    """
    specs = arrays(info)
    once = {n: s for n, s in specs.items() if n.startswith("statistics/") and not s.by_image}
    apart = ("statistics/similarity", "statistics/probe")
    sums = sum(s.num_bytes for n, s in once.items() if not n.startswith(apart))
    probes = sum(_probe_bytes(info, s.num_layers, s.width) for s in info.streams)
    packed = sum(s.num_bytes for n, s in specs.items() if n.startswith("statistics/probe"))
    widths = [info.num_patches * s.width for s in info.streams for _ in range(s.num_layers)] + [3 * info.image_size**2]
    features = 4 * info.gram_batch * (sum(widths) + max(widths))  # of blocks and of photographs, one being centred
    raw = sum(s.num_bytes for n, s in specs.items() if n.startswith("raw/"))
    raw_batch = 2 * raw * min(SHARD, info.num_raw) // max(1, info.num_raw)  # of each layer, and put together
    observing = features + probes + _batch_bytes(info, info.num_images) + raw_batch
    return sums + max(observing, probes + packed, packed + _causal_bytes(info))


def _probe_bytes(info: DumpInfo, num_layers: int, width: int) -> int:
    """`ProbeMoments` holds squares, of which the store has a triangle."""
    return 8 * NUM_FOLDS * num_layers * (2 * (width + 3) ** 2 + info.num_patches * (width + 1))


def _batch_bytes(info: DumpInfo, num_images: int) -> int:
    """Pairs and what `Reduced` and `PatternSums` work in."""
    planes = 8 * _PAIR_PLANES + 4 * (3 * info.num_heads + 3)
    return int(min(SHARD, num_images) * info.num_patches**2 * planes)


def _causal_bytes(info: DumpInfo) -> int:
    """A pass's scores of all layers, a layer's comparison in float64, and the moments of refitted probes."""
    if info.num_causal == 0:
        return 0
    last = info.stream("tokens")
    tokens, batch = info.num_prefix + info.num_patches, min(SHARD, info.num_causal)
    scores = batch * info.num_heads * (4 * info.num_attention_layers * tokens**2 + 28 * info.num_patches**2)
    refits = _probe_bytes(info, last.num_layers + 1, last.width)
    return scores + refits
