"""Headless Chromium over pages on disk."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,1000"
)


def session(profile: Path) -> Iterator[Any]:
    """A browser; the test is skipped where there is none, unless PSEUDODEPTH_REQUIRE_BROWSER=1."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        if os.environ.get("PSEUDODEPTH_REQUIRE_BROWSER") == "1":
            pytest.fail("PSEUDODEPTH_REQUIRE_BROWSER=1, but chromium or chromedriver is not on PATH")
        pytest.skip("chromium or chromedriver is not on PATH")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*_FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield found
    finally:
        found.quit()


def open_page(browser: Any, page: Path) -> None:
    """Open a page from its file; it may ask for nothing but itself, and must not complain."""
    browser.get("about:blank")
    browser.get_log("performance")  # the browser's own first page
    browser.get(page.as_uri())
    requests = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    addresses = {address for entry in requests for address in re.findall(r'"url":"([^"]+)"', entry)}
    assert page.as_uri() in addresses
    assert all(address.startswith(("file:", "data:", "blob:")) for address in addresses), addresses
    assert not browser.get_log("browser")
