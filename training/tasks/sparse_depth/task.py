"""Training a sparse-query depth network as a task: metres where it is asked, in a folder that labels like any other."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel
from rich.table import Table
from torch import Tensor, nn

from pipeline import shards
from pipeline.teachers import open_teacher, sparse_teacher
from pipeline.teachers.sparse import SparseNetwork
from training import provenance
from training.config import ConfigError
from training.engine import checkpoint
from training.engine.found import At, Scores
from training.engine.machine import Machine, describe_device
from training.engine.results import MeasureError, part_of_name
from training.engine.share import DataError, Share
from training.engine.task import Asked, Examination, LoadedRun, Result, Task
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.loading.decode import decode_rgb
from training.loading.metric import open_metric
from training.models.pretrained import Report
from training.models.vit import load_checked
from training.records import DepthEvaluation, DepthScores
from training.tasks.sparse_depth import metrics
from training.tasks.sparse_depth.config import KIND, SparseDepthConfig, resolve
from training.tasks.sparse_depth.data import EVAL_BATCH, EvalBatches, SparseBatch, eval_loader, floored, train_loader
from training.tasks.sparse_depth.evaluate import Evaluator, evaluate, medians
from training.tasks.sparse_depth.examples import draw as pictured
from training.tasks.sparse_depth.examples import store
from training.tasks.sparse_depth.loss import silog
from training.tasks.sparse_depth.start import TEACHER, initialise


class SparseDepthTraining(Task[SparseDepthConfig, SparseBatch]):
    """SILog, one value an image; a mean over the images that have depth."""

    kind = KIND
    schema = SparseDepthConfig
    made_by = "train depth"
    counts = True  # images that have depth
    draws = True  # dropout

    train: shards.Split
    val: shards.Split

    @classmethod
    def of(cls, asked: Asked, say: Callable[[str], None]) -> Self:
        task = cls(resolve(asked.preset, asked.model, asked.settings, asked.depth, asked.init))
        with torch.device("meta"):
            task.build()  # whether the crop fits it
        factor = task.config.optim.encoder_factor
        if asked.init is None and factor < 1:
            say(
                f"note: optim.encoder_factor {factor:g} is for an encoder that was pre-trained, and without --init it "
                "learns next to nothing: give --init timm:NAME or a file of weights, or take --preset tiny"
            )
        return task

    def build(self) -> SparseNetwork:
        network = sparse_teacher.build(self.config.model)
        if any(side % network.multiple for side in self.config.augment.crop):
            raise ConfigError(
                f"augment.crop must be multiples of {network.multiple} px as {self.config.model.name} takes images, "
                f"got {list(self.config.augment.crop)}"
            )
        return network

    def initialise(self, model: nn.Module) -> Report:
        assert isinstance(model, SparseNetwork) and self.config.init is not None
        return initialise(model, self.config.init)

    def example(self) -> tuple[Tensor, ...]:
        image = torch.zeros(1, 3, *self.config.augment.crop)
        queries = self.config.data.queries
        return (image, torch.zeros(1, queries, 2)) if queries else (image,)

    @property
    def rate_factors(self) -> Mapping[str, float]:
        factor = self.config.optim.encoder_factor
        return {"encoder": factor} if factor != 1 else {}

    @property
    def warmup_epochs(self) -> float:
        optim = self.config.optim
        return optim.warmup_epochs if optim.warmup_steps is None else self.epochs.at(optim.warmup_steps)

    def inputs(self, batch: SparseBatch) -> tuple[Tensor, ...]:
        images = normalise(batch.rgb, RGB_MEAN, RGB_STD)
        return (images, batch.depth) if batch.queries is None else (images, batch.queries, batch.depth)

    def loss(self, forward: Callable[..., Any], *inputs: Tensor) -> Tensor:
        *seen, depth = inputs
        return silog(forward(*seen), depth).sum()

    def count(self, batch: SparseBatch) -> int:
        return int(batch.depth.isfinite().flatten(1).any(1).sum())

    def open(self, data: str) -> None:
        self.data, field, optim = data, self.config.data.depth, self.config.optim
        self.train, self.val = open_metric(data, "train", field), open_metric(data, "val", field)
        provenance.check_splits(self.train, self.val, field)
        self.num_train, self.num_val = len(self.train), len(self.val)
        self._first_fits()
        self._some_depth()
        if optim.warmup_steps is not None and optim.warmup_steps > self.epochs.num_steps:
            raise DataError(
                f"optim.warmup_steps must be at most the run's {self.epochs.num_steps:,} steps, got "
                f"{optim.warmup_steps:,}: lower it, or raise optim.epochs"
            )

    def _first_fits(self) -> None:
        """Of images that are too small the first tells, before there is a run; any other's loader does."""
        first = self.train.members(0, ("rgb",))
        height, width = first.decode("rgb", decode_rgb).shape[1:]
        crop, smallest = self.config.augment.crop, self.config.augment.scale[0]
        if round(height * smallest) < crop[0] or round(width * smallest) < crop[1]:
            at = f" at augment.scale {smallest:g}" if smallest != 1 else ""
            raise DataError(
                f"augment.crop must fit into every image, got {crop[0]}x{crop[1]} of {height}x{width} px{at} (height x "
                f"width; {first.key}): lower it, or make the shards with larger images"
            )

    def _some_depth(self) -> None:
        """Of images that lack depth where the network looks, one that has it tells that there is something to see."""
        with torch.device("meta"):
            multiple = self.build().multiple
        batches = EvalBatches(self.val, self.config.data.depth, multiple)
        lots = (batches[number] for number in range(len(batches)))
        if not any(batch.depth.isfinite().any() for lot in lots for batch in lot):
            raise DataError(
                f"{self.val.store} has no pixel with {self.config.data.depth} depth in the centres of its images that "
                f"{self.config.model.name} takes: give other shards, or another field with --depth"
            )

    def splits(self) -> tuple[shards.Split, shards.Split]:
        return self.train, self.val

    def loader(self, share: Share, first_step: int, num_steps: int) -> Iterator[SparseBatch]:
        return train_loader(self.train, self.config, share, first_step, num_steps)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, machine: Machine) -> Scores:
        """A quick look: 256 pixels of each image, the same every time. Means over images of what each has."""
        assert isinstance(model, SparseNetwork)
        start, ranks = time.perf_counter(), machine.ranks
        model.eval()
        loader = eval_loader(self.val, self.config, model.multiple, ranks.rank, ranks.world_size)
        found: dict[int, list[float]] = {}
        routed: list[int] = []  # of each image, distinct cells that its queries are shown
        for _ in range(math.ceil(math.ceil(self.num_val / EVAL_BATCH) / ranks.world_size)):
            machine.between()
            for batch in next(loader, []):
                images, queries, depth = self.inputs(batch.to(machine.device))
                with machine.autocast():
                    encoded = model.encode(images)
                    estimated, cells = model.at(encoded, queries), model.routed(encoded, queries)
                losses = silog(estimated, depth)
                for place in depth.isfinite().all(1).nonzero()[:, 0].tolist():
                    of_pixels = metrics.errors(*(each[place].float().cpu().numpy() for each in (estimated, depth)))
                    abs_rel, squared, _, delta1, *_ = of_pixels.mean(1).tolist()
                    found[batch.first + place] = [abs_rel, math.sqrt(squared), delta1, losses[place].item()]
                    if cells is not None:
                        routed.append(len(cells[place].unique()))
        both = ranks.gather((found, routed))
        everyone = {place: each for own, _ in both for place, each in own.items()}
        if not everyone:
            raise DataError(
                f"{self.val.store} has no pixel with {self.config.data.depth} depth: give other shards, or another "
                "field with --depth"
            )
        abs_rel, rmse, delta1, loss = np.mean([everyone[place] for place in sorted(everyone)], 0).tolist()
        means = {"abs_rel": abs_rel, "rmse": rmse, "delta1": delta1}
        if distinct := [number for _, own in both for number in own]:
            means["routed_cells"] = float(np.mean(distinct))  # where it stays near `routed`, routing has collapsed
        return Scores(means, delta1, loss, len(everyone), time.perf_counter() - start)

    def conclude(self, found: Any, out: Path, at: At, machine: Machine) -> BaseModel:
        """The last weights become the teacher in OUT/teacher."""
        result = self.record(found, at)
        if machine.ranks.first:
            saved = checkpoint.load(out / "checkpoints" / at.checkpoint)
            network = self.build()
            load_checked(network, saved.weights, str(saved.folder))
            depth = self.train.index.depth[self.config.data.depth]
            rgb = self.train.members(0, ("rgb",)).decode("rgb", decode_rgb)
            side, _ = floored((min(rgb.shape[1:]), 0), network.multiple)
            facts = {"run": out.name, "checkpoint": at.checkpoint, "data": self.data, "metrics": found.scores}
            sparse_teacher.save(network, out / TEACHER, short_side_px=side, mean=depth.mean, std=depth.std, facts=facts)
        return result

    def examine(self, loaded: LoadedRun, asked: Examination) -> Result:
        """Errors of metric depth in every way to ask, with some images to look at."""
        target, machine, field = asked.target, asked.machine, asked.target.depth or self.config.data.depth
        if asked.multi_scale:
            raise MeasureError(f"--multi-scale is for runs that label pixels, {loaded.folder} is none: leave it out")
        split = open_metric(target.data, asked.split, field)
        other = target.opened(loaded.record.shards, split, field)
        edges_of = "exact" if "exact" in split.index.depth else field
        against, every_pixel = asked.more.get("against"), bool(asked.more.get("every_pixel"))
        teacher = None if against is None else open_teacher(against, machine.device.type, given_as="--against")
        network = loaded.model.to(machine.device)
        assert isinstance(network, SparseNetwork)
        evaluator = Evaluator(
            network, machine, split.index.source, every_pixel=every_pixel, teacher=teacher,
            positions=medians(open_metric(target.data, "train", field), field),
        )  # fmt: skip
        with asked.meter("evaluate", len(split)) as advance:
            answers = evaluate(evaluator, split, field, edges_of, self.config.runtime, advance=advance)
        if not (scores := answers.scores()):
            raise DataError(f"{split.store} has no pixel with {field} depth: give other shards")
        name = f"depth-{asked.split}-{field}-{loaded.saved.name}{'-every-pixel' * every_pixel}{_beside(against)}"
        place = target.place(name, loaded.record.shards, split)
        at, examples = At.of(loaded.saved), [answers.examples[number] for number in sorted(answers.examples)]
        record = DepthEvaluation(
            model=self.config.model.name, checkpoint=at.checkpoint, epoch=at.epoch, checkpoint_sha256=at.sha256,
            data=split.data, split=split.index.split, fingerprint=split.index.fingerprint, depth_field=field,
            edges_of=edges_of, num_images=len(split), teacher=against or "", scores=scores, times=answers.times(),
            device=describe_device(machine.device),
            dense_from_asked=fmean(answers.dense_from_asked.values()) if answers.dense_from_asked else None,
            routed_share=float(np.mean(answers.routed)) if answers.routed else None,
            examples=f"{place.name}.npz", other_depth=list(other),
        )  # fmt: skip

        def draw(place: Path) -> Path:
            store(examples, place.with_name(f"{place.name}.npz"))
            picture = place.with_name(f"{place.name}.png")
            title = f"{record.model}, trained with {loaded.record.shards.depth_field} depth, on {asked.split}"
            pictured(examples, picture, title)
            return picture

        return Result(record, place, draw, [times_table(record)])

    @classmethod
    def tables(cls, result: Any) -> list[Table]:
        return errors_tables(result) if isinstance(result, DepthEvaluation) else super().tables(result)


def _beside(teacher: str | None) -> str:
    """What marks an evaluation with a teacher beside it: other answers than without, or with another."""
    return "" if teacher is None else f"-against-{part_of_name(teacher)[-60:]}"


def errors_tables(result: DepthEvaluation) -> list[Table]:
    """For each protocol the means over images, a row an answer, and what is pooled over the pixels of all images."""
    made = []
    for protocol in dict.fromkeys(each.protocol for each in result.scores):
        own = [each for each in result.scores if each.protocol == protocol]
        regions = {(each.who, each.asked, each.aligned, each.region): each.mean.abs_rel for each in own}
        title = f"{result.model}, {result.num_images:,} images, {result.depth_field} depth, counted: {protocol}"
        means = Table(
            "answer", "AbsRel", "±", "δ<1.25", "RMSE m", "edges", "rest", title=title, caption=_caption(result)
        )
        pooled = Table("pooled over pixels", "pixels", "AbsRel", "δ<1.25")
        for each in (score for score in own if score.region == "all"):
            name = _answer(each, result.teacher)
            apart = (regions.get((each.who, each.asked, each.aligned, region)) for region in ("edges", "rest"))
            means.add_row(
                name, f"{each.mean.abs_rel:.4f}", f"{each.spread.abs_rel:.4f}" if each.spread else "",
                f"{each.mean.delta1:.1%}", f"{each.mean.rmse_m:.3f}",
                *("" if value is None else f"{value:.4f}" for value in apart),
            )  # fmt: skip
            pooled.add_row(
                name, f"{each.num_pixels:,}", f"{each.pooled.abs_rel:.4f}", f"{each.pooled.delta1:.1%}"
            )  # fmt: skip
        made += [means, pooled]
    return made


def _answer(score: DepthScores, teacher: str) -> str:
    who = {"model": score.asked, "position": "median of each position", "teacher": teacher}[score.who]
    fitted = {"affine": ", scale and shift fitted", "median": ", scale fitted"}.get(score.aligned, "")
    return who + fitted


def _caption(result: DepthEvaluation) -> str:
    told = (
        "Means over images; ± between draws of the pixels that are asked; edges: within 3 px of one, rest: elsewhere. "
        "Fitted to the truth of each image, scale and shift in inverse depth."
    )
    if result.dense_from_asked is not None:
        told += f" The dense map is {result.dense_from_asked:.2%} from what is answered pixel by pixel, on average."
    return told


def times_table(result: DepthEvaluation) -> Table:
    table = Table("an image", "ms", title=f"on {result.device}, one image at a time")
    for each in result.times:
        table.add_row("encoded" if each.asked == "encode" else f"then {each.asked}", f"{each.ms:.1f}")
    return table
