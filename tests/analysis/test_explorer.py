"""The report's explorer and head map against literal arithmetic on planted raw scores, in Python and in a browser."""

import base64
import io
import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import planted
import pytest
import zarr
from browsing import open_page
from held import (
    GRID,
    HEADS,
    IMAGES,
    INVALID,
    LAYERS,
    PATCHES,
    centred,
    held,
    literal_attention,
    literal_residual,
    literal_scores,
    pairs_of,
    signed,
)
from PIL import Image
from scipy import stats
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from statsmodels.stats.multitest import multipletests

from analysis import examples, explorer, head_map, html
from analysis.colours import palettes
from analysis.load import Given
from pipeline import colours
from training.dumps.pairs import distances
from training.dumps.store import open_dump


@pytest.mark.parametrize("model", ["m3ch", "mlin", "mmlp"])
def test_packed_examples_hold_what_loops_compute(model: str) -> None:
    dump = held(model)
    packed = explorer.pack([dump])
    assert packed["layers"] == [2, 3]  # from 1, after one block of two branches
    example = packed["models"][0]["images"][0]
    planes = np.frombuffer(zlib.decompress(base64.b64decode(example["data"])), np.uint8)
    planes = planes.reshape(LAYERS, 2, PATCHES, PATCHES).astype(float)
    assert example["depth"][INVALID] is None
    for layer in range(LAYERS):
        low, high, reach = example["scales"][layer]
        attention = 10 ** (low + (planes[layer, 0] - 1) / 254 * (high - low))
        np.testing.assert_allclose(attention, literal_attention(dump, 0, layer), rtol=0.02)
        expected = literal_residual(dump, 0, layer)
        undefined = planes[layer, 1] == 0
        np.testing.assert_array_equal(undefined, np.isnan(expected))
        residual = -reach + (planes[layer, 1] - 1) / 254 * 2 * reach
        np.testing.assert_allclose(residual[~undefined], expected[~undefined], atol=reach / 254 + 1e-3)


@pytest.mark.parametrize("model", ["m3ch", "mlin", "mmlp", "mdf1"])
def test_attention_is_that_of_the_dumped_statistics(tmp_path: Path, model: str) -> None:
    written = planted.write_dump(
        tmp_path / "d.zarr", planted.falling(planted.BETAS), model=model, num_raw=12, num_images=12
    )
    dump = open_dump(written)
    scores = [examples.total_scores(dump, image) for image in range(12)]
    attention = sum(examples.attention_of(each, dump.info.num_patches) for each in scores)
    np.testing.assert_allclose(attention, dump["statistics/pattern/pair_sum"], rtol=2e-3)
    depth, expected = dump["raw/patch_depth/mean"], examples.mean_at_distance(dump)
    residual = sum(examples.residual_of(each, z, expected) for each, z in zip(scores, depth, strict=True))
    number = distances(dump.info.grid)[1]
    for place in range(number.max() + 1):
        np.testing.assert_allclose(residual[:, number == place].mean(1), 0, atol=2e-3)
    assert len(residual) == dump.info.num_attention_layers
    assert explorer.pack([dump])["layers"] == dump.info.attention_layers.tolist()


def test_all_models_show_the_same_images_within_the_budget() -> None:
    dumps = [held("m3ch"), held("mlin", offset=2)]
    packed = explorer.pack(dumps)
    assert [image["name"] for image in packed["images"]] == ["image-2", "image-3", "image-4", "image-5"]
    shown = [model["images"][0]["depth"] for model in packed["models"]]
    assert shown[0] == pytest.approx(dumps[0]["raw/patch_depth/mean"][2], abs=1e-4)
    assert shown[1][:5] == pytest.approx(dumps[1]["raw/patch_depth/mean"][0][:5], abs=1e-4)
    one = sum(len(model["images"][0]["data"]) for model in packed["models"])
    assert len(explorer.pack(dumps, budget=int(2.5 * one))["images"]) == 2
    picture = Image.open(io.BytesIO(base64.b64decode(packed["images"][0]["rgb"].partition(",")[2])))
    np.testing.assert_allclose(np.asarray(picture), dumps[0]["raw/rgb"][2], atol=6)


def test_layers_are_thinned_before_images() -> None:
    dump = held("m4ch")
    dump.info.num_layers = 9
    for name, axis in (("raw/scores_pre_bias", 1), ("statistics/content/bins/sum_centred", 0)):
        noise = np.random.default_rng(4).normal(size=np.concatenate([dump[name]] * 4, axis).shape)
        dump.arrays[name] = (np.concatenate([dump[name]] * 4, axis) + noise).astype(dump[name].dtype)
    whole = explorer.pack([dump])
    assert whole["layers"] == list(range(2, 10))
    size = len(whole["models"][0]["images"][0]["data"])
    small = explorer.pack([dump], budget=int(1.6 * size))
    assert small["layers"] == [2, 3, 5, 6, 8, 9]
    assert len(small["images"]) == 2


def test_models_with_two_branches_skip_their_first_layers() -> None:
    plain, branched = held("m3ch"), held("mgem")
    branched.info.first_attention_layer = 2
    for name, axis in (("raw/scores_pre_bias", 1), ("statistics/content/bins/sum_centred", 0)):
        branched.arrays[name] = np.take(branched[name], [1], axis)
    packed = explorer.pack([plain, branched])
    assert packed["layers"] == [2, 3]
    assert [model["skipped"] for model in packed["models"]] == [0, 1]
    whole, last = (model["images"][0] for model in packed["models"])
    assert last["scales"] == whole["scales"][1:]
    assert zlib.decompress(base64.b64decode(whole["data"])).endswith(zlib.decompress(base64.b64decode(last["data"])))


def test_dumps_without_common_images_are_named() -> None:
    study = Given([], [held("m3ch"), held("mlin", offset=100), held("m4ch", num_raw=0)])
    kept, left_out = examples.comparable_examples(study)
    assert [dump.info.model for dump in kept] == ["m3ch"]
    assert left_out == ["mlin, pseudo depth"]
    section = explorer.explorer_section(Given([], [held("m4ch", num_raw=0)]))
    assert "train dump RUN --data SHARDS --raw 16" in section


def test_head_slopes_and_marks_equal_literal_regressions() -> None:
    dump = held("m3ch")
    slopes = head_map.head_intervals(dump, "content")
    p_values = np.empty((LAYERS, HEADS))
    for layer in range(LAYERS):
        for head in range(HEADS):

            def fitted(images: list[int], layer: int = layer, head: int = head) -> float:
                """Least squares with an intercept for each query row of each image."""
                x, y = [], []
                for image in images:
                    pair = pairs_of(dump, image)
                    x.append(centred(np.abs(signed(dump["raw/patch_depth/mean"][image])), pair)[pair])
                    y.append(centred(literal_scores(dump, image, layer, head, "content")[1:, 1:], pair)[pair])
                return float(np.linalg.lstsq(np.concatenate(x)[:, None], np.concatenate(y), rcond=None)[0][0])

            value = fitted(list(range(IMAGES)))
            without = [fitted([other for other in range(IMAGES) if other != image]) for image in range(IMAGES)]
            error = math.sqrt((IMAGES - 1) / IMAGES * sum((each - np.mean(without)) ** 2 for each in without))
            assert slopes.value[layer, head] == pytest.approx(value, rel=1e-9)
            assert slopes.high[layer, head] - value == pytest.approx(2.570582 * error, rel=1e-5)  # t, 5 degrees
            p_values[layer, head] = 2 * stats.t.sf(abs(value) / error, IMAGES - 1)
    expected = multipletests(p_values.ravel(), 0.05, method="fdr_bh")[0].reshape(p_values.shape)
    np.testing.assert_array_equal(slopes.differs, expected)


def test_swapped_heads_are_slopes_over_the_groups_that_have_images(tmp_path: Path) -> None:
    """Five groups of eight hold images; each head's slope, its jackknife and the marks, by hand."""
    path = planted.write_dump(
        tmp_path / "d.zarr", planted.falling(planted.BETAS), model="mlin", num_images=8, num_causal=8, causal=-0.2,
        interventions=["swap"],
    )  # fmt: skip
    generator = np.random.default_rng(0)
    pairs = np.array([3.0, 5, 2, 4, 6, 0, 0, 0])
    rows = generator.normal([[-0.5, 0.0]] * 4, 0.1, (8, 4, 2)) * pairs[:, None, None]
    group = zarr.open_group(path, mode="a")
    group["causal/swap/head_pairs"][:], group["causal/swap/head_rows"][:] = pairs, rows
    dump = open_dump(path)
    slopes = head_map.swap_intervals(dump)
    np.testing.assert_allclose(slopes.value, rows.sum(0) / 20)
    without = (rows.sum(0) - rows[:5]) / (20 - pairs[:5])[:, None, None]
    error = np.sqrt(4 * without.var(0))
    np.testing.assert_allclose(slopes.high - slopes.value, stats.t.ppf(0.975, 4) * error)
    p = 2 * stats.t.sf(abs(slopes.value) / error, 4)
    expected = multipletests(p.ravel(), 0.05, method="fdr_bh")[0].reshape(p.shape)
    np.testing.assert_array_equal(slopes.differs, expected)
    assert slopes.differs[:, 0].all() and not slopes.differs[:, 1].all()
    section = head_map.head_section(Given([], [dump]), tmp_path)
    assert "mlin, depth swapped" in section and "8 images, epoch-5" in section
    frame = pd.read_csv(tmp_path / "figures" / "heads.csv").set_index("part")
    np.testing.assert_allclose(frame.loc["causal", "slope"], slopes.value.ravel(), rtol=1e-5)


def test_heads_that_cannot_move_are_0_and_not_marked(tmp_path: Path) -> None:
    still = {"num_causal": 10, "interventions": ["swap"], "causal": 0.0}
    path = planted.write_dump(tmp_path / "d.zarr", planted.falling(planted.BETAS), model="m3ch", **still)
    dump = open_dump(path)
    slopes = head_map.swap_intervals(dump)
    assert (slopes.value == 0).all() and not slopes.differs.any()
    panel = head_map.head_section(Given([], [dump]), tmp_path).split("m3ch-causal-panel")[-1]
    assert panel.count(">0</button>") == planted.LAYERS * planted.HEADS


@pytest.mark.parametrize("signals", [0, 5, 40])
def test_discoveries_are_those_of_statsmodels(signals: int) -> None:
    generator = np.random.default_rng(signals)
    p = generator.uniform(size=40)
    p[:signals] /= 100
    expected = multipletests(p, 0.05, method="fdr_bh")[0]
    np.testing.assert_array_equal(head_map.discovered(p.reshape(5, 8), 0.05), expected.reshape(5, 8))


def test_linear_bias_is_found_again_in_the_slopes() -> None:
    difference = float(re.findall(r"difference (\S+)\.$", head_map.bias_check(held("mlin")))[0])
    assert difference < 1e-6
    assert head_map.bias_check(held("mmlp")) == ""


def test_page_shows_numpys_numbers_at_the_clicked_patch(tmp_path: Path, browser: Any) -> None:
    dumps = [held("m3ch"), held("mlin")]
    study = Given([], dumps)
    body = [explorer.explorer_section(study), head_map.head_section(study, tmp_path), html.data("palettes", palettes())]
    page = tmp_path / "index.html"
    page.write_text(html.page("test", html.join(body)))
    open_page(browser, page)
    script = browser.execute_script

    def choose(name: str, value: int) -> None:
        script(
            "const s = document.querySelector(`[data-choice=${arguments[0]}]`); s.value = arguments[1];"
            "s.dispatchEvent(new Event('change'))", name, value,
        )  # fmt: skip

    def click(grid: str, patch: int) -> None:

        canvas = browser.find_element("css selector", f"[data-grid={grid}] canvas.patches")
        script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        width, height = canvas.size["width"], canvas.size["height"]
        x = (patch % GRID[1] + 0.5) / GRID[1] * width - width / 2
        y = (patch // GRID[1] + 0.5) / GRID[0] * height - height / 2
        ActionChains(browser).move_to_element_with_offset(canvas, int(x), int(y)).click().perform()

    def said(name: str, query: int, key: int) -> str:

        def ready(_: Any) -> bool:
            state = script("return document.getElementById('explorer-view').dataset.ready")
            return state == f"1,2,1,{query},{key}"

        WebDriverWait(browser, 5).until(ready)
        line = browser.find_element("css selector", f"#explorer-view [data-value={name}]").text
        return line.replace("−", "-")

    choose("model", 1)
    choose("image", 2)
    choose("layer", 1)
    query, key = 6, 9
    click("rgb", query)
    click("attention", key)
    attention, residual = literal_attention(dumps[1], 2, 1), literal_residual(dumps[1], 2, 1)
    depth = dumps[1]["raw/patch_depth/mean"][2]
    assert float(said("attention", query, key).split()[1].rstrip(",")) == pytest.approx(attention[query, key], rel=0.02)
    assert float(said("delta", query, key).split()[1]) == pytest.approx(abs(depth[query] - depth[key]), rel=6e-3)
    number = float(said("residual", query, key).split()[-1])
    assert number == pytest.approx(residual[query, key], abs=np.nanmax(np.abs(residual)) / 200)
    assert said("image", query, key) == "image bed, taken for sofa"
    click("depth", 1)
    strongest = int(np.argsort(attention[1] * (np.arange(PATCHES) != 1))[-1])
    assert "row 1, column 2" in said("query", 1, strongest)

    browser.find_element("css selector", "[data-grid=rgb] canvas.patches").send_keys(Keys.ARROW_DOWN)
    strongest = int(np.argsort(attention[5] * (np.arange(PATCHES) != 5))[-1])
    assert "row 2, column 2" in said("query", 5, strongest)

    head = browser.find_element("css selector", "#heads-pseudo-m3ch-content [data-head='1,0']")
    script("arguments[0].scrollIntoView({block: 'center'})", head)
    head.click()
    slope = head_map.head_intervals(dumps[0], "content").value[1, 0]
    shown = browser.find_element("css selector", "#heads-pseudo-m3ch-content h4").text.replace("−", "-")
    assert shown.startswith("layer 3, head 1: ")
    assert float(shown.split()[4]) == pytest.approx(slope, rel=6e-3)
    assert head.get_attribute("aria-pressed") == "true"
    detail = json.loads(script("return document.getElementById('heads-data').textContent"))["heads-pseudo-m3ch-content"]
    readout = browser.find_element("css selector", "#heads-pseudo-m3ch-content .readout")

    WebDriverWait(browser, 5).until(lambda _: "pairs" in readout.text)
    whole = np.floor(distances(GRID)[0]).astype(int)
    by_column = [whole == distance for distance in range(1, whole.max() + 1)]
    counts, sums = (
        np.stack([values[:, column].sum(1) for column in by_column], 1)
        for values in (dumps[0]["statistics/bins/count"], dumps[0]["statistics/content/bins/sum_centred"][1, 0])
    )
    counts, sums = (values[:40].reshape(20, 2, -1).sum(1) for values in (counts, sums))  # cells are 0.2 z high
    fullest = np.unravel_index(counts[: detail["rows"]].argmax(), counts[: detail["rows"]].shape)
    assert float(readout.text.replace("−", "-").split()[4]) == pytest.approx(
        sums[fullest] / counts[fullest], abs=detail["reach"][1][0] / 200
    )
    columns = detail["distance"][1]
    browser.find_element("css selector", "#heads-pseudo-m3ch-content .axes canvas").send_keys(
        Keys.ARROW_RIGHT if fullest[1] + 1 < columns else Keys.ARROW_LEFT
    )
    beside = fullest[1] + (1 if fullest[1] + 1 < columns else -1)
    assert f"distance {beside + 1}–{beside + 2}: " in readout.text
    assert not browser.get_log("browser")


def test_depth_has_the_colours_of_the_sheets() -> None:
    """Near bright, far dark, what was not measured in the same red."""
    known, sheet = palettes(2), colours.depth_colours(np.array([0.0, 1.0, np.nan]), 0.0, 1.0)
    drawn = [tuple(int(known[name][place][at : at + 2], 16) for at in (1, 3, 5))
             for name, place in (("depth", 0), ("depth", 1), ("unmeasured", 0))]  # fmt: skip
    assert drawn == [tuple(each) for each in sheet.tolist()]
    assert sum(drawn[0]) > sum(drawn[1])
