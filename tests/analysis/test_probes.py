"""Probes from moments against scikit-learn on the tokens themselves; erasure against its definition."""

from typing import Any

import numpy as np
import pytest
from planted_tokens import memory_dump
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge

from analysis import probes
from analysis.load import AnalysisError
from analysis.statistics import jackknife
from training.dumps.erasure import erasure

IMAGES, PATCHES, WIDTH, FOLDS = 35, 12, 6, 5


class Tokens:
    """h (images, patches, width), z of the image and of another, NaN where a patch has no depth."""

    def __init__(self, h: np.ndarray, z: np.ndarray) -> None:
        self.h, self.z, self.seen = h, z, ~np.isnan(z)
        self.other = np.nan_to_num(np.roll(z, len(z) // 2, 0))
        self.fold = np.arange(len(z)) % FOLDS

    def of(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens of some images: h, z, z'."""
        seen = self.seen[images]
        return self.h[images][seen], self.z[images][seen], self.other[images][seen]

    def split(self, fold: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Training and held-out tokens."""
        return self.of(self.fold != fold), self.of(self.fold == fold)

    def moments(self, images: np.ndarray) -> np.ndarray:
        design = np.column_stack([*self.of(images), np.ones(self.seen[images].sum())])
        return design.T @ design

    def folds(self) -> np.ndarray:
        return np.stack([self.moments(self.fold == fold) for fold in range(FOLDS)])

    def dump(self) -> Any:
        return memory_dump({"tokens": self.h[None]}, self.z)


@pytest.fixture
def tokens() -> Tokens:
    """Means far from 0, unequal variances, an image and a position effect, one depth in ten missing."""
    rng = np.random.default_rng(3)
    h = rng.normal(size=(IMAGES, PATCHES, WIDTH)) * np.geomspace(0.05, 3, WIDTH) + 4
    h = h + rng.normal(size=(IMAGES, 1, WIDTH)) + rng.normal(size=(1, PATCHES, WIDTH))
    z = h @ np.linspace(1, 0.1, WIDTH) + rng.normal(size=(IMAGES, PATCHES)) - 2 + np.linspace(0, 1, PATCHES)
    z[rng.random(z.shape) < 0.1] = np.nan
    return Tokens(h, z)


def penalty(x: np.ndarray, setting: float) -> float:
    return float(setting * ((x - x.mean(0)) ** 2).sum() / x.shape[1])


def test_ridge_from_moments_is_scikit_learns(tokens):
    vectors = probes.fitted(tokens.moments(np.arange(IMAGES)), probes.ridge)
    h, z, other = tokens.of(np.arange(IMAGES))
    for index, setting in enumerate(probes.PENALTIES):
        for column, target in enumerate((z, other)):
            model = Ridge(alpha=penalty(h, setting), solver="svd").fit(h, target)
            v = vectors[index, column]
            assert -v[:WIDTH] == pytest.approx(model.coef_, rel=1e-9, abs=1e-12)
            assert -v[-1] == pytest.approx(model.intercept_, rel=1e-9)
            assert list(v[WIDTH:-1]) == [1 - column, column]


def brute_force(tokens: Tokens, column: int, reduce: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Held-out squared errors and chosen penalties by refitting scikit-learn's Ridge on tokens, nested."""

    def squared_error(training: tuple[np.ndarray, ...], tested: tuple[np.ndarray, ...], setting: float) -> float:
        x, y = training[0], tested[0]
        if reduce:
            components = PCA(reduce, svd_solver="full").fit(x)
            x, y = components.transform(x), components.transform(y)
        model = Ridge(alpha=penalty(x, setting), solver="svd").fit(x, training[column])
        return float(((model.predict(y) - tested[column]) ** 2).sum())

    error, chosen = [], []
    for fold in range(FOLDS):
        inner = np.zeros(len(probes.PENALTIES))
        for left in set(range(FOLDS)) - {fold}:
            rest = tokens.of((tokens.fold != fold) & (tokens.fold != left))
            inner += [squared_error(rest, tokens.of(tokens.fold == left), each) for each in probes.PENALTIES]
        chosen.append(probes.PENALTIES[inner.argmin()])
        error.append(squared_error(*tokens.split(fold), chosen[-1]))
    return np.array(error), np.array(chosen)


@pytest.mark.parametrize("reduce", [None, 2])
def test_nested_cross_validation_is_brute_force(tokens, reduce):
    found = probes.probe(tokens.dump(), width=reduce)
    error, chosen = brute_force(tokens, 1, reduce)
    assert found.setting[0] == pytest.approx(chosen)
    assert found.error[0] == pytest.approx(error, rel=1e-11)
    assert found.error_control[0] == pytest.approx(brute_force(tokens, 2, reduce)[0], rel=1e-11)
    assert float(found.mse().value[0]) == pytest.approx(error.sum() / tokens.seen.sum(), rel=1e-11)


def test_the_choice_of_penalty_matters_here(tokens):
    """Else the comparison above would say nothing of it."""
    small = Tokens(tokens.h[:10, :3], tokens.z[:10, :3])
    _, chosen = brute_force(small, 1)
    assert len({*brute_force(tokens, 1)[1], *chosen, *brute_force(small, 2)[1]}) > 2
    assert probes.probe(small.dump()).setting[0] == pytest.approx(chosen)


def test_an_equal_width_of_all_is_the_plain_probe(tokens):
    plain, whole = (probes.probe(tokens.dump(), width=width) for width in (None, WIDTH))
    assert whole.error == pytest.approx(plain.error, rel=1e-12)


def test_descent_is_gradient_descent(tokens):
    tokens = Tokens(tokens.h * np.geomspace(0.1, 1, WIDTH), tokens.z)
    h, z, _ = tokens.of(np.arange(IMAGES))
    vectors = probes.fitted(tokens.moments(np.arange(IMAGES)), probes.gradient_descent)
    x, y = h - h.mean(0), z - z.mean()
    rate = 1 / np.linalg.eigvalsh(x.T @ x).max()
    weights, steps = np.zeros(WIDTH), 0
    for index, wanted in enumerate(probes.STEPS[:9].astype(int)):
        while steps < wanted:
            weights = weights - rate * x.T @ (x @ weights - y)
            steps += 1
        assert -vectors[index, 0, :WIDTH] == pytest.approx(weights, rel=1e-9, abs=1e-12)
    least_squares = LinearRegression().fit(h, z)
    assert -vectors[-1, 0, :WIDTH] == pytest.approx(least_squares.coef_, rel=1e-7)
    assert -vectors[-1, 0, -1] == pytest.approx(least_squares.intercept_, rel=1e-7)
    assert abs(-vectors[0, 0, :WIDTH] - least_squares.coef_).max() > 0.1


def test_early_stopping_ends_before_noise_is_learned():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(20, 3, 40)) * np.geomspace(1, 0.01, 40)
    z = h[..., 0] + rng.normal(size=(20, 3))
    found = probes.probe(Tokens(h, z).dump(), variant="literal")
    assert found.setting.max() < probes.STEPS[-1]
    folds = Tokens(h, z).folds()
    longest = [probes.fitted(folds.sum(0) - fold, probes.gradient_descent)[-1, 0] for fold in folds]
    late = sum(float(probes.errors(v, fold)) for v, fold in zip(longest, folds, strict=True))
    assert found.error.sum() < 0.7 * late
    assert np.isnan(found.skill_centred().value[0])


def test_baselines_and_controls_are_brute_force(tokens):
    found = probes.probe(tokens.dump())
    total, within, total_within, position, overall = [], [], [], [], []
    for fold in range(FOLDS):
        (x, z, _), (_, z_out, _) = tokens.split(fold)
        model = Ridge(alpha=penalty(x, found.setting[0, fold]), solver="svd").fit(x, z)
        total.append(((z_out - z.mean()) ** 2).sum())
        held, rest = tokens.fold == fold, tokens.fold != fold
        of_image = []
        for image in np.flatnonzero(held):
            h, z_image, _ = tokens.of(np.array([image]))
            residual = z_image - model.predict(h)
            of_image.append([((e - e.mean()) ** 2).sum() for e in (residual, z_image)])
        within.append(np.sum(of_image, 0)[0])
        total_within.append(np.sum(of_image, 0)[1])
        mean = np.nanmean(tokens.z[rest], 0)
        position.append(np.nansum((tokens.z[held] - mean) ** 2))
        overall.append(z.mean())
    assert found.total[0] == pytest.approx(np.array(total), rel=1e-11)
    assert found.error_within[0] == pytest.approx(np.array(within), rel=1e-10)
    assert found.total_within[0] == pytest.approx(np.array(total_within), rel=1e-10)
    assert found.error_position == pytest.approx(np.array(position), rel=1e-11)
    assert float(found.r2().value[0]) == pytest.approx(1 - found.error.sum() / np.sum(total), rel=1e-11)
    assert float(found.r2_within().value[0]) == pytest.approx(1 - np.sum(within) / np.sum(total_within), rel=1e-9)


def test_a_position_that_training_never_saw_gets_the_overall_mean(tokens):
    tokens.z[tokens.fold != 2, 4] = np.nan
    tokens = Tokens(tokens.h, tokens.z)
    _, z, _ = tokens.of(tokens.fold != 2)
    mean = np.array([z.mean() if p == 4 else np.nanmean(tokens.z[tokens.fold != 2, p]) for p in range(PATCHES)])
    expected = np.nansum((tokens.z[tokens.fold == 2] - mean) ** 2)
    assert probes.probe(tokens.dump()).error_position[2] == pytest.approx(expected, rel=1e-11)


def test_position_centred_probe_has_a_free_offset_a_position(tokens):
    """Ridge with dummies of the positions that cost nothing, by least squares on rows that stand for the penalty."""
    found = probes.probe(tokens.dump())
    for fold in range(FOLDS):
        sides = []
        for held in (tokens.fold != fold, tokens.fold == fold):
            places = np.broadcast_to(np.arange(PATCHES), tokens.z.shape)[held][tokens.seen[held]]
            sides.append(
                (tokens.h[held][tokens.seen[held]], np.eye(PATCHES)[places], tokens.z[held][tokens.seen[held]])
            )
        (h, dummies, z), (h_out, dummies_out, z_out) = sides
        residual = h - dummies @ np.linalg.lstsq(dummies, h)[0]
        alpha = found.setting[0, fold] * (residual**2).sum() / WIDTH
        rows = np.vstack([np.hstack([h, dummies]), np.sqrt(alpha) * np.eye(WIDTH, WIDTH + PATCHES)])
        solution = np.linalg.lstsq(rows, np.append(z, np.zeros(WIDTH)))[0]
        expected = ((z_out - np.hstack([h_out, dummies_out]) @ solution) ** 2).sum()
        assert found.error_centred[0, fold] == pytest.approx(expected, rel=1e-9)


def test_selectivity_tells_an_images_depth_from_its_position():
    rng = np.random.default_rng(5)
    code = rng.normal(size=(PATCHES, WIDTH))
    code[:, 1] = np.linspace(-2, 2, PATCHES)
    z = np.linspace(-2, 2, PATCHES) + 0.5 * rng.normal(size=(200, PATCHES))
    only_position = code + 0.1 * rng.normal(size=(200, PATCHES, WIDTH))
    both = only_position.copy()
    both[..., 0] += z
    position, depth = (probes.probe(Tokens(h, z).dump()) for h in (only_position, both))
    assert position.r2().value[0] > 0.8, "a large R² that says nothing of images"
    assert position.selectivity().estimate().low[0] < 0.01 and position.selectivity().value[0] < 0.03
    assert position.skill().value[0] < 0.05 and abs(position.skill_centred().value[0]) < 0.05
    assert depth.selectivity().estimate().low[0] > 0.03
    assert depth.skill().estimate().low[0] > 0.3
    assert depth.skill_centred().estimate().low[0] > depth.skill().value[0]
    assert depth.r2_within().estimate().low[0] > 0.9
    assert (depth.mse().pseudo - position.mse().pseudo).mean(0)[0] < 0


def test_intervals_are_over_folds(tokens):
    values = np.array([1.0, 4.0, 2.0, 7.0, 6.0])
    without = np.array([np.delete(values, fold).mean() for fold in range(5)])
    found = jackknife(values.mean(), without)
    expected = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    mse = probes.probe(tokens.dump()).mse().estimate()
    assert mse.low[0] < mse.value[0] < mse.high[0]


def test_a_fold_without_depth_is_refused(tokens):
    dump = tokens.dump()
    dump["statistics/probe/position"][3] = 0
    with pytest.raises(AnalysisError, match="5 folds") as refused:
        probes.probe(dump)
    assert "more --images" in str(refused.value)


# Erasure.


@pytest.fixture
def concept() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    mix = rng.normal(size=(8, 8)) * np.geomspace(0.1, 5, 8)
    h = rng.normal(size=(400, 8)) @ mix + 7
    return h, h @ rng.normal(size=8) * 0.3 + rng.normal(size=400) + 2


def sums(h: np.ndarray, z: np.ndarray) -> np.ndarray:
    design = np.column_stack([h, z, np.ones(len(h))])
    return design.T @ design


def r_squared(h: np.ndarray, z: np.ndarray) -> float:
    return float(LinearRegression().fit(h, z).score(h, z))


def test_nothing_linear_is_left_of_the_concept(concept):
    h, z = concept
    erase = erasure(sums(h, z))
    assert r_squared(h, z) > 0.5
    assert r_squared(erase(h), z) == pytest.approx(0, abs=1e-12)
    assert erase(h).mean(0) == pytest.approx(h.mean(0), rel=1e-12)
    assert erase(erase(h)) == pytest.approx(erase(h), rel=1e-9), "a projection"
    assert erase(h.reshape(4, 100, 8)) == pytest.approx(erase(h).reshape(4, 100, 8), rel=1e-12)


def test_erasure_moves_tokens_least(concept):
    """Against projecting out the direction of covariance (mean projection) and every oblique one of the same kind."""
    h, z = concept
    erase = erasure(sums(h, z))
    moved = ((erase(h) - h) ** 2).sum()
    centred = h - h.mean(0)
    sigma = centred.T @ (z - z.mean())
    rng = np.random.default_rng(0)
    readers = [sigma, *(erase.weights / np.linalg.norm(erase.weights) + 0.05 * rng.normal(size=(20, 8)))]
    for reader in readers:
        other = h - np.outer(centred @ reader, sigma) / (reader @ sigma)
        assert r_squared(other, z) == pytest.approx(0, abs=1e-10)
        assert moved < ((other - h) ** 2).sum() * 0.9999


def test_erasure_of_tokens_that_fill_fewer_directions(concept):
    h, z = concept
    doubled = np.hstack([h, h @ np.ones((8, 3))])
    erase = erasure(sums(doubled, z))
    left = erase(doubled) - erase(doubled).mean(0)
    assert left.T @ (z - z.mean()) / len(z) == pytest.approx(0, abs=1e-8)
    assert np.linalg.matrix_rank(left, tol=1e-6 * np.linalg.norm(left)) == 7


def test_erasure_leaves_tokens_that_hold_nothing(concept):
    h, _ = concept
    design = np.column_stack([np.ones(len(h)), h])
    noise = np.random.default_rng(2).normal(size=len(h))
    noise = noise - design @ np.linalg.lstsq(design, noise)[0]
    assert np.array_equal(erasure(sums(h, noise))(h), h)
