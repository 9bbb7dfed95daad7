"""Errors of a sparse-query network on a split: asked pixel by pixel, asked for some, and by its dense map.

Images go through one by one, as they are: what is seen of each, and which pixels count, is its protocols' business.
Beside the network stand what each position's median says without looking, and any teacher's dense estimate.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import shards
from pipeline.teachers import Teacher
from pipeline.teachers.sparse import Encoded, SparseNetwork, whole
from training.engine.machine import Machine
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.loading.data import load
from training.random_numbers import generator
from training.records.depth import DepthScores, DepthTime
from training.tasks.sparse_depth import metrics
from training.tasks.sparse_depth.data import decode, fields_of, seen_of
from training.tasks.sparse_depth.metrics import ImageErrors, Map
from training.tasks.sparse_depth.protocols import Protocol, protocols

NUMBERS = (1, 64, 256, 1024)  # of pixels that are asked for
_AT_ONCE = 4096  # pixels asked together where all are
_SAMPLE = 4 * NUMBERS[-1]  # pixels of an image that are asked where not all are
_TIMED = 16  # images that are timed
_POSITIONS = 256  # training images whose median each position has
_STORED_QUERIES = 8  # a side, of an example
REGIONS = ("all", "edges", "rest")

Key = tuple[str, str, str, str, str]  # who, asked, aligned, protocol, region


@dataclass(frozen=True)
class Example:
    """An image as the page of teachers shows it: rgb uint8 (height, width, 3), metres, and routed tokens if any."""

    key: str
    rgb: NDArray[np.uint8]
    true: NDArray[np.float32]  # NaN unknown
    dense: NDArray[np.float32]
    routed: NDArray[np.int64] | None = None  # (8 * 8 queries, tokens): which of the coarsest grid
    grid: tuple[int, int] | None = None


@dataclass
class Answers:
    """What an evaluation found; `scores` puts it together."""

    images: dict[int, dict[Key, ImageErrors]] = field(default_factory=dict)  # by position in the split
    dense_from_asked: dict[int, float] = field(
        default_factory=dict
    )  # mean relative difference, of images that have any
    seconds: list[dict[str, float]] = field(default_factory=list)
    routed: list[float] = field(default_factory=list)
    examples: dict[int, Example] = field(default_factory=dict)

    def merged(self, others: Sequence["Answers"]) -> "Answers":
        for other in others:
            self.images |= other.images
            self.dense_from_asked |= other.dense_from_asked
            self.seconds += other.seconds
            self.routed += other.routed
            self.examples |= other.examples
        return self

    def scores(self) -> list[DepthScores]:
        """In the order in which they were first found."""
        ordered = [self.images[place] for place in sorted(self.images)]
        keys = list(dict.fromkeys(key for each in ordered for key in each))
        made = []
        for key in keys:
            found = [each.get(key) for each in ordered]
            who, asked, aligned, protocol, region = key
            made.append(
                DepthScores(
                    who=who, asked=asked, aligned=aligned, protocol=protocol, region=region,
                    num_pixels=sum(each.count for each in found if each), mean=metrics.over_images(found),
                    pooled=metrics.pooled(found), spread=metrics.spread(found),
                    abs_rel=[None if each is None else float(each.mean[0]) for each in found],
                )
            )  # fmt: skip
        return made

    def times(self) -> list[DepthTime]:
        names = list(dict.fromkeys(name for each in self.seconds for name in each))
        return [
            DepthTime(asked=name, ms=1e3 * float(np.median([each[name] for each in self.seconds if name in each])))
            for name in names
        ]


class Images(torch.utils.data.Dataset[tuple[str, Tensor, Tensor, Tensor]]):
    """Key, RGB uint8 (3, height, width), metres and the depth whose edges count, both (height, width), NaN unknown."""

    def __init__(self, split: shards.Split, depth: str, edges_of: str, multiple: int) -> None:
        self.split, self.depth, self.edges_of, self.multiple = split, depth, edges_of, multiple
        self.fields = tuple(dict.fromkeys((*fields_of(depth), edges_of)))

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, place: int) -> tuple[str, Tensor, Tensor, Tensor]:
        members = self.split.members(place, self.fields)
        rgb, depth = decode(self.split, members, self.depth)
        seen_of(members, rgb, self.multiple)
        edges = depth if self.edges_of == self.depth else decode(self.split, members, self.edges_of)[1]
        return members.key, rgb, depth[0], edges[0]


class Evaluator:
    """Of one network. `positions`: each position's median metres in training, for images of that size."""

    def __init__(
        self,
        network: SparseNetwork,
        machine: Machine,
        source: str,
        *,
        every_pixel: bool = False,
        teacher: Teacher | None = None,
        positions: NDArray[np.float64] | None = None,
    ) -> None:
        self.network, self.machine, self.source = network.eval(), machine, source
        self.every_pixel, self.teacher, self.positions = every_pixel, teacher, positions
        self.dense_from_asked: float | None = None  # of the image looked at last

    @torch.no_grad()
    def look(self, key: str, rgb: Tensor, depth: Map, edges_of: Map) -> dict[Key, ImageErrors]:
        """The errors of one image, in every way."""
        found: dict[Key, ImageErrors] = {}
        self.dense_from_asked = None
        size = (rgb.shape[1], rgb.shape[2])
        near = metrics.near_edges(edges_of)
        maps: list[tuple[str, str, Map]] = []  # who, aligned, metres of the whole image
        if self.positions is not None and self.positions.shape == size:
            maps.append(("position", "none", self.positions))
        if self.teacher is not None:
            maps += self._of_teacher(rgb, depth)
        windows: dict[tuple[int, int, int, int], list[Protocol]] = {}
        for protocol in protocols(self.source, size, self.network.multiple):
            windows.setdefault(protocol.window, []).append(protocol)
        for window, own in windows.items():
            cut = np.s_[window[0] : window[0] + window[2], window[1] : window[1] + window[3]]
            encoded = self.encoded(rgb[(slice(None), *cut)])
            true, edges = depth[cut], near[cut]
            dense = self.dense(encoded)
            asked_at = self._pixels(true, key)
            answers = self.asked(encoded, asked_at)
            if len(answers) and own[0].name == "whole":
                self.dense_from_asked = float(np.mean(np.abs(dense[asked_at[:, 1], asked_at[:, 0]] / answers - 1)))
            shown = [("model", "none", dense), *((who, how, each[cut]) for who, how, each in maps)]
            shown += [("model", how, metrics.aligned(dense, true, how, False)) for how in _alignments(true)]
            for protocol in own:
                counts = protocol.mask(true)
                at_asked = counts[asked_at[:, 1], asked_at[:, 0]]
                self._add_asked(found, protocol, answers, true, edges, asked_at[at_asked], at_asked, key)
                for who, how, metres in shown:
                    self._add_map(found, (who, "dense", how), protocol, metres, true, counts, edges)
        return found

    def _add_asked(
        self,
        found: dict[Key, ImageErrors],
        protocol: Protocol,
        answers: Map,
        true: Map,
        edges: NDArray[np.bool_],
        pixels: NDArray[np.int64],
        inside: NDArray[np.bool_],
        key: str,
    ) -> None:
        rows, columns = pixels[:, 1], pixels[:, 0]
        of_pixels = _errors(answers[inside], true[rows, columns], protocol)
        if self.every_pixel:
            for region, mask in _regions(edges[rows, columns]):
                _put(found, ("model", "every-pixel", "none", protocol.name, region),
                     metrics.image_errors(of_pixels[:, mask]))  # fmt: skip
        for number in NUMBERS:
            random = generator(0, "draws", key, number)
            _put(found, ("model", f"k-{number}", "none", protocol.name, "all"),
                 metrics.drawn_errors(of_pixels, number, random))  # fmt: skip

    @staticmethod
    def _add_map(
        found: dict[Key, ImageErrors],
        what: tuple[str, str, str],
        protocol: Protocol,
        metres: Map,
        true: Map,
        counts: NDArray[np.bool_],
        edges: NDArray[np.bool_],
    ) -> None:
        counts = counts & np.isfinite(metres)  # a teacher that masks
        of_pixels = _errors(metres[counts], true[counts], protocol)
        for region, mask in _regions(edges[counts]):
            _put(found, (*what, protocol.name, region), metrics.image_errors(of_pixels[:, mask]))

    def _of_teacher(self, rgb: Tensor, depth: Map) -> list[tuple[str, str, Map]]:
        assert self.teacher is not None
        pixels = rgb.permute(1, 2, 0).contiguous().numpy()
        [estimate] = self.teacher.estimate([self.teacher.prepare(pixels)], [(depth.shape[0], depth.shape[1])])
        inverse = self.teacher.polarity == "closer_is_larger"
        made: list[tuple[str, str, Map]] = [
            ("teacher", how, metrics.aligned(estimate, depth, how, inverse)) for how in _alignments(depth)
        ]
        return [("teacher", "none", estimate), *made] if self.teacher.unit == "m" else made

    def _pixels(self, true: Map, key: str) -> NDArray[np.int64]:
        """(u, v) of the valid pixels that are asked: all, or enough to draw from."""
        v, u = np.nonzero(np.isfinite(true))
        pixels = np.stack([u, v], 1)
        if self.every_pixel or len(pixels) <= _SAMPLE:
            return pixels
        return pixels[generator(0, "asked", key).choice(len(pixels), _SAMPLE, replace=False)]

    # --- the network -----------------------------------------------------------------------------------------------

    def encoded(self, rgb: Tensor) -> Encoded:
        """Of RGB uint8 (3, height, width)."""
        images = normalise(rgb[None].to(self.machine.device), RGB_MEAN, RGB_STD)
        with self.machine.autocast():
            return self.network.encode(images)

    def dense(self, encoded: Encoded) -> NDArray[np.float32]:
        """Metres (height, width): the map of the finest grid, resized."""
        with self.machine.autocast():
            return whole(self.network.dense(encoded), encoded.size)[0].float().cpu().numpy()

    def asked(self, encoded: Encoded, pixels: NDArray[np.integer]) -> NDArray[np.float32]:
        """Metres (pixels,) at (u, v)."""
        queries = torch.from_numpy(pixels.astype(np.float32)).to(self.machine.device)
        with self.machine.autocast():
            parts = [self.network.at(encoded, part[None])[0].float() for part in queries.split(_AT_ONCE) if len(part)]
        return torch.cat(parts).cpu().numpy() if parts else np.zeros(0, np.float32)

    @torch.no_grad()
    def timed(self, rgb: Tensor, key: str) -> dict[str, float]:
        """Seconds of encoding an image, alone in its batch, and of each way to ask."""
        height, width = (side // self.network.multiple * self.network.multiple for side in rgb.shape[1:])
        cut, seconds = rgb[:, :height, :width], {}
        start = self._now()
        encoded = self.encoded(cut)
        seconds["encode"] = self._now() - start
        for number in NUMBERS:
            pixels = generator(0, "timed", key, number).integers(0, (width, height), (number, 2))
            start = self._now()
            self.asked(encoded, pixels)
            seconds[f"k-{number}"] = self._now() - start
        start = self._now()
        self.dense(encoded)
        seconds["dense"] = self._now() - start
        return seconds

    def _now(self) -> float:
        if self.machine.device.type == "cuda":
            torch.cuda.synchronize(self.machine.device)
        return time.perf_counter()

    @torch.no_grad()
    def example(self, key: str, rgb: Tensor, depth: Map) -> Example:
        height, width = (side // self.network.multiple * self.network.multiple for side in rgb.shape[1:])
        encoded = self.encoded(rgb[:, :height, :width])
        routed, grid = self.routed(encoded)
        return Example(
            key,
            rgb[:, :height, :width].permute(1, 2, 0).contiguous().numpy(),
            depth[:height, :width].astype(np.float32),
            self.dense(encoded),
            routed,
            grid,
        )

    def routed(self, encoded: Encoded) -> tuple[NDArray[np.int64] | None, tuple[int, int] | None]:
        """Of 8 x 8 queries evenly over the image: to which tokens of the coarsest grid each is routed."""
        side = (np.arange(_STORED_QUERIES) + 0.5) / _STORED_QUERIES
        down, right = np.meshgrid(side * encoded.size[0] - 0.5, side * encoded.size[1] - 0.5, indexing="ij")
        queries = torch.from_numpy(np.stack([right, down], -1).reshape(1, -1, 2).astype(np.float32))
        with self.machine.autocast():
            found = self.network.routed(encoded, queries.to(self.machine.device))
        if found is None:
            return None, None
        multiple = self.network.multiple
        return found[0].cpu().numpy(), (encoded.size[0] // multiple, encoded.size[1] // multiple)


def evaluate(
    evaluator: Evaluator,
    split: shards.Split,
    depth: str,
    edges_of: str,
    workers: Any,
    *,
    num_examples: int = 4,
    advance: Callable[[int], None] = lambda count: None,
) -> Answers:
    """The whole split, shared between ranks, each image once; the same answers on every rank."""
    machine, ranks = evaluator.machine, evaluator.machine.ranks
    answers = Answers()
    examples = set(np.linspace(0, len(split) - 1, min(num_examples, len(split))).round().astype(int).tolist())
    mine = range(ranks.rank, len(split), ranks.world_size)
    loader: Iterator[Any] = load(Images(split, depth, edges_of, evaluator.network.multiple), mine, workers)
    for turn in range(-(-len(split) // ranks.world_size)):
        machine.between()
        if turn >= len(mine):
            continue
        place, (key, rgb, *maps) = mine[turn], next(loader)
        metres, edges = (each.numpy() for each in maps)
        answers.images[place] = evaluator.look(key, rgb, metres, edges)
        if evaluator.dense_from_asked is not None:
            answers.dense_from_asked[place] = evaluator.dense_from_asked
        if turn < _TIMED:
            answers.seconds.append(evaluator.timed(rgb, key))
        if place in examples:
            answers.examples[place] = example = evaluator.example(key, rgb, metres)
            if example.routed is not None and example.grid is not None:
                answers.routed.append(len(np.unique(example.routed)) / (example.grid[0] * example.grid[1]))
        advance(1)
    everyone = ranks.gather(answers)
    return Answers().merged(everyone)


def medians(split: shards.Split, depth: str) -> NDArray[np.float64] | None:
    """Each position's median metres over some images, spread over a split; None where they are of several sizes."""
    places = np.linspace(0, len(split) - 1, min(len(split), _POSITIONS)).astype(int)
    maps = [decode(split, split.members(int(place), fields_of(depth)), depth)[1][0].numpy() for place in places]
    return metrics.position_median(maps) if len({each.shape for each in maps}) == 1 else None


def _alignments(true: Map) -> tuple[str, ...]:
    return ("affine", "median") if np.isfinite(true).any() else ()


def _errors(estimated: Map, true: Map, protocol: Protocol) -> NDArray[np.float64]:
    low, high = protocol.range_m
    return metrics.errors(np.clip(estimated, max(low, 1e-6), high), true)


def _regions(edges: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.bool_]]]:
    return [("all", np.ones_like(edges)), ("edges", edges), ("rest", ~edges)]


def _put(found: dict[Key, ImageErrors], key: Key, errors: ImageErrors | None) -> None:
    if errors is not None:
        found[key] = errors
