"""What people see while a job runs where there is no terminal."""

import io
import re

from rich.console import Console

from pipeline import progress


def test_a_meter_tells_rank_rate_and_time_left(monkeypatch):
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    said = io.StringIO()
    with progress.Meter(Console(file=said, width=120), "train images, rank 3 of 8", 2000) as meter:
        for _ in meter.counting(range(1500)):
            pass
    last = said.getvalue().splitlines()[-1]
    assert re.fullmatch(r"train images, rank 3 of 8: 1,500/2,000  [\d,.]+/s  ETA \d+ s", last)


def test_a_tally_tells_how_far_a_listing_is(monkeypatch):
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    said = io.StringIO()
    progress.Tally(Console(file=said, width=120), "listing")(120_000)
    assert re.fullmatch(r"listing: 120,000 so far  [\d,]+/s\n", said.getvalue())


def test_silence_between_the_lines():
    said = io.StringIO()
    with progress.Meter(Console(file=said), "verify", 10) as meter:
        meter.advance(10)
    assert said.getvalue() == ""
