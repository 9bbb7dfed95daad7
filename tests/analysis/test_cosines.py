"""Figure 5's cosines, on scores whose cosine is known."""

from pathlib import Path
from typing import get_args

import numpy as np
import planted
import pytest

import analysis
from analysis import style
from analysis.attention import Variant
from analysis.figures import figure_of
from analysis.similarity import QUANTITIES, cosine_frame, image_cosines, over_epochs
from training.dumps.pairs import partner
from training.dumps.store import open_dump


@pytest.mark.parametrize("variant", get_args(Variant))
def test_minus_delta_has_cosine_minus_one(tmp_path: Path, variant: Variant) -> None:
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", planted.falling([1.0] * 4, noise=0, offset=0)))
    frame = cosine_frame(dump, variant)
    np.testing.assert_allclose(frame[frame["quantity"] == "delta"]["cosine"], -1, atol=1e-12)
    assert (frame["num_undefined"] == 0).all()


@pytest.mark.parametrize(("value", "expected"), [(-1.0, -0.9031), (1.0, 0.9031)])
def test_constant_scores_look_like_distance_until_gauge_fixed(tmp_path: Path, value: float, expected: float) -> None:
    dump = open_dump(
        planted.write_dump(tmp_path / "d.zarr", planted.constant(value), grid=(14, 14), num_images=3, image_size=224)
    )
    literal = cosine_frame(dump, "literal")
    np.testing.assert_allclose(literal[literal["quantity"] == "r"]["cosine"], expected, atol=5e-5)
    fixed = cosine_frame(dump, "gauge_fixed")
    own = literal.set_index("quantity")
    np.testing.assert_allclose(own["cosine"], -value * own["constant"], rtol=1e-6)
    assert fixed["cosine"].isna().all() and fixed["constant"].isna().all()
    assert (fixed["num_undefined"] == 3).all()


@pytest.mark.parametrize("variant", get_args(Variant))
def test_cosine_with_another_images_depth_is_that_of_the_matrices(tmp_path: Path, variant: Variant) -> None:
    scores = planted.falling([0.5] * 4)
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", scores, num_images=6))
    z = planted.patch_depths(6)
    delta = abs(z[:, :, None] - z[:, None])
    mean = scores(delta, np.random.default_rng(1)).mean(2)
    off = 1 - np.eye(16)
    found = image_cosines(dump, variant)[..., QUANTITIES.index("other")]
    for image in range(6):
        other = delta[partner(image, 6)]
        if variant == "gauge_fixed":
            other = (other - (other * off).sum(1, keepdims=True) / 15) * off
        for layer in range(planted.LAYERS):
            own = mean[image, layer]
            if variant == "gauge_fixed":
                own = (own - (own * off).sum(1, keepdims=True) / 15) * off
            expected = (own * other).sum() / np.linalg.norm(own) / np.linalg.norm(other)
            assert found[image, layer] == pytest.approx(expected, abs=1e-9)


def test_row_offsets_leave_gauge_fixed_alone(tmp_path: Path) -> None:
    frames = {
        (offset, variant): cosine_frame(
            open_dump(planted.write_dump(tmp_path / f"{offset}.zarr", planted.falling([0.5] * 4, 0, offset))), variant
        )
        for offset in (0.0, 30.0)
        for variant in get_args(Variant)
    }
    fixed = [frames[offset, "gauge_fixed"]["cosine"] for offset in (0.0, 30.0)]
    np.testing.assert_allclose(fixed[0], fixed[1], atol=1e-10)
    assert np.abs(frames[0.0, "literal"]["cosine"] - frames[30.0, "literal"]["cosine"]).min() > 0.1


def test_epochs_come_in_order(tmp_path: Path) -> None:
    dumps = [
        open_dump(planted.write_dump(tmp_path / f"{epoch}.zarr", planted.local, epoch=epoch)) for epoch in (10, 0, 5)
    ]
    assert over_epochs(dumps, "literal")["epoch"].drop_duplicates().tolist() == [0, 5, 10]


def test_figure5_draws_its_nulls_in_grey(tmp_path: Path) -> None:
    study = analysis.load(planted.write_dump(tmp_path / "d.zarr", planted.local, model="m3ch"))
    for variant, num_levels in (("literal", 1), ("gauge_fixed", 0)):
        drawn = figure_of(5).drawn(study, variant)
        frame = drawn.frames[""].set_index("quantity")
        grey = [[line for line in axes.lines if line.get_color() == style.GREY] for axes in drawn.figure.axes]
        curves = [[line for line in lines if len(line.get_xdata()) == planted.LAYERS] for lines in grey]
        assert [len(lines) for lines in curves] == [1, 0]
        np.testing.assert_allclose(curves[0][0].get_ydata(), frame.loc["other", "cosine"])
        levels = [[line for line in lines if line.get_label() == "scores of −1"] for lines in grey]
        assert [len(lines) for lines in levels] == [num_levels] * 2
        for lines, quantity in zip(levels, ("delta", "r"), strict=True):
            for line in lines:
                assert line.get_ydata()[0] == frame.loc[quantity, "constant"].iloc[0]
        assert "another image's |Δ|, the null" in drawn.caption and ("−1 everywhere" in drawn.caption) == num_levels
