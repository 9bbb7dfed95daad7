"""Maps by distance and |Δ|, their columns' slopes, Figures 6, 10 and 13, and every verdict of their claims."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, same_color
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from scipy.stats import binned_statistic_2d

import analysis
from analysis import style
from analysis.attention import bin_fits, bin_rule, linearity, score_curve
from analysis.figures import figure_of
from analysis.load import AnalysisError
from analysis.maps import ALL, LEAST_BINS, cells, column_slopes, columns_linearity, long_columns, slopes_at_distances
from analysis.nulls import partner_groups
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


def test_cells_are_scipys(tmp_path: Path) -> None:
    dump = dump_of(tmp_path / "d.zarr", num_images=12)
    z = planted.patch_depths(12)
    delta = abs(z[:, :, None] - z[:, None])
    scores = planted.falling(BETAS)(delta, np.random.default_rng(1)).mean(2)
    frame = cells(dump, "literal")
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
    np.testing.assert_allclose(slopes[["slope", "other"]].dropna(), 0, atol=1e-12)
    assert slopes["slope"].notna().any() and slopes["linearity"].isna().all()
    assert np.isnan(slopes.loc[slopes["num_bins"] < LEAST_BINS, "slope"]).all()


def test_column_slopes_equal_explicit_least_squares(tmp_path: Path) -> None:
    """With a dummy for every exact distance, over single pairs; on an image's own |Δ| and on its partner's."""
    maker = by_distance(lambda r: -0.2 * r, effect=3.0)
    dump = dump_of(tmp_path / "d.zarr", maker, num_images=6)
    z = planted.patch_depths(6)
    delta = abs(z[:, :, None] - z[:, None])
    scores = maker(delta, np.random.default_rng(1)).mean(2)
    x = {"slope": delta, "other": delta[[partner(n, 6) for n in range(6)]]}
    frame = column_slopes(dump, "literal")
    exact, place = np.unique(R[QUERY, KEY].round(9), return_inverse=True)

    def fit(images: list[int], name: str, layer: int | str, column: int) -> float:
        chosen = column == WHOLE
        dummies = np.tile(np.eye(len(exact))[place[chosen]], (len(images), 1))
        values = (scores.mean(1) if layer == ALL else scores[:, int(layer) - 1])[:, QUERY, KEY]
        design = np.column_stack([x[name][:, QUERY, KEY][images][:, chosen].ravel(), dummies])
        return float(np.linalg.lstsq(design, values[images][:, chosen].ravel(), rcond=None)[0][0])

    for _, row in frame[frame["layer"].isin([ALL, 2]) & frame["slope"].notna()].iterrows():
        at = (row["layer"], row["distance"])
        for name in x:
            assert row[name] == pytest.approx(fit([*range(6)], name, *at), rel=1e-9)
    # Images and their partners are left out together: three pairs are too few, so six groups are spread √2 as far.
    whole = dump["statistics/distance/pairs"]
    together = partner_groups(dump, whole)
    np.testing.assert_allclose(together.sum(0), whole.sum(0))
    np.testing.assert_allclose(together.std(0), np.sqrt(2) * whole.std(0))


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


def test_attention_falls_by_what_scores_do(tmp_path: Path) -> None:
    """Attention of S = -β|Δ| falls by about β of itself per 1 z; all distances together."""
    whole = np.ones((len(np.unique(R[R > 0].round(9))), 1))
    for beta, tolerance in ((0.3, 0.1), (0.1, 0.04)):
        dump = dump_of(tmp_path / f"{beta}.zarr", planted.falling([beta] * 4, noise=0))
        found = slopes_at_distances(dump, "attention", whole)
        assert found.value[0, 0, 0] == pytest.approx(-beta, abs=tolerance)
        assert abs(found.value[1, 0, 0]) < beta / 2  # on another image's depth


def test_columns_to_judge_are_those_that_are_shown(tmp_path: Path) -> None:
    dump = dump_of(tmp_path / "d.zarr")
    names, of_column = long_columns(dump)
    frame = column_slopes(dump, "literal")
    assert list(names) == list(frame.loc[(frame["layer"] == ALL) & (frame["num_bins"] >= LEAST_BINS), "distance"])
    found = columns_linearity(dump, of_column)
    pooled = frame[(frame["layer"] == ALL) & frame["distance"].isin(names)]
    np.testing.assert_allclose(found.value, pooled["linearity"], atol=1e-9)
    np.testing.assert_allclose(linearity(dump).value, bin_fits(score_curve(dump, "literal"))["linearity"], atol=1e-9)


def drawn(number: int, paths: list[Path], variant: str | None = None) -> Any:
    return figure_of(number).drawn(analysis.load(paths), variant)


def null_lines(axes: Axes) -> list[Line2D]:
    """Grey, and not the line at 0."""
    return [line for line in axes.lines if same_color(line.get_color(), style.GREY) and len(line.get_xdata()) > 2]


@pytest.mark.parametrize(
    ("number", "variant", "models", "panels"),
    [
        (6, "literal", ("m3ch", "mlin"), 10),
        (6, "literal", ("mlin",), 5),
        (10, "literal", ("m4ch",), 5),
        (13, "literal", ("mdf1", "mgem"), 6),
        (13, "literal", ("mgem",), 3),
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
    assert len(of_null) == len(models) and "Grey" in found.caption
    slopes = found.frames["-slopes"]
    for line, model in zip(of_null, models, strict=True):
        pooled = slopes[(slopes["model"] == model) & (slopes["layer"] == ALL)]
        np.testing.assert_array_equal(line.get_ydata(), pooled["other"])
        np.testing.assert_array_equal(line.get_xdata(), pooled["distance"] + 0.5)
    assert of_null[0].get_label() == "another\nimage's depth"
    assert all(line.get_label().startswith("_") for line in of_null[1:])  # in the legend once
    if number == 6:
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
        figure_of(13).drawn(analysis.load(path))
    monkeypatch.setattr("analysis.maps.bin_rule", lambda _: (10**9, 1))
    with pytest.raises(AnalysisError, match="dump more images with --images"):
        figure_of(10).drawn(analysis.load(path))


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
    assert "Grey" in found.caption
    assert "The evidence has no p" in found.caption
    raw = planted.write_dump(tmp_path / "raw.zarr", planted.falling(BETAS), num_raw=9)
    assert "p is of the first 9 raw images alone" in drawn(1, [raw], "gauge_fixed").caption
    plain = drawn(1, paths, "literal")
    assert "Grey" in plain.caption and "-evidence" not in plain.frames
    assert "mlin: the learned scores offset the bias in 1 of 4 layers and add to it in 3." in found.caption


@pytest.mark.parametrize("count", [1, 2])
def test_the_smallest_dumps_are_drawn(tmp_path: Path, count: int) -> None:
    """Without intervals where there is one image, and without warnings."""
    paths = [
        planted.write_dump(tmp_path / f"{model}.zarr", planted.falling(BETAS), model=model, num_images=count)
        for model in ("m3ch", "mlin", "m4ch", "mdf1")
    ]
    for number in (1, 6, 10, 13):
        for variant in figure_of(number).variants:
            if variant != "causal":
                slopes = drawn(number, paths, variant).frames["-slopes"]
                low = slopes["low" if number == 1 else "slope_low"]
                assert low.isna().all() == (count == 1)
