"""The committed weights are what docs/label.md says, on rooms they never saw."""

import json

import numpy as np
import pytest
import scipy.stats
from running import ROOT

from pipeline import scenes
from pipeline.teachers import open_teacher
from pipeline.teachers.hub import TOY_FOLDER

_UNSEEN = 777_000  # neither the teacher's rooms (seed 1000) nor the demo's (seed 0), nor their validation streams


@pytest.fixture(scope="module")
def rooms():
    return [scenes.render(_UNSEEN, index) for index in range(200)]


@pytest.fixture(scope="module")
def estimates(rooms):
    teacher = open_teacher("toy", "cpu")
    assert teacher.polarity == "closer_is_larger"
    return teacher.estimate([teacher.prepare(room.rgb) for room in rooms], [room.rgb.shape[:2] for room in rooms])


def rank_correlation(estimate: np.ndarray, depth_m: np.ndarray) -> float:
    return scipy.stats.spearmanr(estimate.ravel(), 1 / depth_m.ravel()).statistic


def test_ranks_depth_in_unseen_rooms(rooms, estimates):
    each = [rank_correlation(estimate, room.exact_m) for estimate, room in zip(estimates, rooms, strict=True)]
    assert np.mean(each) >= 0.95


def test_knows_more_than_the_mean_depth_of_each_pixel(rooms, estimates):
    mean = np.mean([1 / room.exact_m for room in rooms], axis=0)
    by_position = np.mean([rank_correlation(mean, room.exact_m) for room in rooms])
    assert by_position < 0.7
    residuals = []
    for estimate, room in zip(estimates, rooms, strict=True):
        true = 1 / room.exact_m
        scale, shift = np.polyfit(estimate.ravel(), true.ravel(), 1)
        residuals.append(np.corrcoef((scale * estimate + shift - mean).ravel(), (true - mean).ravel())[0, 1])
    assert np.mean(residuals) > 0.85


def test_the_docs_print_what_was_measured():
    metrics = json.loads((TOY_FOLDER / "training.json").read_text())["metrics"]
    page = " ".join((ROOT / "docs" / "label.md").read_text("utf-8").split())
    for name in ("spearman", "residual_spearman", "box_spearman"):
        pair = f"{metrics[name]:.3f} against {metrics['position_' + name]:.3f}"
        assert pair in page, pair


def test_is_small():
    assert sum(path.stat().st_size for path in TOY_FOLDER.iterdir()) < 4_000_000
