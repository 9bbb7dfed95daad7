"""Figure 11: how alike two models represent the same images, by linear CKA (Kornblith et al. 2019).

A sample is an image with its patch tokens flattened; X are the centred features, K = XX' their Gram.

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

The biased HSIC grows with width over number of images and is far from 0 for unrelated features; so the default is the
unbiased one (Song et al. 2012), averaged over minibatches before the ratio (Nguyen et al. 2021), which may come out
slightly negative. Minibatches or groups of images are the units of every interval. Never a bootstrap with replacement:
an image drawn twice is identical to itself off the diagonal, which gives independent data a CKA near 0.7.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from analysis.load import BASELINE, AnalysisError, Study
from analysis.statistics import Estimate, jackknife

if TYPE_CHECKING:
    from training.dumps.store import Dump

_GROUPS = 10  # of images, left out in turn
_TOKEN_IMAGES = 16  # 3,136 tokens of 14x14 patches: already several times the width
_CONCATENATED = ("mgem",)  # its fused layers are read on as one vector; elsewhere the RGB branch goes on
SUMMARIES = ("class token", "mean patch")  # order of the dump's `summary`, from the back


def hsic1(k: np.ndarray, l: np.ndarray) -> np.ndarray:  # noqa: E741  the pair is K and L everywhere
    """Unbiased HSIC of Grams (..., n, n), n >= 4, whatever their diagonals and means (Song et al. 2012, equation 5)."""
    n = k.shape[-1]
    off_diagonal = 1.0 - np.eye(n)
    k, l = k * off_diagonal, l * off_diagonal  # noqa: E741
    k_rows, l_rows = k.sum(-1), l.sum(-1)
    trace = np.einsum("...ij,...ij->...", k, l)
    ends = k_rows.sum(-1) * l_rows.sum(-1) / ((n - 1) * (n - 2))
    middle = np.einsum("...i,...i->...", k_rows, l_rows) * 2 / (n - 2)
    return (trace + ends - middle) / (n * (n - 3))


def hsic0(k: np.ndarray, l: np.ndarray) -> np.ndarray:  # noqa: E741
    """Biased HSIC of Grams (..., n, n): <HKH, HLH> / (n - 1)², H the centring (Gretton et al. 2005)."""
    return np.einsum("...ij,...ij->...", centred(k), centred(l)) / (k.shape[-1] - 1) ** 2


def centred(k: np.ndarray) -> np.ndarray:
    """HKH: the Gram of the features minus their mean."""
    rows = k.mean(-1, keepdims=True)
    return k - rows - rows.swapaxes(-1, -2) + rows.mean(-2, keepdims=True)


def cka(hsics: np.ndarray) -> np.ndarray:
    """(..., 3) of HSIC(K, L), HSIC(K, K), HSIC(L, L) -> (...); NaN where a self-HSIC is not positive."""
    cross, own, other = np.moveaxis(hsics, -1, 0)
    usable = (own > 0) & (other > 0)
    return np.where(usable, cross / np.sqrt(np.where(usable, own * other, 1.0)), np.nan)


def minibatch_cka(hsics: np.ndarray, level: float = 0.95) -> Estimate:
    """From (blocks, ..., 3): the ratio of mean HSICs, and Student's interval from the standard error of such a ratio.

    That error is the spread over blocks of the ratio's linear part; its bounds are NaN for fewer than two blocks.
    """
    num_blocks, mean = len(hsics), hsics.mean(0)
    value = cka(mean)
    if num_blocks < 2:
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    cross, own, other = np.moveaxis(hsics, -1, 0)
    usable = ~np.isnan(value)
    own_mean, other_mean = (np.where(usable, mean[..., column], 1.0) for column in (1, 2))
    linear = cross / np.sqrt(own_mean * other_mean) - value / 2 * (own / own_mean + other / other_mean)
    half = stdtrit(num_blocks - 1, (1 + level) / 2) * linear.std(0, ddof=1) / np.sqrt(num_blocks)
    return Estimate(value, value - half, value + half)


def participation_ratio(trace_sq: np.ndarray, norm_sq: np.ndarray, n: int) -> np.ndarray:
    """d = (tr Σ)² / tr Σ² of the features' covariance, from (tr K)² and |K|² of their centred Gram of n samples.

    The plain quotient is at most n - 1, for it sees n samples. This one is free of that: the biased null of n, d1 and
    d2 is then exactly the mean of the biased CKA over all permutations of the samples.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # infinitely many equal directions, or no features at all
        share = np.minimum(trace_sq / (norm_sq * (n - 1)), 1.0)
        return n / (1 / share - 1)


def biased_null(d1: np.ndarray, d2: np.ndarray, n: int) -> np.ndarray:
    """Expected biased CKA of independent features: sqrt(d1 d2 / ((n + d1)(n + d2))), d the participation ratios."""
    return 1 / np.sqrt((1 + n / np.asarray(d1)) * (1 + n / np.asarray(d2)))


# Between features, without a Gram of all images by all images.


def feature_sums(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """What HSIC1 of (n, p) and (n, q) features needs of a block of samples; sums of blocks add up.

    Take a fixed reference mean off x and y first: the result does not depend on it, its rounding error does.
    """
    a, b = (x**2).sum(1), (y**2).sum(1)
    return [np.array(len(x)), x.T @ y, x.sum(0), y.sum(0), a.sum(), b.sum(), x.T @ b, y.T @ a, a @ b]


def hsic1_of_sums(sums: Sequence[np.ndarray]) -> float:
    """HSIC1 as `hsic1` gives it from Grams, exactly: |C|² - Σab is tr(K~L~), and so on."""
    n, cross, s, t, a, b, xb, ya, ab = sums
    trace = (cross**2).sum() - ab
    ends = (s @ s - a) * (t @ t - b) / ((n - 1) * (n - 2))
    middle = (s @ cross @ t - s @ xb - t @ ya + ab) * 2 / (n - 2)
    return float((trace + ends - middle) / (n * (n - 3)))


def feature_cka(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> Estimate:
    """Debiased CKA over all samples of groups of (samples, width) features, exactly; interval: groups left out in turn.

    Samples that belong together (tokens of one image) must be in one group.
    """
    first, second = ([np.asarray(g, np.float64) for g in groups] for groups in (x, y))
    first, second = ([g - np.concatenate(groups).mean(0) for g in groups] for groups in (first, second))
    sums = [[feature_sums(*pair) for pair in ((f, s), (f, f), (s, s))] for f, s in zip(first, second, strict=True)]
    total = [[sum(part) for part in zip(*of_pair, strict=True)] for of_pair in zip(*sums, strict=True)]

    def without(group: int | None) -> np.ndarray:
        left_out = [[np.zeros(())] * len(of_pair) for of_pair in total] if group is None else sums[group]
        kept = [[whole - out for whole, out in zip(*both, strict=True)] for both in zip(total, left_out, strict=True)]
        return cka(np.array([hsic1_of_sums(each) for each in kept]))

    return jackknife(without(None), np.array([without(group) for group in range(len(first))]))


def token_cka(x: np.ndarray, y: np.ndarray, position_centred: bool = False, trimmed: float = 0.0) -> Estimate:
    """Debiased CKA where a sample is a token, from (images, tokens, width); intervals leave out groups of images.

    Two models that share nothing but a position code are alike by this measure: `position_centred` takes each
    position's mean off. `trimmed`: share of tokens with the highest norms left out, in either model (0.01 for the few
    that ViTs use as registers, Darcet et al. 2024).
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    norms = [np.linalg.norm(each, axis=-1) for each in (x, y)]
    kept = np.logical_and(*(norm <= np.quantile(norm, 1 - trimmed) for norm in norms))
    if position_centred:
        count = np.maximum(kept.sum(0), 1)[:, None]
        x, y = (each - (each * kept[..., None]).sum(0) / count for each in (x, y))
    edges = np.linspace(0, len(x), min(_GROUPS, len(x)) + 1).astype(int)
    return feature_cka(*([each[i:j][kept[i:j]] for i, j in pairwise(edges)] for each in (x, y)))


# Between dumps.


@dataclass(frozen=True)
class Compared:
    """Two dumps layer by layer; arrays (layers,), but for `hsics` (blocks, layers, 3), the unbiased ones."""

    hsics: np.ndarray
    debiased: Estimate
    biased: Estimate
    null: np.ndarray  # of the biased one
    reasons: list[str]  # why a layer's CKA is NaN; empty where it is not


def baseline(study: Study, depth: str | None) -> "Dump":
    """The last dump of m3ch, of its lowest seed. It reads no depth: one on another field serves as well."""
    fields = {dump.info.depth_field for dump in study.dumps if dump.info.model == BASELINE}
    if not fields:
        raise AnalysisError(
            f"CKA is with {BASELINE}, of which no dump was given: make one with 'train dump RUN --data SHARDS'"
        )
    chosen = depth or "pseudo"
    return study.epoch_dumps(BASELINE, chosen if chosen in fields else min(fields))[-1]


def compare(first: "Dump", second: "Dump") -> Compared:
    """CKA of flattened patch tokens from the dumps' Grams, one block of images in memory at a time."""
    check_same_images(first, second)
    n = first.info.gram_batch
    unbiased, biased, norms, traces = [], [], [], []
    for block in range(first.info.num_images // n):
        k, l = (centred(_grams(dump, block)) for dump in (first, second))  # noqa: E741
        unbiased.append(np.stack([hsic1(k, l), hsic1(k, k), hsic1(l, l)], -1))
        biased.append(np.stack([hsic0(k, l), hsic0(k, k), hsic0(l, l)], -1))
        norms.append([(each**2).sum((-1, -2)) for each in (k, l)])
        traces.append([np.einsum("...ii->...", each) ** 2 for each in (k, l)])
    d1, d2 = participation_ratio(np.mean(traces, 0), np.mean(norms, 0), n)
    hsics = np.array(unbiased)
    reasons = [
        " and ".join(
            f"{dump.info.model}'s features do not vary (HSIC with itself {own:.1e})"
            for dump, own in zip((first, second), layer[1:], strict=True)
            if not own > 0
        )
        for layer in hsics.mean(0)
    ]
    return Compared(hsics, minibatch_cka(hsics), minibatch_cka(np.array(biased)), biased_null(d1, d2, n), reasons)


def cka_difference(first: Compared, second: Compared) -> Estimate:
    """Debiased CKA of `first` minus that of `second`, (layers,), over the same images; blocks left out in turn."""

    def difference(kept: np.ndarray) -> np.ndarray:
        return cka(first.hsics[kept].mean(0)) - cka(second.hsics[kept].mean(0))

    blocks = np.arange(len(first.hsics))
    without = [difference(blocks[blocks != block]) for block in blocks] if len(blocks) > 1 else []
    return jackknife(difference(blocks), np.array(without))


def compare_summaries(first: "Dump", second: "Dump", summary: str) -> list[Estimate | None]:
    """Debiased CKA by layer over all images, of the `class token` or the `mean patch`; None where a model has none."""
    check_same_images(first, second)
    found: list[Estimate | None] = []
    for x, y in zip(_summaries(first, summary), _summaries(second, summary), strict=True):
        if x is None or y is None:
            found.append(None)
            continue
        edges = np.linspace(0, len(x), min(_GROUPS, len(x) // 4) + 1).astype(int)
        found.append(feature_cka(*([each[i:j] for i, j in pairwise(edges)] for each in (x, y))))
    return found


def compare_tokens(
    first: "Dump", second: "Dump", position_centred: bool = False, trimmed: float = 0.0
) -> list[Estimate]:
    """`token_cka` by layer, over the patch tokens of the first images of both dumps' raw tiers."""
    check_same_images(first, second)
    images = min(first.info.num_raw, second.info.num_raw, _TOKEN_IMAGES)
    pairs = zip(_raw_tokens(first, images), _raw_tokens(second, images), strict=True)
    return [token_cka(x, y, position_centred, trimmed) for x, y in pairs]


def check_same_images(first: "Dump", second: "Dump") -> None:
    """Refuse dumps whose Grams are not of the same images in the same blocks."""
    for name, of in (("gram_batch", "images a block"), ("num_images", "images"), ("num_layers", "layers")):
        ours, theirs = (getattr(dump.info, name) for dump in (first, second))
        if ours != theirs:
            raise AnalysisError(
                f"CKA compares dumps with equal numbers of {of}, got {ours} in {first.path} and {theirs} in "
                f"{second.path}: make both with the same options of train dump"
            )
    if first.info.num_images < first.info.gram_batch or first.info.gram_batch < 4:
        raise AnalysisError(
            f"{first.path}: CKA needs one block of at least 4 images, got {first.info.num_images} images in blocks of "
            f"{first.info.gram_batch}: make it again with train dump --images"
        )
    for ours, theirs in zip(first.keys(), second.keys(), strict=True):
        if ours != theirs:
            raise AnalysisError(
                f"CKA compares dumps of the same images; {first.path} has {ours} where {second.path} has {theirs}: "
                "make both with the same --data and --images of train dump"
            )


def streams(dump: "Dump") -> list[tuple[str, ...]]:
    """The streams behind a model's layers, in order: those of one entry are read as one vector of both widths."""
    if not dump.info.first_attention_layer:
        return [("tokens",)]
    return [("rgb", "depth") if dump.info.model in _CONCATENATED else ("rgb",), ("tokens",)]


def _grams(dump: "Dump", block: int) -> np.ndarray:
    """(layers, b, b) with diagonals; the Gram of concatenated features is the sum of theirs."""
    layers = []
    for names in streams(dump):
        total: np.ndarray | float = 0.0
        for name in names:
            where = f"statistics/similarity/{name}"
            grams = dump.read(f"{where}/grams", slice(block, block + 1))[0].astype(np.float64)
            diagonal = np.arange(grams.shape[-1])
            grams[:, diagonal, diagonal] = dump.read(f"{where}/diagonals", slice(block, block + 1))[0]
            total = total + grams
        layers.append(np.asarray(total))
    return np.concatenate(layers)


def _summaries(dump: "Dump", summary: str) -> Iterator[np.ndarray | None]:
    """One (images, width) a layer, a layer in memory at a time."""
    column = SUMMARIES.index(summary) - len(SUMMARIES)
    for names in streams(dump):
        for layer in range(dump.info.stream(names[0]).num_layers):
            values = [dump.read(f"statistics/similarity/{name}/summary", (slice(None), layer)) for name in names]
            has_one = all(value.shape[1] >= -column for value in values)
            yield np.concatenate([value[:, column] for value in values], -1) if has_one else None


def _raw_tokens(dump: "Dump", images: int) -> list[np.ndarray]:
    """One (images, patches, width) a layer."""
    layers = []
    for names in streams(dump):
        values = [dump.read(f"raw/resid_post/{name}", slice(0, images)) for name in names]
        patches = [value[:, :, -dump.info.num_patches :] for value in values]
        layers += [np.concatenate([p[:, layer] for p in patches], -1) for layer in range(patches[0].shape[1])]
    return layers
