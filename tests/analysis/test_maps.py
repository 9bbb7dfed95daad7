"""Maps by distance and |Δ|, their columns' slopes, Figures 6, 10 and 13, and every verdict of their claims."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
import zarr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, same_color
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from scipy.stats import binned_statistic_2d
from scipy.stats import t as student

import analysis
from analysis import style
from analysis.attention import bin_rule
from analysis.claims import judge
from analysis.figures import FIGURES
from analysis.load import AnalysisError, Study
from analysis.maps import ALL, LEAST_BINS, cells, column_slopes, relative_slopes
from analysis.nulls import null_slope
from training.dumps.pairs import partner, patch_distance
from training.dumps.store import Dump, open_dump

BETAS = planted.BETAS
R = patch_distance(planted.GRID)
QUERY, KEY = np.nonzero(R > 0)
WHOLE = np.floor(R[QUERY, KEY] + 1e-9)
ROWS = np.divmod(np.arange(16), 4)[0]


def dump_of(path: Path, scores: planted.ScoreMaker = planted.falling(BETAS), **options: Any) -> Dump:
    return open_dump(planted.write_dump(path, scores, **options))


def by_distance(slope: Callable[[np.ndarray], np.ndarray], effect: float = 0.0) -> planted.ScoreMaker:
    """S = slope(r) |Δ| + effect sin(3 r) + noise."""

    def make(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        shape = (len(delta), planted.LAYERS, planted.HEADS, *R.shape)
        return (slope(R) * delta)[:, None, None] + effect * np.sin(3 * R) + generator.normal(0, 0.1, shape)

    return make


@pytest.mark.parametrize("quantity", ["literal", "gauge_fixed"])
def test_cells_are_scipys(tmp_path: Path, quantity: str) -> None:
    dump = dump_of(tmp_path / "d.zarr", num_images=12)
    z = planted.patch_depths(12)
    delta = abs(z[:, :, None] - z[:, None])
    scores = planted.falling(BETAS)(delta, np.random.default_rng(1)).mean(2)
    if quantity == "gauge_fixed":
        off = ~np.eye(16, dtype=bool)
        scores = scores - (scores * off).sum(-1, keepdims=True) / 15
    frame = cells(dump, quantity)
    x, y = delta[:, QUERY, KEY].ravel(), np.tile(WHOLE, 12)
    edges = [np.append(np.arange(41) / 10, np.inf), np.arange(1, 6)]
    for layer in (ALL, 1, 4):
        values = (scores.mean(1) if layer == ALL else scores[:, layer - 1])[:, QUERY, KEY].ravel()
        mean = binned_statistic_2d(np.minimum(x, 5), y, values, "mean", [np.append(edges[0][:-1], 9), edges[1]])[0]
        count = np.histogram2d(x, y, edges)[0]
        of_layer = frame[frame["layer"] == layer]
        place = (of_layer["delta_low"] * 10).round().astype(int), of_layer["distance"] - 1
        np.testing.assert_allclose(of_layer["mean"], mean[place], atol=1e-9)
        assert (of_layer["pairs"] == count[place]).all() and of_layer["pairs"].sum() == count.sum()
    min_pairs, min_images = bin_rule(12)
    enough = (frame["pairs"] >= min_pairs) & (frame["images"] >= min_images) & np.isfinite(frame["delta_high"])
    assert (frame["shown"] == enough).all() and frame["shown"].any() and not frame["shown"].all()


def test_attention_of_equal_scores_is_1_over_the_keys(tmp_path: Path) -> None:
    dump = dump_of(tmp_path / "d.zarr", planted.constant(0.0))
    np.testing.assert_allclose(cells(dump, "attention")["mean"], 1 / 17)
    slopes = column_slopes(dump, "attention")
    np.testing.assert_allclose(slopes[["slope", "relative"]].dropna(), 0, atol=1e-12)
    assert slopes["slope"].notna().any() and slopes["linearity"].isna().all()
    assert np.isnan(slopes.loc[slopes["num_bins"] < LEAST_BINS, "slope"]).all()


@pytest.mark.parametrize("quantity", ["literal", "gauge_fixed"])
def test_column_slopes_equal_explicit_least_squares(tmp_path: Path, quantity: str) -> None:
    """With a dummy for every exact distance, over single pairs; both sides centred where the gauge is fixed."""
    maker = by_distance(lambda r: -0.2 * r, effect=3.0)
    dump = dump_of(tmp_path / "d.zarr", maker, num_images=6)
    z = planted.patch_depths(6)
    delta = abs(z[:, :, None] - z[:, None])
    scores = maker(delta, np.random.default_rng(1)).mean(2)
    if quantity == "gauge_fixed":
        off = ~np.eye(16, dtype=bool)
        scores = scores - (scores * off).sum(-1, keepdims=True) / 15
        delta = delta - (delta * off).sum(-1, keepdims=True) / 15
    frame = column_slopes(dump, quantity)
    exact, place = np.unique(R[QUERY, KEY].round(9), return_inverse=True)
    for layer in (ALL, 2):
        values = (scores.mean(1) if layer == ALL else scores[:, layer - 1])[:, QUERY, KEY]
        for _, row in frame[(frame["layer"] == layer) & frame["slope"].notna()].iterrows():
            chosen = row["distance"] == WHOLE
            dummies = np.tile(np.eye(len(exact))[place[chosen]], (6, 1))
            design = np.column_stack([delta[:, QUERY, KEY][:, chosen].ravel(), dummies])
            fit = np.linalg.lstsq(design, values[:, chosen].ravel(), rcond=None)[0]
            assert row["slope"] == pytest.approx(fit[0], rel=1e-9)


def test_the_null_of_columns_is_least_squares_on_another_images_depth(tmp_path: Path) -> None:
    """With `beyond` the difference to a column's own slope; its interval is that of pairs of slopes."""
    maker = by_distance(lambda r: -0.2 * r, effect=3.0)
    depths = np.random.default_rng(2).normal(0, 0.7, (6, 16)) + 0.4 * ROWS
    dump = dump_of(tmp_path / "d.zarr", maker, num_images=6, depths=depths)
    off = ~np.eye(16, dtype=bool)

    def centred(values: np.ndarray) -> np.ndarray:
        return (values - (values * off).sum(-1, keepdims=True) / 15)[..., QUERY, KEY]

    own = abs(depths[:, :, None] - depths[:, None])
    scores = centred(maker(own, np.random.default_rng(1)).mean(2))
    x = {"slope": centred(own), "other": centred(own)[[partner(n, 6) for n in range(6)]]}
    exact, place = np.unique(R[QUERY, KEY].round(9), return_inverse=True)

    def fit(images: list[int], name: str, layer: int | str, column: int) -> float:
        chosen = column == WHOLE
        dummies = np.tile(np.eye(len(exact))[place[chosen]], (len(images), 1))
        values = scores.mean(1) if layer == ALL else scores[:, int(layer) - 1]
        design = np.column_stack([x[name][images][:, chosen].ravel(), dummies])
        return float(np.linalg.lstsq(design, values[images][:, chosen].ravel(), rcond=None)[0][0])

    frame = column_slopes(dump, "gauge_fixed").dropna()
    assert {ALL, 2} <= set(frame["layer"])
    for _, row in frame[frame["layer"].isin([ALL, 2])].iterrows():
        at = (row["layer"], row["distance"])
        whole = fit([*range(6)], "other", *at)
        assert row["other"] == pytest.approx(whole, rel=1e-9)
        assert row["beyond"] == pytest.approx(row["slope"] - whole, rel=1e-9)
        left = [[k for k in range(6) if k != n] for n in range(6)]
        differences = np.array([fit(kept, "slope", *at) - fit(kept, "other", *at) for kept in left])
        half = student.ppf(0.975, 5) * np.sqrt(5 * differences.var())
        assert row["beyond_high"] - row["beyond"] == pytest.approx(half, rel=1e-6)
    assert not {"other", "beyond"} & {*column_slopes(dump, "literal"), *column_slopes(dump, "attention")}


def test_gauge_fixed_columns_fall_where_scores_do(tmp_path: Path) -> None:
    """Photographs differ in contrast: |Δ| minus its row's mean has to be held against scores minus theirs."""
    contrast = np.exp(np.random.default_rng(0).normal(0, 0.5, (40, 1)))
    dump = dump_of(tmp_path / "d.zarr", planted.falling([1.0] * 4, noise=0), depths=contrast * planted.patch_depths(40))
    np.testing.assert_allclose(column_slopes(dump, "gauge_fixed")["slope"].dropna(), -1, atol=1e-9)


def test_column_slopes_recover_what_was_planted_at_each_distance(tmp_path: Path) -> None:
    """Though a strong effect of the exact distance goes with |Δ| inside a column."""
    tilt = np.outer(np.linspace(0.2, 1, 40), np.arange(16) % 4) + np.random.default_rng(0).normal(0, 0.4, (40, 16))
    dump = dump_of(tmp_path / "d.zarr", by_distance(lambda r: -0.2 * np.floor(r), effect=3.0), depths=tilt)
    frame = column_slopes(dump, "literal").dropna()
    assert set(frame["distance"]) == {1, 2, 3}
    np.testing.assert_allclose(frame["slope"], -0.2 * frame["distance"], atol=0.02)
    pooled = frame[frame["layer"] == ALL]
    assert (pooled["slope_low"] < pooled["slope"]).all() and (pooled["slope"] < pooled["slope_high"]).all()
    assert (pooled["slope_high"] - pooled["slope_low"] < 0.05).all()
    differ = column_slopes(dump_of(tmp_path / "e.zarr", planted.falling(BETAS, image_noise=0.5)), "literal").dropna()
    width = (differ["slope_high"] - differ["slope_low"])[differ["layer"] == ALL]
    assert (width > 0.15).all()


def test_columns_of_a_line_are_linear_and_bent_ones_are_not(tmp_path: Path) -> None:
    line = column_slopes(dump_of(tmp_path / "a.zarr", planted.falling(BETAS, noise=0, offset=0)), "literal")
    assert (line["linearity"].dropna() > 0.99).all()

    def bent(delta: np.ndarray, _: np.random.Generator) -> np.ndarray:
        return np.broadcast_to(abs(delta - 0.9)[:, None, None], (len(delta), planted.LAYERS, planted.HEADS, 16, 16))

    assert (column_slopes(dump_of(tmp_path / "b.zarr", bent), "literal")["linearity"].dropna() < 0.8).all()


def test_relative_slopes_are_of_the_same_images(tmp_path: Path) -> None:
    """Attention of S = -β|Δ| falls by about β of itself per 1 z; a dump differs from itself by exactly nothing."""
    steep, mild = (dump_of(tmp_path / f"{beta}.zarr", planted.falling([beta] * 4, noise=0)) for beta in (0.3, 0.1))
    one, other, difference = relative_slopes(steep, mild)
    assert float(one.value) == pytest.approx(-0.3, abs=0.1) and float(other.value) == pytest.approx(-0.1, abs=0.04)
    assert float(difference.value) == pytest.approx(float(one.value - other.value)) and difference.high < 0
    same = relative_slopes(steep, steep)[2]
    assert (float(same.value), float(same.low), float(same.high)) == (0, 0, 0)


def drawn(number: int, paths: list[Path], variant: str | None = None) -> Any:
    found = FIGURES[number].drawn(analysis.load(paths), variant)
    style.close(found.figure)
    return found


def null_lines(axes: Axes) -> list[Line2D]:
    """Grey, and not the line at 0."""
    return [line for line in axes.lines if same_color(line.get_color(), style.GREY) and len(line.get_xdata()) > 2]


@pytest.mark.parametrize(
    ("number", "variant", "models", "panels"),
    [
        (6, "literal", ("m3ch", "mlin"), 10),
        (6, "literal", ("mlin",), 5),
        (10, "literal", ("m4ch",), 5),
        (10, "gauge_fixed", ("m4ch",), 5),
        (13, "literal", ("mdf1", "mgem"), 6),
        (13, "gauge_fixed", ("mgem",), 3),
        (13, "gauge_fixed", ("mdf1", "mgem"), 6),
    ],
)
def test_maps_share_one_scale(tmp_path: Path, number: int, variant: str, models: tuple, panels: int) -> None:
    """A pooled panel and one a layer for each model, the slopes and the scale."""
    written = [planted.write_dump(tmp_path / f"{m}.zarr", planted.falling(BETAS), model=m) for m in (*models, "mmlp")]
    found = drawn(number, written, variant)
    *drawn_maps, _, _ = found.figure.axes  # slopes, colour scale
    maps = [each for axes in drawn_maps for each in axes.collections if isinstance(each, QuadMesh)]
    assert len(maps) == panels == len(drawn_maps)
    assert all(mesh.get_rasterized() for mesh in maps)  # small files
    limits = {(mesh.norm.vmin, mesh.norm.vmax) for mesh in maps}
    assert len(limits) == 1
    [(low, high)] = limits
    frame = found.frames[""]
    shown = frame.loc[frame["shown"], "mean"]
    assert low <= shown.min() and shown.max() <= high
    assert set(frame["model"]) == set(models) == set(found.frames["-slopes"]["model"])
    of_null = null_lines(found.figure.axes[-2])
    assert len(of_null) == len(models) * (variant == "gauge_fixed")
    if variant == "gauge_fixed":
        assert low == -high and "against centred |Δ|" in found.caption and "Grey" in found.caption
        slopes = found.frames["-slopes"]
        for line, model in zip(of_null, models, strict=True):
            pooled = slopes[(slopes["model"] == model) & (slopes["layer"] == ALL)]
            np.testing.assert_array_equal(line.get_ydata(), pooled["other"])
            np.testing.assert_array_equal(line.get_xdata(), pooled["distance"] + 0.5)
        assert of_null[0].get_label() == "another\nimage's depth"
        assert all(line.get_label().startswith("_") for line in of_null[1:])  # in the legend once
    elif number == 6:
        assert isinstance(maps[0].norm, LogNorm) and low < 1 / 17 < high
        labels = [label.get_text() for label in found.figure.axes[-1].get_yticklabels()]
        assert labels[-1] == "1/17" and len(labels) >= 2
    if number == 13:
        assert set(frame["layer"]) == {ALL, 3, 4} and "two branches" in found.caption
    assert "(40 images, patch depth mean of pseudo, 1 seed, epoch 5)" in found.caption


def test_cells_of_too_few_pairs_are_hatched_and_no_others(tmp_path: Path) -> None:
    found = drawn(10, [planted.write_dump(tmp_path / "d.zarr", planted.falling(BETAS))])
    frame = found.frames[""]
    pooled = found.figure.axes[0]
    [hatch] = [patch for patch in pooled.patches if isinstance(patch, PathPatch)]
    assert hatch.get_hatch()
    top = pooled.get_ylim()[1]
    assert top == pytest.approx(frame.loc[frame["shown"], "delta_high"].max())
    visible = frame[(frame["layer"] == ALL) & (frame["delta_high"] <= top + 1e-9)]
    centres = np.column_stack([visible["distance"] + 0.5, visible["delta_low"] + 0.05])
    rectangles = hatch.get_path().to_polygons(closed_only=True)
    inside = np.zeros(len(visible), bool)
    for corners in rectangles:
        (left, bottom), (right, high) = corners.min(0), corners.max(0)
        inside |= ((centres > (left, bottom)) & (centres < (right, high))).all(1)
    assert (inside == ~visible["shown"]).all() and inside.any()


def test_what_maps_lack_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = planted.write_dump(tmp_path / "d.zarr", planted.falling(BETAS))
    with pytest.raises(AnalysisError, match="no dump of mdf1 or mgem was given: make one with 'train dump RUN"):
        FIGURES[13].drawn(analysis.load(path))
    monkeypatch.setattr("analysis.maps.bin_rule", lambda _: (10**9, 1))
    with pytest.raises(AnalysisError, match="dump more images with --images"):
        FIGURES[10].drawn(analysis.load(path))


def test_figure1_shows_the_null_and_the_evidence(tmp_path: Path) -> None:
    paths = [
        planted.write_dump(tmp_path / f"{model}.zarr", planted.falling(BETAS), model=model)
        for model in ("m3ch", "mlin")
    ]
    found = drawn(1, paths, "gauge_fixed")
    proof = found.frames["-evidence"]
    assert proof.groupby(["model", "part"], sort=False).size().to_dict() == {
        ("m3ch", "content"): 4,
        ("mlin", "content"): 4,
        ("mlin", "total"): 4,
    }
    grey = [
        line for line in found.figure.axes[-1].lines if line.get_color() == style.GREY and len(line.get_xdata()) == 4
    ]
    assert [line.get_label() == "another image's depth" for line in grey] == [True, False]
    for line, (model, part) in zip(grey, (("m3ch", "content"), ("mlin", "total")), strict=True):
        of_dump = proof[(proof["model"] == model) & (proof["part"] == part)]
        np.testing.assert_array_equal(line.get_ydata(), of_dump["other"])
    assert "Grey" in found.caption
    assert "The evidence has no p" in found.caption
    raw = planted.write_dump(tmp_path / "raw.zarr", planted.falling(BETAS), num_raw=9)
    assert "p is of the first 9 raw images alone" in drawn(1, [raw], "gauge_fixed").caption
    plain = drawn(1, paths, "literal")
    grey = [
        line for line in plain.figure.axes[-1].lines if line.get_color() == style.GREY and len(line.get_xdata()) == 4
    ]
    slope = null_slope(open_dump(paths[1]), "other", "literal", "total")
    np.testing.assert_allclose(grey[1].get_ydata(), slope.value)
    assert "Grey" in plain.caption and "-evidence" not in plain.frames
    assert "mlin: the learned scores offset the bias in 1 of 4 layers and add to it in 3." in found.caption


def verdicts(*paths: Path) -> dict[str, str]:
    study = analysis.load([planted.write_run(paths[0].parent / "run", model="m3ch"), *paths])
    return {f"{claim.id} {claim.variant}".strip(): claim.verdict for claim in judge(study)}


FALLS = by_distance(lambda r: -0.5 + 0 * r)
MIXED = by_distance(lambda r: np.where(r < 2, 0.5, -0.5))
RISES = by_distance(lambda r: np.where(r < 3, 0.5, -0.5))


@pytest.mark.parametrize(("scores", "expected"), [(FALLS, "reproduced"), (MIXED, "partly"), (RISES, "not")])
def test_claims_of_falling_columns(tmp_path: Path, scores: planted.ScoreMaker, expected: str) -> None:
    paths = [
        planted.write_dump(tmp_path / f"{model}.zarr", scores, model=model)
        for model in ("m4ch", "mlin", "mdf1", "mgem")
    ]
    found = verdicts(*paths)
    names = (
        "figure10-falls literal",
        "figure13-mdf1-falls literal",
        "figure13-mgem-falls literal",
        "figure6-mlin-falls",
    )
    assert [found[name] for name in names] == [expected] * 4
    if expected == "reproduced":
        assert {found[f"{name[:-8]} gauge_fixed"] for name in names[:3]} == {expected}


FALL_CLAIMS = {"m4ch": "figure10-falls", "mdf1": "figure13-mdf1-falls", "mgem": "figure13-mgem-falls"}


@pytest.mark.parametrize(("follows_depth", "expected"), [(False, "partly"), (True, "reproduced")])
def test_a_fall_that_another_images_depth_gives_too_is_partly_reproduced(
    tmp_path: Path, follows_depth: bool, expected: str
) -> None:
    """Depth rises along the rows of every image; scores fall along the rows, or with the image's own |Δ|."""

    def by_position(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        shape = (len(delta), planted.LAYERS, planted.HEADS, 16, 16)
        return -0.4 * abs(ROWS[:, None] - ROWS) + generator.normal(0, 0.3, shape)

    depths = 0.5 * ROWS + np.random.default_rng(4).normal(0, 0.2, (40, 16))
    scores = planted.falling([0.8] * 4) if follows_depth else by_position
    paths = [planted.write_dump(tmp_path / f"{m}.zarr", scores, model=m, depths=depths) for m in FALL_CLAIMS]
    found = {f"{claim.id} {claim.variant}": claim for claim in judge(analysis.load(paths))}
    for name in FALL_CLAIMS.values():
        literal, fixed = found[f"{name} literal"], found[f"{name} gauge_fixed"]
        assert (literal.verdict, fixed.verdict) == ("reproduced", expected)
        assert ("; not beyond another image's depth in " in fixed.observed) != follows_depth
        assert "on another image's depth −" in fixed.interval
        assert "another image" not in literal.observed + literal.interval


def bent(where: Callable[[np.ndarray], np.ndarray]) -> planted.ScoreMaker:
    def make(delta: np.ndarray, _: np.random.Generator) -> np.ndarray:
        score = np.where(where(R), abs(delta - 0.9), -delta)
        return np.broadcast_to(score[:, None, None], (len(delta), planted.LAYERS, planted.HEADS, *R.shape))

    return make


@pytest.mark.parametrize(("reach", "expected"), [(0, "reproduced"), (2, "partly"), (3, "not")])
def test_claims_of_linear_columns(tmp_path: Path, reach: float, expected: str) -> None:
    scores = bent(lambda r: r < reach)
    paths = [planted.write_dump(tmp_path / f"{model}.zarr", scores, model=model) for model in ("m4ch", "mdf1", "mgem")]
    found = verdicts(*paths)
    names = ("figure10-linear", "figure13-mdf1-linear", "figure13-mgem-linear")
    assert [found[f"{name} literal"] for name in names] == [expected] * 3


@pytest.mark.parametrize(
    ("flat", "steep", "expected"),
    [
        (0.05, 0.6, "reproduced"),
        (0.3, 0.6, "partly"),
        (0.9, 0.3, "not"),
        (0.05, -0.6, "not"),
        (-0.6, -0.3, "not"),  # m3ch lies above mlin, but mlin rises
        (-0.9, -0.8, "not"),
        (None, 0.6, "not tested"),
    ],
)
def test_claim_of_flat_columns(tmp_path: Path, flat: float | None, steep: float, expected: str) -> None:
    paths = [planted.write_dump(tmp_path / "mlin.zarr", planted.falling([steep] * 4), model="mlin")]
    if flat is not None:
        paths.append(planted.write_dump(tmp_path / "m3ch.zarr", planted.falling([flat] * 4), model="m3ch"))
    assert verdicts(*paths)["figure6-m3ch-flat"] == expected


def test_flat_columns_need_the_same_images(tmp_path: Path) -> None:
    paths = [
        planted.write_dump(tmp_path / f"{model}.zarr", planted.falling(BETAS), model=model, num_images=count)
        for model, count in (("m3ch", 20), ("mlin", 24))
    ]
    assert verdicts(*paths)["figure6-m3ch-flat"] == "not tested"


@pytest.mark.parametrize(
    ("slope", "turned", "expected"), [(-0.4, 0, "reproduced"), (-0.4, 2, "partly"), (-0.4, 3, "not"), (0.4, 0, "not")]
)
def test_claim_of_swapped_depth(tmp_path: Path, slope: float, turned: int, expected: str) -> None:
    path = planted.write_dump(
        tmp_path / "d.zarr", planted.falling(BETAS), causal=slope, num_causal=10, interventions=["swap"]
    )
    rows = zarr.open_array(path / "causal/swap/rows", mode="r+")
    rows[:, :turned] = -np.asarray(rows[:, :turned])
    assert verdicts(path)["figure1-falls-when-swapped causal"] == expected


@pytest.mark.parametrize(
    ("betas", "expected"),
    [
        ([0.2, 1.0, 0.3, 0.2], "reproduced"),
        ([0.5, 0.505, 0.3, 0.2], "partly"),
        ([1.0, 0.2, 0.3, 0.2], "not"),
        ([-0.5, -0.1, -0.3, -0.2], "not"),
    ],
)
def test_claim_of_a_peak_in_the_middle(tmp_path: Path, betas: list[float], expected: str) -> None:
    path = planted.write_dump(tmp_path / "d.zarr", planted.falling(betas), model="m3ch")
    assert verdicts(path)["figure5-depth-peaks-mid-layers gauge_fixed"] == expected


def test_a_constant_score_has_no_peak(tmp_path: Path) -> None:
    found = verdicts(planted.write_dump(tmp_path / "d.zarr", planted.constant(), model="m3ch"))
    assert found["figure5-depth-peaks-mid-layers gauge_fixed"] == "not tested"


def test_nothing_is_judged_without_dumps() -> None:
    found = {claim.id: claim.verdict for claim in judge(Study([], []))}
    names = [name for name in found if name.split("-")[0] in ("figure6", "figure10", "figure13")]
    assert len(names) == 8 and {found[name] for name in names} == {"not tested"}


@pytest.mark.parametrize("count", [1, 2])
def test_the_smallest_dumps_are_drawn(tmp_path: Path, count: int) -> None:
    """Without intervals where there is one image, and without warnings."""
    paths = [
        planted.write_dump(tmp_path / f"{model}.zarr", planted.falling(BETAS), model=model, num_images=count)
        for model in ("m3ch", "mlin", "m4ch", "mdf1")
    ]
    for number in (1, 6, 10, 13):
        for variant in FIGURES[number].variants:
            if variant != "causal":
                slopes = drawn(number, paths, variant).frames["-slopes"]
                low = slopes["low" if number == 1 else "slope_low"]
                assert low.isna().all() == (count == 1)
    claims = {claim.id: claim for claim in judge(analysis.load(paths))}
    for name in ("figure6-mlin-falls", "figure6-m3ch-flat", "figure10-falls", "figure5-depth-peaks-mid-layers"):
        assert (claims[name].verdict == "not tested") == (count == 1), name
