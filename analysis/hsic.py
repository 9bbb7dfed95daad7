"""Linear CKA (Kornblith et al. 2019) of Gram matrices, and of features without a Gram of all samples by all samples.

X are features of n samples, K = XX' their Gram, Y and L another model's of the same samples.

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

The biased HSIC grows with width over number of samples and is far from 0 for unrelated features; so the default is the
unbiased one (Song et al. 2012), averaged over minibatches before the ratio (Nguyen et al. 2021), which may come out
slightly negative. Minibatches or groups of images are the units of every interval. Never a bootstrap with replacement:
an image drawn twice is identical to itself off the diagonal, which gives independent data a CKA near 0.7.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
from scipy.special import stdtrit

from training.intervals import Estimate, Jackknife, jackknife

GROUPS = 10  # of images, left out in turn
_ROUNDING = 1e-6  # of a self-HSIC: what is left of a Gram in fp32 that is regressed out of itself
Blocks = Callable[[int], Iterable[tuple[np.ndarray, np.ndarray]]]  # a group's number -> its samples, some at a time


def hsic1(k: np.ndarray, l: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:  # noqa: E741  always K and L
    """Unbiased HSIC of Grams (..., n, n), n >= 4, whatever their diagonals and means (Song et al. 2012, equation 5).

    `kept` (..., n): the samples it is of; NaN where they are fewer than 4.
    """
    n: int | np.ndarray = k.shape[-1]
    if kept is not None:
        pairs = kept[..., :, None] & kept[..., None, :]
        k, l = k * pairs, l * pairs  # noqa: E741
        n = np.where(kept.sum(-1) < 4, np.nan, kept.sum(-1))
    off_diagonal = 1.0 - np.eye(k.shape[-1])
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


def adjusted_cka(hsics: np.ndarray) -> np.ndarray:
    """CKA of what is left of K and L once the Gram G of the inputs is regressed out of both (Cui et al. 2022).

    (..., 6) of HSIC(K, L), (K, K), (L, L), (K, G), (L, G), (G, G) -> (...). In place of K stands K - a G with the a of
    least squares. Cui et al. fit all entries, then centre, and cut negative eigenvalues off, which makes the result a
    biased one. Here the fit is in the space where the unbiased HSIC is the inner product (a partial distance covariance
    then, Székely and Rizzo 2014): a = HSIC(K, G) / HSIC(G, G), unrelated features still get 0, and nothing is cut.
    """
    cross, own, other, own_input, other_input, inputs = np.moveaxis(hsics, -1, 0)
    usable = inputs > 0
    per_input = np.where(usable, 1 / np.where(usable, inputs, 1.0), np.nan)
    left = [
        whole - first * second * per_input
        for whole, first, second in (
            (cross, own_input, other_input),
            (own, own_input, own_input),
            (other, other_input, other_input),
        )
    ]
    for place, whole in ((1, own), (2, other)):
        left[place] = np.where(
            left[place] > _ROUNDING * whole, left[place], 0.0
        )  # the input gives all of these features
    return cka(np.stack(left, -1))


def left_out(hsics: np.ndarray, of_mean: Callable[[np.ndarray], np.ndarray]) -> Jackknife:
    """A function of mean HSICs, from those of blocks (blocks, ...); blocks left out in turn."""
    value, blocks = of_mean(hsics.mean(0)), len(hsics)
    without = [of_mean(np.delete(hsics, block, 0).mean(0)) for block in range(blocks if blocks > 1 else 0)]
    return Jackknife(value, np.reshape(without, (-1, *np.shape(value))))


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
    return at_most_1(Estimate(value, value - half, value + half))


def at_most_1(found: Estimate) -> Estimate:
    """Bounds of a likeness, which can be no more than whole."""
    return Estimate(found.value, np.minimum(found.low, 1.0), np.minimum(found.high, 1.0))


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


# Of features, without a Gram of all samples by all samples.


def feature_sums(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """What HSIC1 of (n, p) and (n, q) features needs of a block of samples; sums of blocks add up.

    Take a fixed reference mean off x and y first: the result does not depend on it, its rounding error does.
    """
    a, b = (x**2).sum(1), (y**2).sum(1)
    parts = [len(x), x.T @ y, x.sum(0), y.sum(0), a.sum(), b.sum(), x.T @ b, y.T @ a, a @ b]
    return [np.asarray(part, np.float64) for part in parts]


def hsic1_of_sums(sums: Sequence[np.ndarray]) -> float:
    """HSIC1 as `hsic1` gives it from Grams, exactly: |C|² - Σab is tr(K~L~), and so on."""
    n, cross, s, t, a, b, xb, ya, ab = sums
    trace = np.vdot(cross, cross) - ab
    ends = (s @ s - a) * (t @ t - b) / ((n - 1) * (n - 2))
    middle = (s @ cross @ t - s @ xb - t @ ya + ab) * 2 / (n - 2)
    return float((trace + ends - middle) / (n * (n - 3)))


def feature_cka(blocks: Blocks, num_groups: int) -> Estimate:
    """Debiased CKA over all samples, exactly; interval: groups left out in turn.

    `blocks(group)` gives the features (samples, width) of both models, as few samples at a time as shall be held; each
    group is read twice. Samples that belong together (tokens of one image) must be in one group. Holds some eight
    matrices of width by width, however many samples there are.
    """
    reference = [rows.mean(0, dtype=np.float64) for rows in next(iter(blocks(0)))]

    def add(sums: list[list[np.ndarray]], group: int) -> None:
        for pair in blocks(group):
            x, y = (rows - mean for rows, mean in zip(pair, reference, strict=True))
            for place, (first, second) in enumerate(((x, y), (x, x), (y, y))):
                more = feature_sums(first, second)
                if place == len(sums):
                    sums.append(more)
                    continue
                for ours, theirs in zip(sums[place], more, strict=True):
                    ours += theirs

    total: list[list[np.ndarray]] = []
    for group in range(num_groups):
        add(total, group)
    without = []
    for group in range(num_groups if num_groups > 1 else 0):
        part: list[list[np.ndarray]] = []
        add(part, group)
        kept = (map(np.subtract, *pair) for pair in zip(total, part, strict=True))
        without.append(cka(np.array([hsic1_of_sums(list(each)) for each in kept])))
    value = cka(np.array([hsic1_of_sums(each) for each in total]))
    return at_most_1(jackknife(value, np.array(without)))


def group_edges(num_images: int, at_least: int = 1) -> list[tuple[int, int]]:
    """First image and end of each of at most GROUPS groups of images, `at_least` so many in each."""
    edges = np.linspace(0, num_images, min(GROUPS, num_images // at_least) + 1).astype(int)
    return list(pairwise(edges.tolist()))


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
    groups = [slice(*edges) for edges in group_edges(len(x))]
    return feature_cka(
        lambda group: [(x[groups[group]][kept[groups[group]]], y[groups[group]][kept[groups[group]]])], len(groups)
    )
