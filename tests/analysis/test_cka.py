"""CKA against dcor, against features without Grams, and against planted dumps."""

from itertools import permutations
from typing import Any

import dcor
import numpy as np
import pytest
from planted_tokens import memory_dump

from analysis import cka, hsic
from analysis.contrast import Arm, contrast
from analysis.load import AnalysisError


def gram(x: np.ndarray) -> np.ndarray:
    return x @ x.T


def debiased(x: np.ndarray, y: np.ndarray) -> float:
    k, l = gram(x), gram(y)  # noqa: E741
    return float(hsic.cka(np.array([hsic.hsic1(k, l), hsic.hsic1(k, k), hsic.hsic1(l, l)])))


def biased(x: np.ndarray, y: np.ndarray) -> float:
    k, l = gram(x), gram(y)  # noqa: E741
    return float(hsic.cka(np.array([hsic.hsic0(k, l), hsic.hsic0(k, k), hsic.hsic0(l, l)])))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def related(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(40, 12) and (40, 9) features of which some are shared, with unequal variances and means far from 0."""
    shared = rng.normal(size=(40, 5))
    x = shared @ rng.normal(size=(5, 12)) + rng.normal(size=(40, 12)) * np.linspace(0.2, 2, 12) + 3
    y = shared @ rng.normal(size=(5, 9)) + rng.normal(size=(40, 9)) - 1
    return x, y


def zeroed(k: np.ndarray) -> np.ndarray:
    return k - np.diag(np.diag(k))


def dcor_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    return float(dcor.u_product(dcor.u_centered(k), dcor.u_centered(l)))


def nguyen_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """U-centring written out (Székely and Rizzo 2014, as in Nguyen et al. 2021)."""
    n = len(k)
    centred = []
    for each in (zeroed(k), zeroed(l)):
        rows = each.sum(0)
        u = each - rows[:, None] / (n - 2) - rows[None] / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
        centred.append(zeroed(u))
    return float((centred[0] * centred[1]).sum() / (n * (n - 3)))


def test_hsic1_is_u_centring_is_dcor(related):
    k, l = map(gram, related)  # noqa: E741
    ours = hsic.hsic1(k, l)
    assert ours == pytest.approx(dcor_hsic(zeroed(k), zeroed(l)), rel=1e-12)
    assert ours == pytest.approx(nguyen_hsic(k, l), rel=1e-12)
    assert dcor_hsic(k, l) != pytest.approx(ours, rel=1e-3), "dcor takes the diagonal to be zero already"


def test_the_oracle_catches_a_diagonal_subtracted_by_broadcasting(related):
    """`K - diag(K)` with a vector takes column j's diagonal entry off every row of column j."""

    def broadcast(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
        n = len(k)
        k, l = k - np.diag(k), l - np.diag(l)  # noqa: E741  the mistake
        k_rows, l_rows = k.sum(1), l.sum(1)
        ends = k_rows.sum() * l_rows.sum() / ((n - 1) * (n - 2))
        return float(((k * l).sum() + ends - 2 / (n - 2) * k_rows @ l_rows) / (n * (n - 3)))

    k, l = map(gram, related)  # noqa: E741
    oracle = dcor_hsic(zeroed(k), zeroed(l))
    assert broadcast(k, l) != pytest.approx(oracle, rel=1e-2)
    assert hsic.hsic1(k, l) == pytest.approx(oracle, rel=1e-12)


def test_hsic1_is_unbiased(rng):
    """Mean over permutations of the samples, which make X and Y independent, is 0 exactly; biased HSIC's is not."""
    k, l = gram(rng.normal(size=(5, 3))), gram(rng.normal(size=(5, 2)))  # noqa: E741
    shuffled = np.array([l[np.ix_(order, order)] for order in permutations(range(5))])
    assert hsic.hsic1(k, shuffled).mean() == pytest.approx(0, abs=1e-12)
    assert hsic.hsic0(k, shuffled).mean() > 0.01


def test_hsic0_is_the_covariance_between_features(related):
    x, y = (each - each.mean(0) for each in related)
    assert hsic.hsic0(*map(gram, related)) == pytest.approx(((x.T @ y / (len(x) - 1)) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("similarity", [debiased, biased])
def test_invariances(similarity, related, rng):
    x, y = related
    assert similarity(x, x) == pytest.approx(1, abs=1e-12)
    turn, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    value = similarity(x, y)
    assert 0.1 < value < 0.95
    assert similarity(x @ turn, y) == pytest.approx(value, rel=1e-12)
    assert similarity(3e3 * x, y) == pytest.approx(value, rel=1e-12)
    assert similarity(x + rng.normal(size=12) * 5, y) == pytest.approx(value, rel=1e-10)
    assert abs(similarity(x @ rng.normal(size=(12, 12)), y) - value) > 0.01, "an invertible map may change it"


def test_flattened_tokens_are_the_sum_of_the_tokens_grams(rng):
    tokens = rng.normal(size=(8, 6, 4))
    assert gram(tokens.reshape(8, 24)) == pytest.approx(np.einsum("itd,jtd->ij", tokens, tokens), rel=1e-12)


def test_self_hsic_that_is_not_positive_gives_nan():
    assert np.isnan(hsic.cka(np.array([1.0, 0.0, 1.0])))
    assert np.isnan(hsic.cka(np.array([1.0, 1.0, -1e-9])))
    assert hsic.cka(np.array([-0.02, 1.0, 1.0])) == -0.02


@pytest.mark.parametrize(("n", "expected"), [(32, 0.200), (64, 0.111), (128, 0.059), (256, 0.030)])
def test_biased_null_of_eight_features(n, expected):
    assert hsic.biased_null(8, 8, n) == pytest.approx(expected, abs=5e-4)
    generator = np.random.default_rng(n)
    drawn = np.mean([biased(*generator.normal(size=(2, n, 8))) for _ in range(60)])
    assert drawn == pytest.approx(expected, rel=0.06)


def test_biased_null_of_wide_features(rng):
    x, y = rng.normal(size=(2, 500, 768))
    assert biased(x, y) == pytest.approx(hsic.biased_null(768, 768, 500), abs=2e-3)
    assert debiased(x, y) == pytest.approx(0, abs=0.01)
    scale = np.arange(1, 769) ** -0.5
    d = (scale**2).sum() ** 2 / (scale**4).sum()
    drawn = np.mean([biased(*(rng.normal(size=(2, 300, 768)) * scale)) for _ in range(8)])
    assert drawn == pytest.approx(hsic.biased_null(d, d, 300), rel=0.06)


def test_null_from_grams_is_the_mean_over_all_permutations(rng):
    k, l = (hsic.centred(gram(rng.normal(size=(6, p)))) for p in (3, 9))  # noqa: E741
    d = [hsic.participation_ratio(np.trace(each) ** 2, (each**2).sum(), 6) for each in (k, l)]
    shuffled = np.array([l[np.ix_(order, order)] for order in permutations(range(6))])
    mean = hsic.hsic0(k, shuffled).mean() / np.sqrt(hsic.hsic0(k, k) * hsic.hsic0(l, l))
    assert hsic.biased_null(*d, 6) == pytest.approx(mean, rel=1e-12)


def test_participation_ratio_sees_through_few_samples(rng):
    x = rng.normal(size=(100, 400))
    k = hsic.centred(gram(x))
    assert np.trace(k) ** 2 / (k**2).sum() < 100
    assert hsic.participation_ratio(np.trace(k) ** 2, (k**2).sum(), 100) == pytest.approx(400, rel=0.1)


def test_features_give_what_grams_give(related):
    x, y = related
    exact = hsic.hsic1(gram(x), gram(y))
    reference = [each.mean(0) for each in related]
    assert hsic.hsic1_of_sums(hsic.feature_sums(x, y)) == pytest.approx(exact, rel=1e-10)
    blocks = [
        hsic.feature_sums(*(each[rows] - mean for each, mean in zip(related, reference, strict=True)))
        for rows in (slice(0, 13), slice(13, 14), slice(14, 40))
    ]
    merged = [sum(part) for part in zip(*blocks, strict=True)]
    assert hsic.hsic1_of_sums(merged) == pytest.approx(exact, rel=1e-12)


def test_features_in_blocks_give_what_grams_give_groups_left_out(related):
    """Far from 0, in four groups read three samples at a time."""
    x, y = (each + 100 for each in related)  # of which Grams of 100² would lose six digits
    groups = np.split(np.arange(40), 4)
    sizes = []

    def blocks(group: int):
        for rows in np.split(groups[group], (3, 6, 9)):
            sizes.append(len(rows))
            yield x[rows], y[rows]

    found = hsic.feature_cka(blocks, 4)
    without = np.array([debiased(*(np.delete(each, rows, 0) for each in related)) for rows in groups])
    expected = hsic.jackknife(np.array(debiased(*related)), without)
    for name in ("value", "low", "high"):
        assert float(getattr(found, name)) == pytest.approx(float(getattr(expected, name)), rel=1e-10)
    assert max(sizes) == 3
    single = hsic.feature_cka(lambda _: [(x, y)], 1)
    assert single.value == pytest.approx(found.value, rel=1e-12) and np.isnan(single.low)


def test_a_bootstrap_with_replacement_would_find_likeness_in_noise(rng):
    """Why no interval here draws images with replacement."""
    x, y = rng.normal(size=(2, 120, 300))
    drawn = rng.integers(120, size=120)
    assert abs(debiased(x, y)) < 0.1
    assert debiased(x[drawn], y[drawn]) > 0.5


def six(x: np.ndarray, y: np.ndarray, g: np.ndarray) -> np.ndarray:
    pairs = ((x, y), (x, x), (y, y), (x, g), (y, g), (g, g))
    return np.array([hsic.hsic1(gram(a), gram(b)) for a, b in pairs])


def test_adjusted_for_the_input_is_cka_of_the_residuals(related, rng):
    """Against the residuals written out: least squares over the U-centred entries, which dcor projects as well."""
    x, y = related
    g = x[:, :3] + rng.normal(size=(40, 3))
    k, l, m = (dcor.u_centered(zeroed(gram(each))) for each in (x, y, g))  # noqa: E741
    off = ~np.eye(40, dtype=bool)
    residuals = [each - np.linalg.lstsq(m[off][:, None], each[off], rcond=None)[0] * m for each in (k, l)]
    products = [dcor.u_product(*pair) for pair in ((residuals[0], residuals[1]), *((r, r) for r in residuals))]
    found = float(hsic.adjusted_cka(six(x, y, g)))
    assert found == pytest.approx(products[0] / np.sqrt(products[1] * products[2]), rel=1e-10)
    project = dcor.u_complementary_projection(m)
    assert residuals[0] == pytest.approx(project(k), abs=1e-9)
    assert abs(found - debiased(x, y)) > 0.05


def test_models_that_share_only_the_input_are_not_alike_once_it_is_regressed_out(rng):
    g = rng.normal(size=(300, 20))
    x, y = (g + 0.5 * rng.normal(size=(300, 20)) for _ in range(2))
    assert debiased(x, y) > 0.3
    assert abs(float(hsic.adjusted_cka(six(x, y, g)))) < 0.02
    shared = rng.normal(size=(300, 20))
    assert float(hsic.adjusted_cka(six(x + shared, y + shared, g))) > 0.3
    assert np.isnan(hsic.adjusted_cka(six(x, y, np.ones((300, 2))))), "photographs that are all the same"


def test_samples_left_out_are_as_if_never_seen(related):
    kept = np.arange(40) % 7 > 0
    k, l = map(gram, related)  # noqa: E741
    inside = [each[kept][:, kept] for each in (k, l)]
    assert hsic.hsic1(k, l, kept) == pytest.approx(hsic.hsic1(*inside), rel=1e-12)
    assert np.isnan(hsic.hsic1(k, l, np.arange(40) < 3)), "of three samples it is not defined"


def test_minibatch_interval_covers_and_agrees_with_the_jackknife(rng):
    mix = rng.normal(size=(20, 30)) / 5

    def study() -> np.ndarray:
        x = rng.normal(size=(24, 25, 20))
        y = x @ mix + rng.normal(size=(24, 25, 30))
        k, l = x @ x.swapaxes(1, 2), y @ y.swapaxes(1, 2)  # noqa: E741
        return np.stack([hsic.hsic1(k, l), hsic.hsic1(k, k), hsic.hsic1(l, l)], -1)

    studies = np.array([study() for _ in range(150)])
    covariances = mix, np.eye(20), mix.T @ mix + np.eye(30)
    truth = (mix**2).sum() / np.sqrt(20 * (covariances[2] ** 2).sum())
    found = [hsic.minibatch_cka(hsics) for hsics in studies]
    assert np.mean([each.value for each in found]) == pytest.approx(truth, abs=0.003)
    covered = np.mean([each.low <= truth <= each.high for each in found])
    assert 0.89 <= covered <= 0.99
    without = np.array([hsic.cka(np.delete(studies[0], block, 0).mean(0)) for block in range(24)])
    ours, jackknifed = found[0], hsic.jackknife(found[0].value, without)
    assert ours.high - ours.low == pytest.approx(jackknifed.high - jackknifed.low, rel=0.05)
    steady = np.array([0.8, 1.0, 2.0]) + 0.01 * rng.normal(size=(24, 3))  # where the two agree to first order
    without = np.array([hsic.cka(np.delete(steady, block, 0).mean(0)) for block in range(24)])
    ours, jackknifed = hsic.minibatch_cka(steady), hsic.jackknife(hsic.cka(steady.mean(0)), without)
    assert ours.high - ours.low == pytest.approx(jackknifed.high - jackknifed.low, rel=1e-2)
    alone = hsic.minibatch_cka(studies[0][:1])
    assert np.isnan(alone.low) and np.isnan(alone.high) and np.isfinite(alone.value)


def test_tokens_that_share_only_a_position_code(rng):
    position = rng.normal(size=(16, 24))
    x, y = (rng.normal(size=(60, 16, 24)) + position @ np.linalg.qr(rng.normal(size=(24, 24)))[0] for _ in range(2))
    plain, centred = hsic.token_cka(x, y), hsic.token_cka(x, y, position_centred=True)
    assert plain.low > 0.1
    assert abs(centred.value) < 0.02
    assert centred.low < 0 < centred.high


def test_trimming_takes_out_the_few_tokens_that_make_two_models_alike(rng):
    x, y = rng.normal(size=(2, 40, 25, 8))
    for each in (x, y):
        each[::5, 3] += 200 * rng.normal(size=8)  # 8 of 1,000 tokens
    assert hsic.token_cka(x, y).value > 0.9
    assert abs(hsic.token_cka(x, y, trimmed=0.01).value) < 0.05


def planted(features: dict[str, np.ndarray], model: str, **options: Any) -> Any:
    return memory_dump(features, model=model, **options)


@pytest.fixture
def tokens(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(3, 43, 5, 6)) * np.linspace(0.5, 2, 6) + 1


def test_compared_dumps(tokens, rng):
    """Layer 1 equal, layer 2 half shared, layer 3 independent; 3 of 43 images are in no block."""
    other = rng.normal(size=tokens.shape)
    other[0] = tokens[0] @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    other[1] += tokens[1]
    first, second = planted({"tokens": tokens}, "m3ch"), planted({"tokens": other}, "m4ch")
    found = cka.compare(first, second)
    assert found.hsics.shape == (4, 3, 3)
    assert found.debiased.value[0] == pytest.approx(1, abs=1e-6)
    assert 0.3 < found.debiased.low[1] < found.debiased.high[1] < 1
    assert found.debiased.low[2] < 0 < found.debiased.high[2]
    assert found.biased.value[2] == pytest.approx(found.null[2], abs=0.08) and found.null[2] > 0.5
    assert found.reasons == ["", "", ""]
    blocks = [
        [np.array([gram(of[1, i : i + 10].reshape(10, -1)) for i in range(0, 40, 10)]) for of in (a, b)]
        for a, b in ((tokens, other), (tokens, tokens), (other, other))
    ]
    expected = [np.mean([hsic.hsic1(k, l) for k, l in zip(*pair, strict=True)]) for pair in blocks]  # noqa: E741
    assert found.debiased.value[1] == pytest.approx(float(hsic.cka(np.array(expected))), rel=1e-5)


def test_no_bound_is_above_1(tokens, rng):
    near = planted({"tokens": tokens + 0.05 * rng.normal(size=tokens.shape)}, "x")
    found = cka.compare(planted({"tokens": tokens}, "m3ch"), near)
    for each in (found.debiased, found.input_adjusted, found.trimmed):
        assert (each.value > 0.9).any() and (each.high <= 1).all() and (each.low <= each.high).all()


def test_difference_between_models_is_paired_by_block(tokens, rng):
    """Block by block the two models share what makes their CKA with the first one vary."""
    noise = rng.normal(size=tokens.shape)
    base = planted({"tokens": tokens}, "m3ch")
    near, far = (cka.compare(base, planted({"tokens": tokens + a * noise}, "x")) for a in (0.9, 1.1))
    arms = [Arm.of(name, [cka.block_cka(each)]) for name, each in (("near", near), ("far", far))]
    found = contrast([(1.0, arms[0]), (-1.0, arms[1])]).estimate()
    assert found.value == pytest.approx(near.debiased.value - far.debiased.value, rel=1e-9)
    assert (found.low > 0).all()
    assert (near.debiased.low < far.debiased.high).any(), "which the two intervals alone do not show"


def test_compared_dumps_without_what_input_and_outliers_make_alike(rng):
    """Layer 1: two models share the photographs alone; layer 2: two far images of the first block alone."""
    images = rng.normal(size=(200, 30))
    h = 0.6 * rng.normal(size=(2, 2, 200, 5, 6))
    h[:, 0] += images.reshape(200, 5, 6)
    h[:, 1, [3, 5]] += 12
    first, second = (planted({"tokens": each}, name, inputs=images) for each, name in zip(h, ("a", "b"), strict=True))
    found = cka.compare(first, second)
    assert found.debiased.low[0] > 0.3
    assert found.input_adjusted.low[0] < 0 < found.input_adjusted.high[0]
    assert abs(found.input_adjusted.value[0]) < 0.1
    assert found.debiased.value[1] > 0.9
    assert abs(found.trimmed.value[1]) < 0.2
    blocks = [np.delete(np.arange(10), (3, 5)), *np.arange(10, 200).reshape(-1, 10)]
    features = [[of[1, rows].reshape(len(rows), -1) for of in h] for rows in blocks]
    hsics = [[hsic.hsic1(gram(a), gram(b)) for a, b in ((x, y), (x, x), (y, y))] for x, y in features]
    assert found.trimmed.value[1] == pytest.approx(float(hsic.cka(np.mean(hsics, 0))), abs=1e-4)


def test_memory_holds_one_block(tokens):
    dump = planted({"tokens": tokens}, "m3ch")
    cka.compare(dump, dump)
    assert {rows.stop - rows.start for _, rows in dump.reads} == {1}


@pytest.mark.parametrize("summary", cka.SUMMARIES)
def test_summaries_are_read_some_images_of_a_layer_at_a_time(rng, summary, monkeypatch):
    """No read holds more than a block of the images, and the value is that of all at once."""
    monkeypatch.setattr(cka, "_ROWS_AT_ONCE", 25)
    h = rng.normal(size=(2, 700, 2, 6)) + 3
    other = 0.5 * h + rng.normal(size=h.shape)
    first, second = planted({"tokens": h}, "m3ch"), planted({"tokens": other}, "m4ch")
    found = cka.compare_summaries(first, second, summary)
    assert {layer for _, (_, layer) in first.reads} == {0, 1}
    assert max(rows.stop - rows.start for _, (rows, _) in first.reads + second.reads) == 25
    for layer, each in enumerate(found):
        x, y = (of[layer].mean(1) for of in (h, other))
        without = [debiased(*(np.delete(of, slice(i, i + 70), 0) for of in (x, y))) for i in range(0, 700, 70)]
        expected = hsic.jackknife(np.array(debiased(x, y)), np.array(without))
        assert float(each.value) == pytest.approx(float(expected.value), rel=1e-10)
        assert float(each.low) == pytest.approx(float(expected.low), rel=1e-10)


def test_features_that_do_not_vary_are_named(tokens):
    flat = tokens.copy()
    flat[1] = 1.0
    found = cka.compare(planted({"tokens": tokens}, "m3ch"), planted({"tokens": flat}, "mlin"))
    assert np.isnan(found.debiased.value[1]) and np.isnan(found.debiased.low[1]) and np.isnan(found.biased.value[1])
    assert "mlin" in found.reasons[1] and "m3ch" not in found.reasons[1]
    assert found.reasons[0] == ""


def test_branches_are_one_vector_where_plain_blocks_are_as_wide_as_both_else_rgb_goes_on(tokens, rng):
    early = {name: rng.normal(size=(1, 43, 5, width)) for name, width in (("rgb", 4), ("depth", 2))}
    whole = np.concatenate([early["rgb"], early["depth"]], -1)
    base = planted({"tokens": np.concatenate([tokens[:1, ..., :4], tokens[1:, ..., :4]])}, "m3ch")
    fused = {**early, "tokens": tokens[1:]}

    def first_layer(streams: dict[str, np.ndarray], model: str) -> float:
        return float(cka.compare(base, planted(streams, model)).debiased.value[0])

    def expected(x: np.ndarray) -> float:
        alone = planted({"tokens": x}, "x")
        single = planted({"tokens": tokens[:1, ..., :4]}, "m3ch")
        return float(cka.compare(single, alone).debiased.value[0])

    narrow = {**early, "tokens": tokens[1:, ..., :4]}
    for model in ("mgem", "mdf1", "another"):  # whatever it is called
        assert first_layer(fused, model) == pytest.approx(expected(whole), rel=1e-4)
        assert first_layer(narrow, model) == pytest.approx(expected(early["rgb"]), rel=1e-4)
    summaries = cka.compare_summaries(base, planted(fused, "mgem"), "class token")
    assert summaries[0] is None and summaries[1] is not None
    raw = cka.compare_tokens(base, planted(fused, "mgem"), position_centred=True)
    assert float(raw[0].value) == pytest.approx(
        float(hsic.token_cka(tokens[0, :16, :, :4], whole[0, :16], position_centred=True).value), rel=1e-9
    )
    mean = cka.compare_summaries(base, planted(fused, "mgem"), "mean patch")
    assert mean[0] is not None
    assert float(mean[0].value) == pytest.approx(debiased(tokens[0, ..., :4].mean(1), whole[0].mean(1)), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"gram_batch": 20}, "images a block"), ({"num_layers": 2}, "layers"), ({"keys": True}, "image-2")],
)
def test_dumps_that_cannot_be_compared_are_refused(tokens, change, said):
    first, second = planted({"tokens": tokens}, "m3ch"), planted({"tokens": tokens}, "m4ch")
    if change.pop("keys", False):
        second._keys[2] = "another"
    vars(second.info).update(change)
    with pytest.raises(AnalysisError, match=said) as refused:
        cka.compare(first, second)
    assert "--split" not in str(refused.value)  # no option of train dump
    assert "m3ch-0-epoch-5.zarr" in str(refused.value) and "\n" not in str(refused.value)


def test_too_few_images_are_refused(tokens):
    dump = planted({"tokens": tokens}, "m3ch")
    dump.info.gram_batch = 50
    with pytest.raises(AnalysisError, match="at least 4 images"):
        cka.compare(dump, dump)
