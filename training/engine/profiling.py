"""`--profile`: where the time of a few training steps goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from torch.profiler import ProfilerActivity

from pipeline import files

_SKIPPED, _WARM, _WATCHED = 3, 2, 5  # steps


@contextmanager
def profiler(out: Path, console: Console) -> Iterator[torch.profiler.profile]:
    """Watches steps 6 to 10 (call `.step()` after each): a table on the console, a trace in OUT/profile/trace.json.

    The trace opens in https://ui.perfetto.dev or chrome://tracing.
    """
    on_gpu = torch.cuda.is_available()

    shown = False

    def show(watched: torch.profiler.profile) -> None:
        nonlocal shown
        shown = True
        if console.quiet:
            return
        trace = files.folder_in(out, "profile") / "trace.json"
        files.remove(trace)  # a link would be followed
        watched.export_chrome_trace(str(trace))
        by = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        table = watched.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=50)
        console.print(table, highlight=False, markup=False, soft_wrap=True)
        console.print(f"profile of {_WATCHED} steps: {out / 'profile' / 'trace.json'}", highlight=False, soft_wrap=True)

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    schedule = torch.profiler.schedule(wait=_SKIPPED, warmup=_WARM, active=_WATCHED, repeat=1)
    with torch.profiler.profile(activities=activities, schedule=schedule, on_trace_ready=show) as watched:
        yield watched
    if not shown:
        console.print(f"no profile: fewer than {_SKIPPED + _WARM + _WATCHED} steps were left to run", highlight=False)
