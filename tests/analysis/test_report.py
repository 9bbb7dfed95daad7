"""The report: self-contained, right, and alive in a browser without a network."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import planted
import pytest

import analysis
from analysis.report import write_report

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,1000"
)


@pytest.fixture(scope="module")
def page(demo: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(analysis.load(demo), tmp_path_factory.mktemp("report"))


def test_page_is_self_contained_and_small(page: Path) -> None:
    text = page.read_text("utf-8")
    assert len(text) < 10_000_000
    for source in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert source.startswith(("#", "figures/", "data:,")), source
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", text)


def test_links_and_ids_hold(page: Path) -> None:
    text = page.read_text("utf-8")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets <= set(ids)
    for file in set(re.findall(r'href="(figures/[^"]+)"', text)):
        assert (page.parent / file).stat().st_size > 0, file


def test_page_says_what_was_planted(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "+20.0 [" in text
    assert "12 reproduced, of 12 statements." in text
    assert "1 seed: intervals cover" in text
    assert "largest difference" in text
    for word in ("abcdef0123", "m4ch-exact-0", "train-fing", "torch 2.11.0"):
        assert word in text
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)


def test_report_without_dumps_says_how_to_make_one(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "m3ch<script>", model="m3ch")
    text = write_report(analysis.load(run), tmp_path / "out").read_text("utf-8")
    assert "No run has a dump" in text
    assert "No dump of m3ch" in text


@pytest.mark.parametrize("count", [1, 2])
def test_smallest_dumps_have_no_intervals_and_no_nan(tmp_path: Path, count: int) -> None:
    scores = planted.falling(planted.BETAS)
    runs = [
        planted.write_run(tmp_path / model, model=model, samples=2 * count, top1=0.5, scores=scores, num_images=count)
        for model in ("mlin", "m4ch")
    ]
    text = write_report(analysis.load(runs), tmp_path / "out").read_text("utf-8")
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert "No model can be compared with m3ch" in text
    assert ("needs a dump of at least 2 images" in text) == (count == 1)


def test_report_of_dumps_on_different_axes_draws_them_apart(tmp_path: Path) -> None:
    runs = [planted.write_run(tmp_path / model, model=model) for model in ("m3ch", "m4ch")]
    for run, mode in zip(runs, ("mean", "center4"), strict=True):
        path = run / "dumps" / "latest.zarr"
        planted.write_dump(path, planted.falling(planted.BETAS), model=run.name, patch_depth=mode)
    write_report(analysis.load(runs), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "figures").glob("figure1-pseudo-literal*.svg")}
    assert names == {"figure1-pseudo-literal-1.svg", "figure1-pseudo-literal-2.svg"}


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium; skipped where there is none, unless PSEUDODEPTH_REQUIRE_BROWSER=1."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        if os.environ.get("PSEUDODEPTH_REQUIRE_BROWSER") == "1":
            pytest.fail("PSEUDODEPTH_REQUIRE_BROWSER=1, but chromium or chromedriver is not on PATH")
        pytest.skip("chromium or chromedriver is not on PATH")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*_FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield session
    finally:
        session.quit()


def test_page_in_a_browser(page: Path, browser: Any) -> None:
    browser.get("about:blank")
    browser.get_log("performance")  # the browser's own first page
    browser.get(page.as_uri())
    requests = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    addresses = {address for entry in requests for address in re.findall(r'"url":"([^"]+)"', entry)}
    assert page.as_uri() in addresses
    assert all(address.startswith(("file:", "data:")) for address in addresses), addresses
    assert not browser.get_log("browser")
    panels = browser.find_elements("css selector", "[data-tabs='figure1-tabs'] > .panel")
    buttons = browser.find_elements("css selector", "[data-tabs='figure1-tabs'] > .tabs > button")
    assert len(panels) == len(buttons) == 6
    assert [panel.is_displayed() for panel in panels] == [True] + [False] * 5
    buttons[1].click()
    assert [panel.is_displayed() for panel in panels] == [False, True] + [False] * 4
    assert buttons[1].get_attribute("aria-selected") == "true"
    assert panels[1].find_element("css selector", "svg").size["height"] > 100
    for width in (1400, 390):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(page.as_uri())
    panels = browser.find_elements("css selector", ".panel")
    assert all(panel.is_displayed() for panel in panels)
