"""Figure 11: how alike two models' dumps are, by linear CKA (`hsic`).

A sample is an image with its patch tokens flattened, read from Grams of blocks of images; or, beside it, an image's
class token or mean patch, over all images at once, or a token of the raw images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analysis.hsic import (
    adjusted_cka,
    at_most_1,
    biased_null,
    centred,
    cka,
    feature_cka,
    group_edges,
    hsic0,
    hsic1,
    left_out,
    minibatch_cka,
    participation_ratio,
    token_cka,
)
from analysis.load import BASELINE, AnalysisError, Given
from training.intervals import Estimate, Jackknife

if TYPE_CHECKING:
    from training.dumps.store import Dump

_TOKEN_IMAGES = 16  # 3,136 tokens of 14x14 patches: already several times the width
_ROWS_AT_ONCE = 256  # images
_TRIMMED = 0.01  # of the images: a few far from the rest can make two models alike (Davari et al. 2023)
SUMMARIES = ("class token", "mean patch")  # order of the dump's `summary`, from the back
_Layer = tuple[tuple[str, ...], int]  # streams, number in them


@dataclass(frozen=True)
class Compared:
    """Two dumps layer by layer; arrays (layers,), but for `hsics` (blocks, layers, 3), the unbiased ones."""

    hsics: np.ndarray
    debiased: Estimate
    biased: Estimate
    null: np.ndarray  # of the biased one
    input_adjusted: Estimate  # debiased, the images' pixels regressed out
    trimmed: Estimate  # debiased, without the images whose features have the top 1 % of norms in either model
    reasons: list[str]  # why a layer's CKA is NaN; empty where it is not


def baseline(study: Given, depth: str | None) -> "Dump":
    """The last dump of m3ch, of its lowest seed. It reads no depth: one on another field serves as well."""
    fields = {dump.info.depth_field for dump in study.dumps if dump.info.model == BASELINE}
    if not fields:
        raise AnalysisError(
            f"CKA is with {BASELINE}, of which no dump was given: make one with 'train dump RUN --data SHARDS'"
        )
    chosen = depth or "pseudo"
    return study.epoch_dumps(BASELINE, chosen if chosen in fields else min(fields))[-1]


def compare(first: "Dump", second: "Dump") -> Compared:
    """CKA of flattened patch tokens from the dumps' Grams, one block of images in memory at a time.

    The norm of an image's features is taken from the block's mean, as its Gram is.
    """
    check_same_images(first, second)
    n, dumps = first.info.gram_batch, (first, second)
    blocks = range(first.info.num_images // n)
    most = [np.quantile([_diagonals(dump, block) for block in blocks], 1 - _TRIMMED, (0, 2)) for dump in dumps]
    unbiased, biased, trimmed, norms, traces = [], [], [], [], []
    for block in blocks:
        k, l = (centred(_grams(dump, block)) for dump in dumps)  # noqa: E741
        g = _of_stream(first, "input", block)
        with_input = [hsic1(k, g), hsic1(l, g), np.broadcast_to(hsic1(g, g), len(k))]
        unbiased.append(np.stack([hsic1(k, l), hsic1(k, k), hsic1(l, l), *with_input], -1))
        biased.append(np.stack([hsic0(k, l), hsic0(k, k), hsic0(l, l)], -1))
        of_each = zip(dumps, most, strict=True)
        kept = np.logical_and(*(_diagonals(dump, block) <= bound[:, None] for dump, bound in of_each))
        trimmed.append(np.stack([hsic1(k, l, kept), hsic1(k, k, kept), hsic1(l, l, kept)], -1))
        norms.append([(each**2).sum((-1, -2)) for each in (k, l)])
        traces.append([np.einsum("...ii->...", each) ** 2 for each in (k, l)])
    d1, d2 = participation_ratio(np.mean(traces, 0), np.mean(norms, 0), n)
    hsics = np.array(unbiased)
    reasons = [
        " and ".join(
            f"{dump.info.model}'s features do not vary (HSIC with itself {own:.1e})"
            for dump, own in zip(dumps, layer[1:3], strict=True)
            if not own > 0
        )
        for layer in hsics.mean(0)
    ]
    return Compared(
        hsics[..., :3],
        minibatch_cka(hsics[..., :3]),
        minibatch_cka(np.array(biased)),
        biased_null(d1, d2, n),
        at_most_1(left_out(hsics, adjusted_cka).estimate()),
        minibatch_cka(np.array(trimmed)),
        reasons,
    )


def block_cka(found: Compared) -> Jackknife:
    """(layers,) debiased CKA, with blocks of images left out in turn."""
    return left_out(found.hsics, cka)


def compare_summaries(first: "Dump", second: "Dump", summary: str) -> list[Estimate | None]:
    """Debiased CKA by layer over all images, of the `class token` or the `mean patch`; None where a model has none.

    A block of images of one layer in memory at a time.
    """
    check_same_images(first, second)
    groups = group_edges(first.info.num_images, at_least=4)
    found: list[Estimate | None] = []
    for place in zip(_layers(first), _layers(second), strict=True):
        if not all(_has_summary(dump, at, summary) for dump, at in zip((first, second), place, strict=True)):
            found.append(None)
            continue

        def blocks(group: int, place: "tuple[_Layer, _Layer]" = place) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            begin, end = groups[group]
            for row in range(begin, end, _ROWS_AT_ONCE):
                rows = slice(row, min(row + _ROWS_AT_ONCE, end))
                yield _summary(first, place[0], summary, rows), _summary(second, place[1], summary, rows)

        found.append(feature_cka(blocks, len(groups)))
    return found


def compare_tokens(
    first: "Dump", second: "Dump", position_centred: bool = False, trimmed: float = 0.0
) -> list[Estimate]:
    """`token_cka` by layer, over the patch tokens of the first images of both dumps' raw tiers."""
    check_same_images(first, second)
    images = min(first.info.num_raw, second.info.num_raw, _TOKEN_IMAGES)
    return [
        token_cka(_raw_tokens(first, ours, images), _raw_tokens(second, theirs, images), position_centred, trimmed)
        for ours, theirs in zip(_layers(first), _layers(second), strict=True)
    ]


def check_same_images(first: "Dump", second: "Dump") -> None:
    """Refuse dumps whose Grams are not of the same images in the same blocks."""
    for of, ours, theirs in (
        ("images a block", first.info.gram_batch, second.info.gram_batch),
        ("images", first.info.num_images, second.info.num_images),
        ("layers", first.info.num_layers, second.info.num_layers),
    ):
        if ours != theirs:
            raise AnalysisError(
                f"CKA compares dumps with equal numbers of {of}, got {ours} in {first.path} and {theirs} in "
                f"{second.path}: make both with the same options of train dump"
            )
    if first.info.num_images < first.info.gram_batch or first.info.gram_batch < 4:
        raise AnalysisError(
            f"{first.path}: CKA needs one block of at least 4 images, got {first.info.num_images} images in blocks of "
            f"{first.info.gram_batch}: make it again with 'train dump RUN --data SHARDS "
            "--images 5000'"
        )
    for key, other in zip(first.keys(), second.keys(), strict=True):
        if key != other:
            raise AnalysisError(
                f"CKA compares dumps of the same images; {first.path} has {key} where {second.path} has {other}: "
                "make both with the same --data and --images of train dump"
            )


def streams(dump: "Dump") -> list[tuple[str, ...]]:
    """The streams behind a model's layers, in order: those of one entry are read as one vector of both widths.

    Plain blocks as wide as both branches together read them on as one vector; otherwise the RGB branch goes on alone.
    """
    if not dump.info.first_attention_layer:
        return [("tokens",)]
    tokens, rgb, depth = map(dump.info.stream, ("tokens", "rgb", "depth"))
    return [("rgb", "depth") if tokens.width == rgb.width + depth.width else ("rgb",), ("tokens",)]


def _grams(dump: "Dump", block: int) -> np.ndarray:
    """(layers, b, b) with diagonals; the Gram of concatenated features is the sum of theirs."""
    return np.concatenate([sum(_of_stream(dump, name, block) for name in names) for names in streams(dump)])


def _of_stream(dump: "Dump", name: str, block: int) -> np.ndarray:
    where, rows = f"statistics/similarity/{name}", slice(block, block + 1)
    grams = dump.read(f"{where}/grams", rows)[0].astype(np.float64)
    diagonal = np.arange(grams.shape[-1])
    grams[:, diagonal, diagonal] = dump.read(f"{where}/diagonals", rows)[0]
    return grams


def _diagonals(dump: "Dump", block: int) -> np.ndarray:
    """(layers, b) of `_grams`."""
    rows = slice(block, block + 1)
    found = [
        sum(dump.read(f"statistics/similarity/{name}/diagonals", rows)[0].astype(np.float64) for name in names)
        for names in streams(dump)
    ]
    return np.concatenate(found)


def _layers(dump: "Dump") -> list[_Layer]:
    return [(names, layer) for names in streams(dump) for layer in range(dump.info.stream(names[0]).num_layers)]


def _has_summary(dump: "Dump", at: _Layer, summary: str) -> bool:
    return summary != SUMMARIES[0] or all(dump.info.stream(name).prefix for name in at[0])


def _summary(dump: "Dump", at: _Layer, summary: str, rows: slice) -> np.ndarray:
    """(images, width)"""
    column = SUMMARIES.index(summary) - len(SUMMARIES)
    values = [dump.read(f"statistics/similarity/{name}/summary", (rows, at[1])) for name in at[0]]
    return np.concatenate([value[:, column] for value in values], -1)


def _raw_tokens(dump: "Dump", at: _Layer, images: int) -> np.ndarray:
    """(images, patches, width)"""
    values = [dump.read(f"raw/resid_post/{name}", (slice(0, images), at[1])) for name in at[0]]
    return np.concatenate([value[:, -dump.info.num_patches :] for value in values], -1)
