"""Figure 5's cosines, on scores whose cosine is known."""

from pathlib import Path

import numpy as np
import planted
import pytest

from analysis.attention import VARIANTS, Variant
from analysis.similarity import cosines, over_epochs
from training.dumps.store import open_dump


@pytest.mark.parametrize("variant", VARIANTS)
def test_minus_delta_has_cosine_minus_one(tmp_path: Path, variant: Variant) -> None:
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", planted.falling([1.0] * 4, noise=0, offset=0)))
    frame = cosines(dump, variant)
    np.testing.assert_allclose(frame[frame["quantity"] == "delta"]["cosine"], -1, atol=1e-12)
    assert (frame["num_undefined"] == 0).all()


@pytest.mark.parametrize(("value", "expected"), [(-1.0, -0.9031), (1.0, 0.9031)])
def test_constant_scores_look_like_distance_until_gauge_fixed(tmp_path: Path, value: float, expected: float) -> None:
    dump = open_dump(
        planted.write_dump(tmp_path / "d.zarr", planted.constant(value), grid=(14, 14), num_images=3, image_size=224)
    )
    literal = cosines(dump, "literal")
    np.testing.assert_allclose(literal[literal["quantity"] == "r"]["cosine"], expected, atol=5e-5)
    fixed = cosines(dump, "gauge_fixed")
    assert fixed["cosine"].isna().all()
    assert (fixed["num_undefined"] == 3).all()


def test_row_offsets_leave_gauge_fixed_alone(tmp_path: Path) -> None:
    frames = {
        (offset, variant): cosines(
            open_dump(planted.write_dump(tmp_path / f"{offset}.zarr", planted.falling([0.5] * 4, 0, offset))), variant
        )
        for offset in (0.0, 30.0)
        for variant in VARIANTS
    }
    fixed = [frames[offset, "gauge_fixed"]["cosine"] for offset in (0.0, 30.0)]
    np.testing.assert_allclose(fixed[0], fixed[1], atol=1e-10)
    assert np.abs(frames[0.0, "literal"]["cosine"] - frames[30.0, "literal"]["cosine"]).min() > 0.1


def test_epochs_come_in_order(tmp_path: Path) -> None:
    dumps = [
        open_dump(planted.write_dump(tmp_path / f"{epoch}.zarr", planted.local, epoch=epoch)) for epoch in (10, 0, 5)
    ]
    assert over_epochs(dumps, "literal")["epoch"].drop_duplicates().tolist() == [0, 5, 10]
