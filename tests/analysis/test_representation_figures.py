"""Figures 9, 11 and 12 and the claims on them, from planted tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from planted_tokens import memory_dump

import analysis
from analysis.figures import cka as figure11
from analysis.figures import probes as figures9and12
from analysis.figures.spec import Drawn
from analysis.load import AnalysisError, Given
from analysis.style import GREY

LAYERS, IMAGES, PATCHES, WIDTH, FUSED = 3, 160, 9, 8, 2
PLAIN = {"m3ch": 0.3, "mlin": 0.8, "mmlp": 0.5, "m4ch": 2.0}  # how strongly tokens hold depth


def depths() -> np.ndarray:
    rng = np.random.default_rng(0)
    z = np.linspace(-1, 1, PATCHES) + rng.normal(size=(IMAGES, PATCHES)) + 0.5 * rng.normal(size=(IMAGES, 1))
    z[rng.random(z.shape) < 0.05] = np.nan
    return z


def tokens(
    strength: float, layers: int = LAYERS, width: int = WIDTH, seed: int = 0, own: float = 1.0, shared: float = 1.0
) -> np.ndarray:
    """What all models share, depth in one channel, and noise of their own."""
    h = shared * np.random.default_rng(1).normal(size=(layers, IMAGES, PATCHES, width))
    h = h + own * np.random.default_rng(seed + int(100 * strength) + 2).normal(size=h.shape)
    h[..., 0] += strength * np.nan_to_num(depths())
    return h


def plain(model: str, **changes: Any) -> Any:
    """The more depth in its tokens, the less is left of what it shares with m3ch."""
    seed = changes.get("seed", 0)
    if changes.get("epoch", 5):
        h = tokens(PLAIN[model], seed=seed, own=0.3 + 0.9 * PLAIN[model])
    else:
        h = tokens(0.0, seed=seed, shared=0.0)
    return memory_dump({"tokens": h}, depths(), model, **{"block": 20, **changes})


def fused(model: str, rgb: float | list[float], depth: float | list[float], epoch: int = 5) -> Any:
    """How strongly either branch holds depth, in all layers or each."""
    streams = {
        name: np.concatenate(
            [tokens(float(each), 1, width, seed=layer) for layer, each in enumerate(np.broadcast_to(strength, FUSED))]
        )
        for name, strength, width in (("rgb", rgb, 8), ("depth", depth, 4))
    }
    streams["tokens"] = tokens(1.0, LAYERS - FUSED)
    return memory_dump(streams, depths(), model, epoch=epoch, block=20)


def study(*dumps: Any) -> Given:
    return Given([], list(dumps))


@pytest.fixture(scope="module")
def plain_study() -> Given:
    dumps = [plain(model) for model in PLAIN] + [plain("m3ch", epoch=0), plain("m4ch", epoch=0)]
    return study(*dumps, plain("m3ch", seed=1), fused("mdf1", 2.0, 0.5))


@pytest.fixture(scope="module")
def fused_study() -> Given:
    return study(fused("mdf1", 2.0, 0.5), fused("mgem", 1.0, 1.0), fused("mdf1", 0.1, 0.1, epoch=0), plain("m4ch"))


def lines(drawn: Drawn) -> list[tuple[str, np.ndarray]]:
    """Colour and heights of every line of the figure."""
    return [(line.get_color(), np.asarray(line.get_ydata())) for axes in drawn.figure.axes for line in axes.lines]


def is_drawn(drawn: Drawn, values: Any, colour: str | None = None) -> bool:
    wanted = np.asarray(values, float)
    return any(
        len(y) == len(wanted) and np.allclose(y, wanted) and colour in (None, drawn_in) for drawn_in, y in lines(drawn)
    )


@pytest.mark.parametrize("variant", ["ridge", "literal"])
def test_figure9_draws_models_in_colour_and_controls_in_grey(plain_study, variant):
    drawn = figures9and12.draw_probes(plain_study, variant, None)
    frame = drawn.frames[""]
    assert set(frame["model"]) == {"m3ch", "mlin", "mmlp", "m4ch"}, "models of one stream"
    last = frame[frame["epoch"] == 5].groupby("model", sort=False)["mse"].mean()
    assert last["m4ch"] < last["mlin"] < last["mmlp"] < last["m3ch"]
    for (_, _, epoch), line in frame.groupby(["model", "seed", "epoch"]):
        assert is_drawn(drawn, line["mse"], GREY if epoch == 0 else None)
        assert is_drawn(drawn, line["selectivity"], GREY if epoch == 0 else None)
        if epoch:
            assert is_drawn(drawn, line["mse_control"], GREY)
            assert not is_drawn(drawn, line["mse"], GREY)
    assert is_drawn(drawn, [frame["mse_position"].iloc[0]] * 2, GREY)
    assert (frame["mse_low"] < frame["mse"]).all() and (frame["mse"] < frame["mse_high"]).all()
    assert frame["skill_centred"].notna().all() == (variant == "ridge")
    assert f"{IMAGES} images" in drawn.caption and "epoch 5" in drawn.caption
    assert "No dump of epoch 0" not in drawn.caption


def test_figure9_of_one_model_without_its_start(plain_study):
    drawn = figures9and12.draw_probes(study(plain("mlin")), "ridge", None)
    assert "No dump of epoch 0" in drawn.caption and "1 seed" in drawn.caption
    untrained = figures9and12.draw_probes(study(plain("m4ch", epoch=0)), "ridge", None)
    assert "only the untrained" in untrained.caption


def test_figures_of_models_that_are_not_there_name_the_command(plain_study, fused_study):
    alone, two = study(plain("m4ch")), study(fused("mdf1", 1, 1))
    for draw, given, said in (
        (figures9and12.draw_probes, two, "figure 9"),
        (figures9and12.draw_branches, alone, "figure 12"),
        (figure11.draw, alone, "m3ch"),
        (figure11.draw, study(plain("m3ch")), "figure 11"),
    ):
        with pytest.raises(AnalysisError, match=said) as refused:
            draw(given, "ridge", None)
        assert "train dump RUN --data SHARDS" in str(refused.value)


def test_figure12_draws_branches(fused_study):
    drawn = figures9and12.draw_branches(fused_study, "ridge", None)
    frame = drawn.frames[""]
    assert list(frame["layer"].unique()) == [1, 2]
    mse = frame[frame["epoch"] == 5].groupby(["model", "stream"])["mse"].mean()
    assert mse["mdf1", "rgb"] < mse["mdf1", "depth"]
    assert set(frame[frame["stream"] == "depth"]["width"]) == {4}
    assert set(frame[frame["stream"] == "rgb"]["width"]) == {8}
    start = frame[(frame["epoch"] == 0) & (frame["stream"] == "rgb")]
    assert is_drawn(drawn, start["mse"], GREY)
    assert [axes.get_title() for axes in drawn.figure.axes[:2]] == ["mdf1", "mgem"]
    equal = figures9and12.draw_branches(fused_study, "equal_width", None)
    assert set(equal.frames[""]["width"]) == {4} and "PCA" in equal.caption
    narrow = equal.frames[""].set_index(["model", "epoch", "stream", "layer"])["mse"]
    wide = frame.set_index(["model", "epoch", "stream", "layer"])["mse"]
    assert np.allclose(narrow.xs("depth", level="stream"), wide.xs("depth", level="stream"))
    assert not np.allclose(narrow.xs("rgb", level="stream"), wide.xs("rgb", level="stream"), rtol=0.01)


@pytest.mark.parametrize("variant", ["debiased", "literal", "input_adjusted"])
def test_figure11_lies_between_floor_and_ceiling(plain_study, variant):
    drawn = figure11.draw(plain_study, variant, None)
    frame = drawn.frames[""]
    assert set(frame["role"]) == {"model", "floor", "ceiling"}
    mean = frame.groupby("label")["cka"].mean()
    assert mean["m3ch at random (epoch 0)"] < mean["m4ch"] < mean["mmlp"] < mean["m3ch, another seed"]
    for (role, _), line in frame.groupby(["role", "label"]):
        assert is_drawn(drawn, line["cka"], GREY) == (role != "model")
        if variant == "literal" and role == "model":
            assert is_drawn(drawn, line["null"], GREY)
    assert (frame["null"] == 0).all() == (variant != "literal")
    assert (frame["cka"] == frame["input_adjusted"]).all() == (variant == "input_adjusted")
    assert ("regressed out" in drawn.caption) == (variant == "input_adjusted")
    largest = np.abs(frame["trimmed_change"]).max()
    assert 0 < largest < 0.2 and f"at most {largest:.2g}" in drawn.caption
    floor = frame[frame["role"] == "floor"]
    assert np.abs(floor["cka"] - floor["null"]).max() < 0.15, "a random network gets the null"
    assert "8 blocks of 20 images" in drawn.caption
    samples = drawn.frames["-samples"]
    assert set(samples["sample"]) == {"image: class token", "image: mean patch", *figure11.TOKENS}
    missing = samples[samples["cka"].isna()]
    assert set(missing["model"]) == {"mdf1"} and set(missing["layer"]) == {1, 2}, "no class token in two branches"


def test_figure11_compares_once_for_all_variants():
    base, model = plain("m3ch"), plain("m4ch")
    given = study(base, model)
    first = figure11.draw(given, "debiased", None)
    read = len(model.reads)
    second = figure11.draw(given, "literal", None)
    assert len(model.reads) == read > 0
    assert second.frames["-samples"].equals(first.frames["-samples"])


def test_figure11_without_seeds_says_so():
    early = plain("m3ch", epoch=4)
    early.info.study_hash = "m3ch-pseudo-0"
    base, model = plain("m3ch"), plain("m4ch")
    drawn = figure11.draw(study(base, early, model), "debiased", None)
    ceiling = drawn.frames[""].query("role == 'ceiling'")
    assert set(ceiling["label"]) == {"m3ch, epochs 4 and 5 (not seeds)"}
    assert "no floor is drawn" in drawn.caption
    bare = figure11.draw(study(base, model), "debiased", None)
    assert "no ceiling is drawn" in bare.caption
    other_images = plain("m3ch", epoch=0, block=40)
    assert figure11.controls(study(base, other_images), base) == []


def test_m3ch_of_another_depth_field_serves_as_well():
    real = plain("m4ch", depth="real")
    drawn = figure11.draw(study(plain("m3ch"), real), "debiased", "real")
    assert set(drawn.frames[""].query("role == 'model'")["depth_field"]) == {"real"}


def test_layers_where_a_model_does_not_vary_are_named():
    flat = tokens(0.5)
    flat[1] = 1.0
    drawn = figure11.draw(
        study(plain("m3ch"), memory_dump({"tokens": flat}, depths(), "mlin", block=20)), "debiased", None
    )
    assert drawn.frames[""]["cka"].isna().tolist() == [False, True, False]
    assert "mlin's features do not vary" in drawn.caption


def test_figures_of_real_dumps(tmp_path: Path) -> None:
    """Through the contract: outputs of layer l hold l z in one of 8 noisy columns, so R² is l² v / (l² v + 1)."""
    made = [("m3ch", 0, 5), ("m4ch", 0, 5), ("mlin", 1, 5), ("m3ch", 0, 0), ("mdf1", 0, 5)]
    paths = [
        planted.write_dump(
            tmp_path / f"{model}-{epoch}.zarr", planted.constant(), model=model, seed=seed, epoch=epoch, num_raw=6,
            num_images=60, reads_depth=epoch / 5,
        )
        for model, seed, epoch in made
    ]  # fmt: skip
    given = analysis.load(paths)
    probed = given.frames(9)[""].set_index(["model", "epoch", "layer"])
    variance = planted.patch_depths(60).var()
    for layer in range(1, planted.LAYERS + 1):
        expected = layer**2 * variance / (layer**2 * variance + 1)
        assert probed.loc[("m4ch", 5, layer), "r2"] == pytest.approx(expected, abs=0.04)
        assert abs(probed.loc[("m3ch", 0, layer), "r2"]) < 0.03
    alike = given.frames(11)
    drawn = alike[""].query("role == 'model'").set_index(["model", "layer"])["cka"]
    assert drawn.loc["m4ch"].to_numpy() == pytest.approx(1, abs=1e-3), "planted from the same noise"
    assert (drawn.loc["mlin"] < 0.97).all() and drawn.loc[("mlin", 4)] > drawn.loc[("mlin", 1)] > 0.1
    assert len(alike["-samples"]) == 3 * planted.LAYERS * 5
    branches = given.frames(12)[""]
    assert set(zip(branches["stream"], branches["width"], strict=True)) == {("rgb", 8), ("depth", 4)}
    assert (branches.query("stream == 'rgb'")["selectivity_low"] > 0.3).all()
