"""What does labelling cost beside the teacher? The job against bare loops, memory, and each stage's share of a core.

    python tests/benchmarks/labelling.py PHOTOS      # writes labelling.json beside it; eight minutes on 2 idle cores

PHOTOS is searched for photographs (.jpg, .jpeg, .png); links to them, repeated where there are too few, are labelled
by the toy teacher and by a DepthAnythingV2-Small with random weights at 224. For each the same photographs go through

- bare: decode, shrink, prepare and estimate with the job's batches and threads, reading ahead; nothing is stored;
- bare, one after another: the same without reading ahead;
- job: pipeline.job.run, from the listing to the index, with --stats given (calibrating costs 512 images more, once);
- run.py: a photograph at a time at its full size, each map scaled to 0..255 and saved as a PNG, which is the least
  that the script of Depth Anything's authors does (--pred-only --grayscale), in the job's threads of the teacher;
- job, full size: the job with --short-side 0, as run.py does not shrink.

They take turns; medians are reported, and ratios of medians: of rates, and of CPU time, which a busy machine disturbs
less. Where teacher and encoder share the cores, as here, the job cannot reach bare: what it adds is in the CPU times.
The stages are timed in one thread; where the teacher has a GPU, the others bound the images/s of a core. Memory grows
over the first thousand images or so, until each shape has met each batch size (oneDNN keeps what it compiles for them).
"""

import argparse
import hashlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from codec import cpu_model, random_depth_anything
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from pipeline import depth_codec, job, shards
from pipeline.depth_field import of_teacher
from pipeline.encode import encode_sample, write_encoded
from pipeline.images import open_rgb, shrink, stored_jpeg
from pipeline.shards.storage import LocalStore
from pipeline.sources import Photograph
from pipeline.sources.folder import Folder
from pipeline.standardize import Moments, Standardisation
from pipeline.teachers import Teacher, open_teacher

SHORT_SIDE, BATCH_SIZE, WORKERS = 256, 32, 2
NUM_STAGES = 24  # photographs whose stages are timed, and that constants are measured on
TEACHER_STAGE = "infer and post-process"
MEMORY_COUNTS = (200, 2000, 4000)

Prepared = tuple[tuple[int, int], Any]  # (height, width) of the map wanted, what the teacher prepared


def links(photos: Sequence[Path], count: int, folder: Path) -> Path:
    """A folder of `count` links to the photographs, spread over them, in turn where there are fewer."""
    folder.mkdir()
    chosen = photos[:: max(1, len(photos) // count)]
    for number, photo in enumerate(islice(cycle(chosen), count)):
        (folder / f"{number:05d}{photo.suffix}").symlink_to(photo.resolve())
    return folder


# ---------------------------------------------------------------------------------------------------------------- arms


def decode(path: Path) -> NDArray[np.uint8]:
    return np.asarray(shrink(open_rgb(path.read_bytes())[0], SHORT_SIDE))


def store(path: Path) -> NDArray[np.uint8]:
    return np.asarray(stored_jpeg(path.read_bytes(), SHORT_SIDE)[1])


def load(teacher: Teacher, path: Path) -> Prepared:
    rgb = decode(path)
    return rgb.shape[:2], teacher.prepare(rgb)


def ahead(teacher: Teacher, paths: Sequence[Path]) -> Iterator[Prepared]:
    with ThreadPoolExecutor(WORKERS) as pool:
        futures: deque[Future[Prepared]] = deque()
        for path in paths:
            futures.append(pool.submit(load, teacher, path))
            if len(futures) >= BATCH_SIZE + 4 * WORKERS:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()


def batches(loaded: Iterator[Prepared]) -> Iterator[list[Prepared]]:
    """Of one shape each, as soon as they are full; the rest at the end."""
    waiting: dict[tuple[int, ...], list[Prepared]] = defaultdict(list)
    for size, pixels in loaded:
        group = waiting[tuple(pixels.shape)]
        group.append((size, pixels))
        if len(group) == BATCH_SIZE:
            yield waiting.pop(tuple(pixels.shape))
    yield from waiting.values()


def bare(teacher: Teacher, folder: Path, read_ahead: bool = True) -> Moments:
    """Returns the moments of the last map alone, so that nothing but the estimates is paid for."""
    paths = sorted(folder.iterdir())
    depth = np.zeros((1, 1), np.float32)
    for batch in batches(ahead(teacher, paths) if read_ahead else (load(teacher, path) for path in paths)):
        depth = teacher.estimate([pixels for _, pixels in batch], [size for size, _ in batch])[-1]
    return Moments.of(depth)


def run_py(teacher: Teacher, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as out:
        for path in sorted(folder.iterdir()):
            rgb = np.asarray(Image.open(path).convert("RGB"))
            [depth] = teacher.estimate([teacher.prepare(rgb)], [rgb.shape[:2]])
            grey = ((depth - depth.min()) / (depth.max() - depth.min()) * 255).astype(np.uint8)
            picture = Image.fromarray(np.repeat(grey[..., None], 3, axis=2))
            picture.save(Path(out) / f"{path.stem}.png", compress_level=1)  # OpenCV's level


def label(teacher: Teacher, folder: Path, stats: str, short_side: int = SHORT_SIDE) -> job.SplitSummary:
    options = job.Options(batch_size=BATCH_SIZE, stats=stats, workers=WORKERS)
    with tempfile.TemporaryDirectory() as out:
        [summary] = job.run(Folder(folder, short_side, 0), teacher, out, options, console=Console(file=io.StringIO()))
    return summary


def calibrated(teacher: Teacher, folder: Path) -> str:
    """MEAN,STD of a few photographs, as for --stats: how well maps compress depends on it. Also warms up."""
    moments = Moments()
    for batch in batches(ahead(teacher, sorted(folder.iterdir())[:NUM_STAGES])):
        for depth in teacher.estimate([pixels for _, pixels in batch], [size for size, _ in batch]):
            moments = moments.merge(Moments.of(depth))
    return f"{moments.mean},{moments.std}"


def speed(teacher: Teacher, folder: Path, stats: str, repetitions: int) -> dict[str, Any]:
    """Medians over alternating repetitions of every arm, and the ratios asked about."""
    arms: dict[str, Callable[[], Any]] = {
        "bare": partial(bare, teacher, folder),
        "bare, one after another": partial(bare, teacher, folder, read_ahead=False),
        "job": partial(label, teacher, folder, stats),
        "run.py": partial(run_py, teacher, folder),
        "job, full size": partial(label, teacher, folder, stats, short_side=0),
    }
    count = len(list(folder.iterdir()))
    wall: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    around = []  # of the job: listing, plan, constants, index
    for repetition in range(repetitions):
        for name in list(arms) if repetition % 2 else reversed(arms):
            start, cpu_start = time.perf_counter(), time.process_time()
            result = arms[name]()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
            if name == "job":
                around.append(wall[name][-1] - result.seconds)
    wall_s = {name: statistics.median(runs) for name, runs in wall.items()}
    cpu_s = {name: statistics.median(runs) for name, runs in cpu.items()}
    return {
        "num_images": count,
        "arms": {
            name: {
                "images_per_s": round(count / wall_s[name], 2),
                "cpu_ms_per_image": round(1000 * cpu_s[name] / count, 1),
                "runs_s": [round(run, 2) for run in wall[name]],
            }
            for name in arms
        },
        "job_before_and_after_labelling_s": round(statistics.median(around), 2),
        "job over bare": round(wall_s["bare"] / wall_s["job"], 3),
        "job over bare, fastest runs": round(min(wall["bare"]) / min(wall["job"]), 3),
        "job over bare, CPU time": round(cpu_s["bare"] / cpu_s["job"], 3),
        "job over bare, one after another": round(wall_s["bare, one after another"] / wall_s["job"], 3),
        "job over run.py": round(wall_s["run.py"] / wall_s["job"], 2),
        "job over run.py, full size": round(wall_s["run.py"] / wall_s["job, full size"], 2),
    }


# -------------------------------------------------------------------------------------------------------------- stages


def cpu_us(calls: Sequence[Callable[[], Any]], passes: int = 3) -> float:
    """CPU microseconds of all calls together, in the fastest of a few passes."""
    seconds = []
    for _ in range(passes):
        start = time.process_time()
        for call in calls:
            call()
        seconds.append(time.process_time() - start)
    return 1e6 * min(seconds)


def stages(teacher: Teacher, folder: Path, stats: str) -> dict[str, int]:
    """Microseconds of one core per image, by stage; fsync in wall time. `teacher` must use one thread."""
    paths = sorted(folder.iterdir())[:NUM_STAGES]
    source = Folder(folder, SHORT_SIDE, 0)
    photos: list[Photograph] = [source.load("train", path.name) for path in paths]
    inputs = [(photo.rgb.shape[:2], teacher.prepare(photo.rgb)) for photo in photos]
    maps: list[NDArray[np.float32]] = [teacher.estimate([pixels], [size])[0] for size, pixels in inputs]
    mean, std = map(float, stats.split(","))
    constants = Standardisation(mean, std, teacher.polarity)
    field = of_teacher(teacher.identity())
    z = [constants.apply(depth) for depth in maps]
    encoded = []
    for path, depth, photo in zip(paths, maps, photos, strict=True):
        sample = encode_sample(path.stem, {"pseudo": depth}, photo, {"pseudo": constants}, {"pseudo": field})
        assert not isinstance(sample, shards.Reject), sample.reason
        encoded.append(sample)
    members = [data for sample in encoded for data in sample.members.values()]
    synced: list[float] = []
    fsync = os.fsync

    def timed_fsync(file: int) -> None:
        start = time.perf_counter()
        fsync(file)
        synced.append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as out, patch("os.fsync", timed_fsync):
        writing = cpu_us(
            [partial(write_encoded, LocalStore(Path(out)), "shard-000000", "", encoded, [], {"pseudo": constants}, 1)]
        )
    decoding = cpu_us([partial(decode, path) for path in paths])
    storing = cpu_us([partial(store, path) for path in paths])
    hashing = cpu_us([partial(hashlib.sha256, data) for data in members])
    total_us = {
        "read, decode, shrink": decoding,
        "JPEG again, and its pixels": storing - decoding,
        "prepare": cpu_us([partial(teacher.prepare, photo.rgb) for photo in photos]),
        TEACHER_STAGE: cpu_us(
            [
                partial(teacher.estimate, [pixels for _, pixels in batch], [size for size, _ in batch])
                for batch in batches(iter(inputs))
            ],
            passes=2,
        ),
        "standardise": cpu_us([partial(constants.apply, depth) for depth in maps]),
        "encode depth": cpu_us([partial(depth_codec.encode, one, depth_codec.PSEUDO_STEP) for one in z]),
        "statistics": cpu_us([partial(count_and_describe, depth) for depth in maps]),
        "SHA-256": hashing,
        "tar, CRC-32, JSON": writing - hashing,
        "fsync, waited for": 1e6 * statistics.median(map(sum, zip(synced[::2], synced[1::2], strict=True))),
    }
    us = {name: round(total / len(paths)) for name, total in total_us.items()}
    return us | {"all but the teacher": sum(us.values()) - us[TEACHER_STAGE]}


def count_and_describe(depth: NDArray[np.float32]) -> dict[str, float]:
    return shards.depth_statistics(depth, Moments.of(depth))


# -------------------------------------------------------------------------------------------------------------- memory


def peak_mb(folder: Path) -> float:
    """Peak resident memory of `precompute-depth folder`, as the kernel keeps it, in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        command = [Path(sys.executable).parent / "precompute-depth", "folder", folder, out, "--teacher", "toy"]
        command += ["--short-side", SHORT_SIDE, "--val-fraction", 0, "--samples-per-shard", 100]
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
        peak_kb = 0
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except ProcessLookupError:
                break
            peak_kb = max([peak_kb, *(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)])
            time.sleep(0.05)
        if process.wait():
            raise SystemExit(f"{command} failed with exit code {process.returncode}")
    return peak_kb * 1024 / 1e6


# ---------------------------------------------------------------------------------------------------------------- main


def show(result: dict[str, Any], console: Console) -> None:
    for name, rows in result["speed"].items():
        table = Table("", "images/s", "CPU ms an image", title=f"{name}: {rows['num_images']} photographs")
        for arm, row in rows["arms"].items():
            table.add_row(arm, f"{row['images_per_s']:.2f}", f"{row['cpu_ms_per_image']:.1f}")
        console.print(table)
        console.print({what: value for what, value in rows.items() if what.startswith("job")})
    stage_table = Table("stage", *result["stages_us_per_image"], title="microseconds of one core an image")
    for stage in next(iter(result["stages_us_per_image"].values())):
        stage_table.add_row(stage, *(f"{column[stage]:,}" for column in result["stages_us_per_image"].values()))
    console.print(stage_table)
    for teacher, column in result["stages_us_per_image"].items():
        console.print(f"{teacher}: {1e6 / column['all but the teacher']:.0f} images/s of a core beside the teacher")
    console.print(result["memory"])


def main() -> None:
    if "OMP_WAIT_POLICY" not in os.environ:  # as the command line sets it; it is read when torch is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    folder = parser.parse_args().photos
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not photos:
        raise SystemExit(f"PHOTOS must hold photographs, got {folder} without any")
    load_at_start = os.getloadavg()[0]
    measured: dict[str, Any] = {"speed": {}, "stages_us_per_image": {}}
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch) / "small"
        for part in random_depth_anything():
            part.save_pretrained(small)
        teachers: dict[str, tuple[str, int | None, int, int]] = {  # ..., size, photographs, repetitions
            "random DepthAnythingV2-Small at 224": (str(small), 224, 32, 7),
            "toy teacher": ("toy", None, 200, 5),
        }
        for name, (location, size, count, repetitions) in teachers.items():
            some = links(photos, count, Path(scratch) / f"photos-{count}")
            teacher = open_teacher(location, "cpu", size=size)
            stats = calibrated(teacher, some)
            measured["speed"][name] = speed(teacher, some, stats, repetitions)
            one_thread = open_teacher(location, "cpu", size=size, threads=1)
            measured["stages_us_per_image"][name] = stages(one_thread, some, stats)
        peaks = {count: peak_mb(links(photos, count, Path(scratch) / f"memory-{count}")) for count in MEMORY_COUNTS}
    packages = ("torch", "transformers", "numpy", "pillow", "numcodecs")
    result = {
        "what": "pipeline.job against bare loops, and its stages; all on the CPU",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "load_at_start": round(load_at_start, 1),
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "parameters": {
            "num_photographs": len(photos),
            "short_side": SHORT_SIDE,
            "batch_size": BATCH_SIZE,
            "workers": WORKERS,
            "teacher_threads": teacher.threads,
            "teacher_size": {name: size or "its own" for name, (_, size, _, _) in teachers.items()},
            "teacher_aspect": "keep",
            "dtype": "float32",
            "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
        },
        **measured,
        "memory": {
            "what": "peak RSS of precompute-depth folder, toy teacher, 100 samples a shard",
            **{f"MB at {count} images": round(peak) for count, peak in peaks.items()},
            **{f"{many} over {few}": round(peaks[many] / peaks[few], 3) for few, many in pairwise(MEMORY_COUNTS)},
        },
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    show(result, Console(width=120))


if __name__ == "__main__":
    main()
