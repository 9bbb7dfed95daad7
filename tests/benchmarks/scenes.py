"""How fast are toy rooms rendered, beside what else a labelled room costs?

    python tests/benchmarks/scenes.py        # writes scenes.json beside itself; under a minute

CPU milliseconds a room of the default size, all in this process and on one thread; arms take turns for ROUNDS rounds of
other rooms. The bar of the rooms' renderer is 500 rooms a second of one core (2 ms a room).
"""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from steps import machine

from pipeline import depth_codec, scenes
from pipeline.shards import png_bytes
from pipeline.teachers import open_teacher

ROUNDS, ROOMS, BAR = 15, 200, 500


def main() -> None:
    torch.set_num_threads(1)
    teacher = open_teacher("toy", "cpu", threads=1)
    measured: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        found = work()
        measured[name].append(1000 * (time.process_time() - start) / ROOMS)
        return found

    for number in range(ROUNDS + 1):  # the first warms up
        indices = range(number * ROOMS, (number + 1) * ROOMS)
        rooms = timed("render", lambda indices=indices: [scenes.render(1, index) for index in indices])
        timed("store: RGB and labels as PNG, three depth maps", lambda rooms=rooms: [_stored(room) for room in rooms])
        timed("toy teacher, batches of 50", lambda rooms=rooms: _estimated(teacher, rooms))
    rows = {
        name: {
            "ms a room": round(statistics.median(found[1:]), 3),
            "over render": round(
                statistics.median(a / b for a, b in zip(found[1:], measured["render"][1:], strict=True)), 2
            ),
        }
        for name, found in measured.items()
    }
    rates = [1000 / ms for ms in measured["render"][1:]]
    result = {
        "what": "CPU ms a toy room on one thread, median over rounds, arms interleaved",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine("cpu"),
        "rounds": ROUNDS,
        "rooms_a_round": ROOMS,
        "measured": rows,
        "rooms_a_second": {"median": round(statistics.median(rates)), "least": round(min(rates)), "bar": BAR},
        "met": statistics.median(rates) >= BAR,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _stored(room: scenes.Scene) -> list[bytes]:
    filled = scenes.fill(room.sensor_m)
    maps = [depth_codec.encode(depth, depth_codec.METRIC_STEP_M) for depth in (room.exact_m, filled, room.sensor_m)]
    return [png_bytes(room.rgb), png_bytes(room.seg), *maps]


def _estimated(teacher: Any, rooms: list[scenes.Scene]) -> None:
    for first in range(0, len(rooms), 50):
        some = rooms[first : first + 50]
        teacher.estimate([teacher.prepare(room.rgb) for room in some], [room.rgb.shape[:2] for room in some])


if __name__ == "__main__":
    main()
