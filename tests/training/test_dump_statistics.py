"""The one pass of statistics against what is written down literally, with planted truth, in numpy and in torch."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from training.dumps.arrays import Cells, packed, unpacked
from training.dumps.pairs import (
    DISTANCE_PAIRS,
    NUM_BINS,
    REGRESSORS,
    Pairs,
    distances,
    filled,
    num_distances,
    pair_moments,
    partner,
)
from training.dumps.schema import DumpInfo, Stream, arrays
from training.dumps.scores import COSINES, DISTANCE_ROWS, PATTERN_ROWS, ROWS, Bias, Reduced, cosines
from training.dumps.statistics import Statistics
from training.dumps.tokens import NUM_FOLDS, gram_batch

GRID, PATCHES, HEADS, LAYERS, WIDTH = (3, 4), 12, 2, 2, 5


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def made_pairs(images: int = 3, holes: bool = False, kind=np.asarray, seed: int = 0, like=None) -> tuple:
    depth, colour = rng(seed).normal(size=(images, PATCHES)), rng(seed + 1).uniform(size=(images, PATCHES, 3))
    other = rng(seed + 2).normal(size=(images, PATCHES))
    if holes:
        depth[0, 3] = depth[1, :2] = np.nan
    like = kind(np.zeros(0)) if like is None else like
    pairs = Pairs.of(kind(depth), kind(other), kind(colour), GRID, np.arange(images), like)
    return pairs, depth, other, colour


def reduced(scores, pairs: Pairs) -> Reduced:
    batch, heads, patches, _ = scores.shape
    return Reduced.of(scores, pairs, np.empty((batch, 2 * heads + 3, patches, patches), scores.dtype))[0]


def literal_pairs(depth: np.ndarray) -> list[tuple[int, int]]:
    each = range(PATCHES)
    return [(i, j) for i, j in itertools.product(each, each) if i != j and not np.isnan(depth[[i, j]]).any()]


@pytest.mark.parametrize("holes", [False, True])
def test_rows_are_the_sums_over_pairs(holes):
    pairs, depth, other, colour = made_pairs(holes=holes)
    scores = rng(5).normal(2.0, 1.0, (3, HEADS, PATCHES, PATCHES))
    rows = reduced(scores, pairs).rows(pairs)
    literal, centred = pair_moments(pairs)
    places = np.array([divmod(p, GRID[1]) for p in range(PATCHES)], float)
    for image, head in itertools.product(range(3), range(HEADS)):
        found = literal_pairs(depth[image])
        i, j = np.array(found).T
        z = depth[image]
        x = {
            "delta": abs(z[i] - z[j]),
            "r": np.linalg.norm(places[i] - places[j], axis=1),
            "colour": np.linalg.norm(colour[image][i] - colour[image][j], axis=1),
            "signed": z[i] - z[j],
            "other": abs(other[image][i] - other[image][j]),
        }
        s = scores[image, head][i, j]
        row = dict(zip(ROWS, rows[image, head], strict=True))
        assert row["s"] == pytest.approx(s.sum())
        assert row["ss"] == pytest.approx((s**2).sum())
        seen = ~np.isnan(z)
        assert row["ss_all"] == pytest.approx((s**2).sum() + (scores[image, head].diagonal()[seen] ** 2).sum())

        def centre(values, i=i):
            means = {q: values[i == q].mean() for q in set(i)}
            return values - np.array([means[q] for q in i])

        assert row["cc"] == pytest.approx((centre(s) ** 2).sum())
        first = unpacked(literal)[image]
        second = unpacked(centred)[image]
        assert first[0, 0] == len(found)
        for name, values in x.items():
            place = REGRESSORS.index(name)
            assert row[f"s_{name}"] == pytest.approx((s * values).sum()), name
            assert row[f"c_{name}"] == pytest.approx((centre(s) * centre(values)).sum()), name
            assert first[0, 1 + place] == pytest.approx(values.sum())
            for also, more in x.items():
                product = (centre(values) * centre(more)).sum()
                assert second[place, REGRESSORS.index(also)] == pytest.approx(product), (name, also)


def test_nulls_are_of_other_depths():
    pairs, depth, other, _ = made_pairs(images=2)
    x = pairs.regressors.transpose(0, 2, 3, 1)
    mirrored = depth.reshape(2, *GRID)[:, :, ::-1].reshape(2, -1)
    np.testing.assert_allclose(x[..., REGRESSORS.index("flipped")], abs(mirrored[:, :, None] - mirrored[:, None]))
    np.testing.assert_allclose(x[..., REGRESSORS.index("other")], abs(other[:, :, None] - other[:, None]))
    shuffled = x[0, ..., REGRESSORS.index("shuffled")]
    np.testing.assert_allclose(np.sort(shuffled.ravel()), np.sort(x[0, ..., 0].ravel()))
    assert not np.allclose(shuffled, x[0, ..., 0])
    for size in range(2, 9):
        of = [partner(n, size) for n in range(size)]
        assert all(of[n] != n and of[of[n]] == n for n in range(size - size % 2))
        assert size % 2 == 0 or of[-1] == 0


def test_other_depth_has_no_gaps():
    np.testing.assert_allclose(filled(np.array([[1.0, np.nan, 3.0], [np.nan] * 3])), [[1.0, 2.0, 3.0], [0.0] * 3])


def test_distances_of_the_papers_grid():
    values, number = distances((14, 14))
    assert len(values) == 93 and values.max() == pytest.approx(18.385, abs=1e-3)  # 94 with 0
    assert (number.diagonal() == -1).all() and (number[~np.eye(196, dtype=bool)] >= 0).all()
    counts = np.bincount(number[number >= 0])
    assert counts.sum() == 38_220
    assert counts[0] == 2 * 2 * 14 * 13  # neighbours, both ways


def test_cosines_of_known_scores():
    pairs, _, _, _ = made_pairs()
    literal, centred = pair_moments(pairs)
    delta = pairs.delta

    def of(scores):
        return cosines(reduced(scores[:, None], pairs).rows(pairs)[:, 0], literal, centred)

    np.testing.assert_allclose(of(-delta)[:, [0, 2]], -1)
    assert np.isnan(of(np.full_like(delta, -3.0))[:, 2:]).all()
    shift = rng(3).normal(size=(3, PATCHES, 1))
    noisy = delta + rng(4).normal(size=delta.shape)
    np.testing.assert_allclose(of(noisy + 5 * shift)[:, 2:], of(noisy)[:, 2:], atol=1e-12)
    assert abs(of(noisy + 5 * shift)[:, :2] - of(noisy)[:, :2]).max() > 0.1
    assert COSINES[0] == "literal_delta"


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_constant_alone_has_a_literal_cosine_with_distance(sign):
    """-0.9031 on the paper's grid: the reason why `gauge_fixed` exists."""
    depth = rng(0).normal(size=(1, 196))
    pairs = Pairs.of(depth, depth, np.zeros((1, 196, 3)), (14, 14), np.arange(1), depth)
    rows = reduced(np.full((1, 1, 196, 196), 2.0 * sign), pairs).rows(pairs)[:, 0]
    found = cosines(rows, *pair_moments(pairs))[0]
    assert found[COSINES.index("literal_r")] == pytest.approx(sign * 0.9031, abs=5e-5)
    assert np.isnan(found[COSINES.index("gauge_fixed_r")])


def test_cells_are_scipys_bins():
    pairs, depth, _, _ = made_pairs(images=1)
    scores = rng(1).normal(size=(1, 1, PATCHES, PATCHES))
    found = pairs.cells.sum(scores.reshape(1, 1, -1))[0, 0].reshape(NUM_BINS, -1)
    i, j = np.array(literal_pairs(depth[0])).T
    radius = distances(GRID)[0]
    places = np.array([divmod(p, GRID[1]) for p in range(PATCHES)], float)
    edges = [np.append(np.arange(41) / 10, 99), np.append(radius - 1e-6, 99)]
    at = (abs(depth[0][i] - depth[0][j]), np.linalg.norm(places[i] - places[j], axis=1))
    expected = stats.binned_statistic_2d(*at, scores[0, 0][i, j], "sum", bins=edges).statistic
    np.testing.assert_allclose(found, expected, atol=1e-12)
    count = stats.binned_statistic_2d(*at, None, "count", bins=edges).statistic
    np.testing.assert_array_equal(pairs.cells.count.reshape(NUM_BINS, -1), count)
    assert count.sum() == PATCHES * (PATCHES - 1)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_cells_leave_out_what_is_in_none(kind):
    cells = Cells(kind(np.array([[0, -1, 2], [-1, -1, 0]])), 3, kind(np.zeros(0)).dtype)
    values = kind(np.arange(12.0).reshape(2, 2, 3))
    np.testing.assert_array_equal(cells.sum(values), [[[0, 0, 2], [3, 0, 5]], [[8, 0, 0], [11, 0, 0]]])
    np.testing.assert_array_equal(cells.count, [[1, 0, 1], [1, 0, 0]])


def test_packing_is_undone():
    square = rng().normal(size=(2, 4, 4))
    square = square + square.swapaxes(1, 2)
    np.testing.assert_array_equal(unpacked(packed(square)), square)


# --- the whole pass -----------------------------------------------------------------------------------------------


def info_of(num_images: int, bias: str | None = None) -> DumpInfo:
    return DumpInfo(
        model="m", run="r", config={}, study_hash="h", checkpoint="step-1", checkpoint_sha256="0", epoch=1, data="d",
        split="val", fingerprint="f", classes_sha256="c", class_names=[], depth_field="pseudo", standardisation={},
        patch_depth="mean", scale=0.5, bias=bias, num_prefix=1, num_layers=LAYERS,
        first_attention_layer=0,
        streams=[Stream(name="tokens", first_layer=0, num_layers=LAYERS, prefix=1, width=WIDTH)],
        num_heads=HEADS, grid=GRID, image_size=12, num_images=num_images, num_raw=0,
        num_groups=min(4, num_images), gram_batch=gram_batch(num_images), dtype="float64", max_fused_difference=0.0,
    )  # fmt: skip


class Store(dict):
    """A writer in memory."""

    def __init__(self, info: DumpInfo) -> None:
        super().__init__({n: np.full(s.shape, np.nan) for n, s in arrays(info).items() if n.startswith("statistics")})

    def write(self, name, place, values):
        if name in self:
            if isinstance(place, tuple):
                self[name][place] = values
            else:
                self[name][place : place + len(values)] = values


def world(num_images: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Depths, colours, scores, patterns and outputs of a made-up model."""
    each = rng(seed)
    tokens = PATCHES + 1
    depth = each.normal(size=(num_images, PATCHES))
    depth[num_images // 2, 4] = np.nan
    scores = each.normal(size=(num_images, LAYERS, HEADS, tokens, tokens))
    pattern = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return {
        "depth": depth, "scores": scores, "pattern": pattern,
        "colour": each.uniform(size=(num_images, PATCHES, 3)),
        "outputs": each.normal(1.0, 1.0, size=(num_images, LAYERS, tokens, WIDTH)),
        "rgb": each.uniform(size=(num_images, 6, 8, 3)),
    }  # fmt: skip


def biases(num_images: int) -> dict[str, np.ndarray]:
    """What such a model adds to its scores."""
    tables = rng(9).normal(size=(num_images, LAYERS, PATCHES + 1, PATCHES + 1))
    return {"head_scale": np.array([-0.3, 0.7]), "tables": tables}


def feed(statistics: Statistics, of: dict, first: int, last: int, kind=np.asarray) -> None:
    numbers = np.arange(first, last)
    others = [partner(n, len(of["depth"])) for n in numbers]
    statistics.begin(numbers, kind(of["depth"][numbers]), kind(of["depth"][others]), kind(of["colour"][numbers]))
    statistics.inputs(kind(of["rgb"][numbers]))
    for layer in range(LAYERS):
        scores = kind(of["scores"][numbers, layer])
        bias = Bias(kind(of["head_scale"]), kind(of["tables"][numbers, layer])) if "tables" in of else None
        statistics.scores(layer, scores, bias)
        statistics.pattern(layer, kind(of["pattern"][numbers, layer]))
        statistics.tokens("tokens", layer, kind(of["outputs"][numbers, layer]))
    statistics.end()


def collected(num_images: int, step: int, kind=np.asarray, of: dict | None = None) -> Store:
    info = info_of(num_images, "phi" if of and "tables" in of else None)
    store = Store(info)
    statistics = Statistics(info, store.write, kind(np.zeros(0)))
    for first in range(0, num_images, step):
        feed(statistics, of or world(num_images), first, min(first + step, num_images), kind)
    statistics.finish()
    return store


def test_torch_and_numpy_agree_and_batches_do_not_matter():
    reference = collected(10, step=10)
    assert not any(np.isnan(v).any() for n, v in reference.items() if "labels" not in n and "predicted" not in n)
    for other in (collected(10, step=3), collected(10, step=4, kind=torch.as_tensor)):
        for name, values in reference.items():
            np.testing.assert_allclose(other[name], values, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_bias_on_top_equals_a_second_pass_over_the_biased_scores(kind):
    of = world(10) | biases(10)
    once = collected(10, step=4, kind=kind, of=of)
    biased = of["scores"] + of["head_scale"][:, None, None] * of["tables"][:, :, None]
    twice = collected(10, step=4, kind=kind, of={**world(10), "scores": biased})
    names = [name for name in once if "/total/" in name]
    assert len(names) == 11
    for name in names:
        expected = twice[name.replace("/total/", "/content/")]
        assert not np.array_equal(once[name.replace("/total/", "/content/")], expected)
        np.testing.assert_allclose(once[name], expected, rtol=1e-9, atol=1e-7 if "group_sum" in name else 1e-9)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_merged_parts_equal_one_pass(order, biased, kind):
    """Every sum, whichever part takes the others in; the last part has seen no image."""
    of = world(9) | (biases(9) if biased else {})
    info = info_of(9, "phi" if biased else None)
    one, sums = collected(9, step=9, of=of), summed(info)
    stores = [Store(info) for _ in order]
    parts = [Statistics(info, store.write, kind(np.zeros(0))) for store in stores]
    feed(parts[0], of, 0, 4, kind)
    feed(parts[1], of, 4, 9, kind)
    first, *others = order
    for other in others:
        parts[first].merge(parts[other])
    parts[first].finish()
    assert set(sums) == set(parts[first].finished)
    for name in sums:
        tolerance = 1e-6 if name.endswith("group_sum") else 1e-10
        np.testing.assert_allclose(stores[first][name], one[name], rtol=1e-9, atol=tolerance, err_msg=name)
    squares = unpacked(one["statistics/pairs/centred"])[:, 0, 0].sum()
    assert parts[first].delta_squares == pytest.approx(squares)


def summed(info: DumpInfo) -> list[str]:
    """What is added up over images, and not written image by image or block by block."""
    return [
        n for n, s in arrays(info).items() if n.startswith("statistics/") and not s.by_image and "/similarity/" not in n
    ]


def test_counts_and_attention_add_up():
    of = world(6)
    store = collected(6, step=6)
    pairs = 5 * PATCHES * (PATCHES - 1) + (PATCHES - 1) * (PATCHES - 2)  # one image lacks a patch
    assert store["statistics/bins/count"].sum() == pairs
    assert store["statistics/bins/count"].shape == (NUM_BINS, num_distances(GRID))
    assert store["statistics/two_way/images"].sum() == 5
    np.testing.assert_allclose(store["statistics/distance/pairs"][..., 0].sum(0), store["statistics/bins/count"].sum(0))
    # A query's attention goes to the class token, to itself and to the other patches, and is 1.
    rows = store["statistics/pattern/rows"]
    complete = [n for n in range(6) if n != 3]
    mean = of["pattern"].mean(2)[:, :, 1:]
    elsewhere = mean[..., 0].sum(2) + mean[..., 1:].diagonal(0, 2, 3).sum(2)
    np.testing.assert_allclose((rows[..., PATTERN_ROWS.index("pairs")] + elsewhere)[complete], PATCHES)
    mean = mean[..., 1:]
    np.testing.assert_allclose(store["statistics/pattern/pair_sum"], mean.sum(0), atol=1e-12)


def test_uniform_attention_is_one_over_the_number_of_keys():
    of = world(4)
    of["pattern"] = np.full_like(of["pattern"], 1 / (PATCHES + 1))
    store = collected(4, step=4, of=of)
    count = store["statistics/bins/count"]
    shown = count > 0
    mean = store["statistics/pattern/bins/sum"][:, :, shown] / count[shown]
    np.testing.assert_allclose(mean, 1 / (PATCHES + 1))
    rows = store["statistics/pattern/rows"]
    pairs = unpacked(store["statistics/pairs/literal"])
    attended = rows[..., PATTERN_ROWS.index("delta")] / rows[..., PATTERN_ROWS.index("pairs")]
    uniform = pairs[:, 0, 1 + REGRESSORS.index("delta")] / pairs[:, 0, 0]
    np.testing.assert_allclose(attended, uniform[:, None].repeat(LAYERS, 1))


def test_groups_and_sums_are_of_the_same_scores():
    of = world(9)
    store = collected(9, step=4, of=of)
    for name, kind in (("s", "sum"), ("c", "sum_centred")):
        whole = store[f"statistics/content/bins/{kind}"].mean(1).sum(1)  # (layers, distances)
        by_distance = store["statistics/content/distance"][..., DISTANCE_ROWS.index(name)]
        np.testing.assert_allclose(by_distance.sum(0), whole, atol=1e-9)
    by_distance = store["statistics/content/distance"].sum((0, 2))  # (layers, terms)
    for name in ("s", "s_delta", "s_other"):
        whole = store["statistics/content/rows"].sum(0)[..., ROWS.index(name)]
        np.testing.assert_allclose(by_distance[:, DISTANCE_ROWS.index(name)], whole, atol=1e-9)
    moments = unpacked(store["statistics/pairs/literal"]).sum(0), unpacked(store["statistics/pairs/centred"]).sum(0)
    other = 1 + REGRESSORS.index("other")
    expected = [moments[0][0, 0], moments[0][0, 1], moments[0][1, 1], 0, moments[0][0, other]]
    expected += [moments[0][other, other], 0]
    np.testing.assert_allclose(store["statistics/distance/pairs"].sum((0, 1)), expected, atol=1e-9)
    pattern = store["statistics/pattern/rows"].sum(0)[..., [PATTERN_ROWS.index(n) for n in ("pairs", "delta")]]
    np.testing.assert_allclose(store["statistics/pattern/distance"].sum((0, 2))[..., :2], pattern)
    cells = store["statistics/bins/count"], store["statistics/content/bins/sum"].mean(1)
    np.testing.assert_allclose(store["statistics/bins/group_count"].sum(0), cells[0])
    np.testing.assert_allclose(store["statistics/content/bins/group_sum"].sum(0), cells[1].sum(0), atol=1e-9)
    np.testing.assert_allclose(store["statistics/content/curve"].sum(0), cells[1].sum(-1), atol=1e-9)
    curve, layers = store["statistics/content/curve"], store["statistics/content/bins/group_sum"].sum(-1)
    np.testing.assert_allclose(curve.sum(1), layers, atol=1e-9)
    np.testing.assert_allclose(
        store["statistics/content/two_way/group_sum"].sum(0), store["statistics/content/two_way/sum"].mean(1), atol=1e-6
    )
    heads = store["statistics/content/head_rows"].sum(0)
    rows = store["statistics/content/rows"].sum(0)
    for name in ("s", "s_delta", "c_delta", "c_other"):
        np.testing.assert_allclose(heads[..., ROWS.index(name)].mean(1), rows[..., ROWS.index(name)], atol=1e-9)
    np.testing.assert_allclose(store["statistics/content/bins/sum"].sum((2, 3)), heads[..., 0])


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_sums_at_a_distance_are_those_over_its_pairs(kind):
    """Image by image, group by group; one image has a gap, and another reads it as its partner."""
    of = world(9) | biases(9)
    store = collected(9, step=4, kind=kind, of=of)
    radii, number = distances(GRID)
    groups = 4
    sums = {name: np.zeros((groups, len(radii))) for name in DISTANCE_PAIRS}
    attended = np.zeros((groups, LAYERS, len(radii), 3))
    rows = {part: np.zeros((groups, LAYERS, len(radii), len(DISTANCE_ROWS))) for part in ("content", "total")}
    biased = of["scores"] + of["head_scale"][:, None, None] * of["tables"][:, :, None]
    scores = {"content": of["scores"].mean(2)[..., 1:, 1:], "total": biased.mean(2)[..., 1:, 1:]}
    for n in range(9):
        i, j = np.array(literal_pairs(of["depth"][n])).T
        at = np.eye(len(radii))[number[i, j]].T
        row = np.eye(PATCHES)[i].T

        def centre(values, i=i, row=row):
            return values - ((row @ values) / np.maximum(row.sum(1), 1))[i]

        z, other = of["depth"][n], filled(of["depth"][[partner(n, 9)]])[0]
        delta, null = abs(z[i] - z[j]), abs(other[i] - other[j])
        terms = {
            "n": 0 * delta + 1, "delta": delta, "delta_sq": delta**2, "delta_c": centre(delta),
            "other": null, "other_sq": null**2, "other_c": centre(null),
        }  # fmt: skip
        for name, values in terms.items():
            sums[name][n % groups] += at @ values
        for part, layer in itertools.product(rows, range(LAYERS)):
            s = scores[part][n, layer][i, j]
            of_row = {"s": s, "s_delta": s * delta, "s_other": s * null, "c": centre(s)}
            rows[part][n % groups, layer] += np.stack([at @ of_row[name] for name in DISTANCE_ROWS], -1)
        for layer in range(LAYERS):
            a = of["pattern"][n, layer].mean(0)[1:, 1:][i, j]
            attended[n % groups, layer] += np.stack([at @ a, at @ (a * delta), at @ (a * null)], -1)
    expected = np.stack([sums[name] for name in DISTANCE_PAIRS], -1)
    np.testing.assert_allclose(store["statistics/distance/pairs"], expected, atol=1e-9)
    for part, each in rows.items():
        np.testing.assert_allclose(store[f"statistics/{part}/distance"], each, atol=1e-9)
    np.testing.assert_allclose(store["statistics/pattern/distance"], attended, atol=1e-9)


def test_probe_moments_are_those_of_the_tokens():
    of = world(7)
    store = collected(7, step=3, of=of)
    z = of["depth"]
    for fold, layer in itertools.product(range(NUM_FOLDS), range(LAYERS)):
        chosen = np.arange(fold, 7, NUM_FOLDS)
        rows, images = [], np.zeros((WIDTH + 3, WIDTH + 3))
        for n in chosen:
            seen = ~np.isnan(z[n])
            other = filled(z[[partner(n, 7)]])[0]
            each = np.column_stack([of["outputs"][n, layer, 1:], z[n], other, np.ones(PATCHES)])[seen]
            rows.append(each)
            images += np.outer(each.sum(0), each.sum(0)) / seen.sum()
        every = np.concatenate(rows)
        found = unpacked(store["statistics/probe/tokens/moments"][fold, layer])
        np.testing.assert_allclose(found, every.T @ every)
        np.testing.assert_allclose(unpacked(store["statistics/probe/tokens/image_moments"][fold, layer]), images)
    position = store["statistics/probe/position"].sum(0)
    np.testing.assert_allclose(position[:, 0], (~np.isnan(z)).sum(0))
    np.testing.assert_allclose(position[:, 1], np.nansum(z, 0))


def test_grams_are_of_whole_blocks_in_order():
    of = world(19)
    store = collected(19, step=7, of=of)
    assert gram_batch(19) == 4 and gram_batch(15) == 0 and gram_batch(5000) == 250
    grams, diagonals = (store[f"statistics/similarity/tokens/{n}"] for n in ("grams", "diagonals"))
    assert grams.shape == (4, LAYERS, 4, 4)
    for block, layer in itertools.product(range(4), range(LAYERS)):
        x = of["outputs"][4 * block : 4 * block + 4, layer, 1:].reshape(4, -1)
        x = x - x.mean(0)
        np.testing.assert_allclose(grams[block, layer] + np.diag(diagonals[block, layer]), x @ x.T, rtol=1e-5)
        assert (grams[block, layer].diagonal() == 0).all()
    grams, diagonals = (store[f"statistics/similarity/input/{n}"] for n in ("grams", "diagonals"))
    for block in range(4):
        x = of["rgb"][4 * block : 4 * block + 4].reshape(4, -1)
        x = x - x.mean(0)
        np.testing.assert_allclose(grams[block, 0] + np.diag(diagonals[block, 0]), x @ x.T, rtol=1e-5, atol=1e-7)
    summary = store["statistics/similarity/tokens/summary"]
    np.testing.assert_allclose(summary[:, :, 0], of["outputs"][:, :, 0])
    np.testing.assert_allclose(summary[:, :, 1], of["outputs"][:, :, 1:].mean(2))


def test_large_offsets_of_rows_do_not_spoil_fp32():
    """Scores near 1e5 were seen in the wild; softmax ignores a row's offset, and so must centred sums."""
    pairs, _, _, _ = made_pairs(like=np.zeros(0, np.float32))
    delta = pairs.delta
    scores = (-0.5 * delta + 1e4).astype(np.float32)[:, None]
    rows = reduced(scores, pairs).rows(pairs)
    slope = rows[..., ROWS.index("c_delta")].sum() / unpacked(pair_moments(pairs)[1])[:, 0, 0].sum()
    assert slope == pytest.approx(-0.5, abs=2e-3)
