"""The thesis' introduction on its toy problem: who can tell which of two overlapping digits is on top?

    python tests/benchmarks/digits.py                      # writes digits.json beside itself; an hour or two on 2 cores
    python tests/benchmarks/digits.py --pretrained RUNS    # with ready-made RUNS/m3ch-pseudo, m4ch-pseudo, mlin-pseudo
    python tests/benchmarks/digits.py --models m4ch --steps 9600 --seeds 1 --add    # one comparison more
    python tests/benchmarks/digits.py --device cuda        # digits-cuda.json

Where the project is not installed, PYTHONPATH=. before it. The introduction's claim is that a model trained from
scratch on such images fails and a pre-trained one succeeds. Here everything is made by the commands a user has:

    precompute-depth digits      6,000 + 1,000 images of 48 px, exact depth, labels: the kind of the digit on top
    precompute-depth toyrooms    6,000 rooms labelled by the toy teacher, to pre-train on
    train pretrain --preset tiny --model X --set data.depth=pseudo
    train finetune --preset tiny --head pyramid --depth exact --model X              every weight starts fresh
    train finetune --preset tiny --head pyramid --depth exact --init PRE-TRAINED     the same budget

X is m3ch, which sees no depth and must stay at chance, m4ch and mlin: width 64, 4 blocks, patches of 8. Batches of 32;
images are neither scaled nor mirrored (a mirrored digit is another shape). All of the training split is trained on and
the weights of the last step are tested: --select best-on-test looks once and so chooses nothing.

Scores count *overlap pixels*, where both digits are: RGB is the same whichever is on top. The kind is colour XOR parity
of the digit on top, the same in all overlap pixels of an image; test images have glyphs that training has not.
`overlap_miou` is over the two kinds (ground never occurs there and is a miss where it is said): a coin for every pixel
has 1/3, one answer for all 1/4. `overlap_accuracy` is of pixels; both have 1/2. Intervals: 95 % of resamples of the
images. `alone_accuracy` is of pixels of one digit alone, where RGB tells the kind: as long as it is 1/2 the model does
not know what a kind is, and overlap says nothing of depth. `miou` is of the whole image and the three labels: about
0.55 for who knows ground from digit alone.

Seeds differ in fresh weights (the head's where the rest is pre-trained), order and dropout; one pre-trained run serves
all of them, so that seeds do not tell what another pre-training would give.

--dformerv2 CHECKPOINT: the authors' DFormerv2-S as well, from scratch and from their weights, with its own head and
input convention, at a lower rate of learning, on the same images enlarged to 64 px.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from steps import machine
from torch import Tensor

from pipeline import shards
from training.engine.machine import Machine
from training.runs import load
from training.tasks.segmentation.batch import SegBatch
from training.tasks.segmentation.data import open_labelled, whole
from training.tasks.segmentation.evaluate import evaluate
from training.tasks.segmentation.scores import class_iou, confusion, counts_of
from training.tasks.segmentation.sheet import Sheet

HERE = Path(__file__).parent
MODELS = ("m3ch", "m4ch", "mlin")
FACTS = ("model", "start", "seed")
KINDS = (1, 2)  # seg values of the two kinds of digits
CHANCE = {"overlap_accuracy": 0.5, "overlap_miou": round(1 / 3, 4), "overlap_miou_of_one_answer": 0.25}
STEPS_PER_EPOCH, RESAMPLES = 40, 2000
SIZE_PX = 48
ALIKE = [f"augment.crop=[{SIZE_PX}, {SIZE_PX}]", "augment.scales=[1.0]", "augment.flip=0.0"]
ALIKE += [f"optim.steps_per_epoch={STEPS_PER_EPOCH}", "optim.lr=2e-3", "optim.grad_clip=1.0", "runtime.workers=0"]
# DFormerv2-S has 25 M parameters and a coarsest stride of 32: images are enlarged, in training as in evaluation.
RELATIVE = ["augment.crop=[64, 64]", "augment.scales=[1.34]", "optim.lr=3e-4", "model.inputs=dformer-linear"]
RELATIVE += ["head.width=512", "head.rank=64"]


@dataclass(frozen=True)
class Arm:
    model: str
    init: str | None  # none: from scratch
    steps: int
    seed: int

    @property
    def start(self) -> str:
        return "pre-trained" if self.init else "scratch"

    @property
    def name(self) -> str:
        return f"{self.model}-{self.start}-{self.steps}-seed{self.seed}"


@dataclass(frozen=True)
class Sizes:
    digits: tuple[int, int] = (6000, 1000)
    rooms: tuple[int, int] = (6000, 2000)
    pretrain_epochs: int = 8
    batch: int = 32


def command(module: str, *words: object, log: Path) -> None:
    """Run one of the project's commands."""
    with open(log, "a") as file:
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, words)], stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        tail = "\n".join(log.read_text().splitlines()[-5:])
        sys.exit(f"{module} {words[0]} failed, see {log}:\n{tail}")


def labelled_digits(work: Path, sizes: Sizes) -> Path:
    train, val = sizes.digits
    words = ["--samples", train, "--val-samples", val, "--size", SIZE_PX, "--teacher", "none"]
    command("pipeline.cli", "digits", work / "digits", *words, log=work / "digits.log")
    return work / "digits"


def pretrained_runs(work: Path, models: Sequence[str], device: str, sizes: Sizes) -> dict[str, str]:
    train, val = sizes.rooms
    words = ["--samples", train, "--val-samples", val, "--teacher", "toy", "--device", device]
    command("pipeline.cli", "toyrooms", work / "rooms", *words, log=work / "rooms.log")
    for model in models:
        settings = ["data.depth=pseudo", f"optim.epochs={sizes.pretrain_epochs}", f"runtime.device={device}"]
        command(
            "training.cli", "pretrain", "--preset", "tiny", "--model", model, "--data", work / "rooms",
            "--out", work / f"{model}-pseudo", "--resume", *set_(settings), log=work / f"{model}-pseudo.log",
        )  # fmt: skip
    return {model: str(work / f"{model}-pseudo") for model in models}


def set_(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def fine_tuned(arm: Arm, data: Path, work: Path, device: str, sizes: Sizes) -> Path:
    epochs = arm.steps // STEPS_PER_EPOCH
    settings = [*ALIKE, f"optim.epochs={epochs}", f"select.every={epochs}", f"seed={arm.seed}"]
    settings += [f"optim.batch_size={sizes.batch}", f"runtime.device={device}"]
    words: list[object] = [] if arm.init and arm.model in MODELS else ["--model", arm.model]
    if arm.init:
        words += ["--init", arm.init]
    if arm.model in MODELS:
        words += ["--head", "pyramid"]
    else:
        settings += RELATIVE
    out = work / arm.name
    command(
        "training.cli", "finetune", "--preset", "tiny", "--data", data, "--depth", "exact", "--out", out,
        "--select", "best-on-test", "--resume", *words, *set_(settings), log=work / f"{arm.name}.log",
    )  # fmt: skip
    return out


# --------------------------------------------------------------------------------------------------------------- score


class OverlapCounts:
    """`look` of an evaluation: what is said where both digits are, and where one is alone, image by image."""

    def __init__(self, split: shards.Split) -> None:
        self.split = split
        self.images: list[NDArray[np.int64]] = []  # (labels, labels) of overlap pixels; rows are labels
        self.alone: list[NDArray[np.int64]] = []  # the same of pixels of one digit alone

    def look(self, batch: SegBatch, predicted: Tensor) -> None:
        for place in range(len(batch.keys)):
            facts = self.split.members(batch.first + place, ("json",)).decode("json")
            overlap = torch.from_numpy(shards.mask_of(facts["overlap"], tuple(batch.label.shape[1:])))
            alone = ~overlap & (batch.label[place] > 0)
            for pixels, images in ((overlap, self.images), (alone, self.alone)):
                label = torch.where(pixels, batch.label[place], shards.VOID)
                images.append(confusion(predicted[place], label, 1 + max(KINDS)))

    def scores(self) -> dict[str, Any]:
        counts = np.stack([counts_of(image) for image in self.images])  # (images, labels, 3)
        pixels = np.array([[np.trace(image), image.sum()] for image in self.images])
        draws = np.random.default_rng(0).integers(len(pixels), size=(RESAMPLES, len(pixels)))
        accuracy = pixels[draws].sum(1)
        resampled = {
            "overlap_accuracy": accuracy[:, 0] / accuracy[:, 1],
            "overlap_miou": np.array([kinds_iou(counts[draw]) for draw in draws]),
        }
        own = {"overlap_accuracy": pixels[:, 0].sum() / pixels[:, 1].sum(), "overlap_miou": kinds_iou(counts)}
        rows: dict[str, Any] = {}
        for name, value in own.items():
            low, high = np.percentile(resampled[name], (2.5, 97.5))
            rows |= {name: round(float(value), 4), f"{name}_95": [round(float(low), 4), round(float(high), 4)]}
        alone = sum(self.alone)
        return rows | {"alone_accuracy": round(float(np.trace(alone) / alone.sum()), 4)}


def kinds_iou(counts: NDArray[np.int64]) -> float:
    return float(class_iou(counts.sum(0))[list(KINDS)].mean())


def tested(run: Path, data: Path, sheet: Path | None) -> dict[str, Any]:
    loaded = load(run, "best", "train finetune")
    config, model = loaded.task.config, loaded.model
    split = open_labelled(str(data), "val", "exact")
    overlap, shown = OverlapCounts(split), Sheet(list(split.index.seg_names), len(split))
    machine = Machine.here(config)

    def look(batch: SegBatch, predicted: Tensor) -> None:
        overlap.look(batch, predicted)
        shown.look(batch, predicted)

    outcome = evaluate(model.to(machine.device), whole(split), config, "exact", machine, look=look)
    scores = overlap.scores()
    if sheet:
        shown.write(sheet, f"{run.name}: {scores['overlap_accuracy']:.1%} of overlap pixels")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return scores | {
        "miou": round(outcome.single.miou, 4),
        "train_loss": round([line["loss"] for line in lines if line["kind"] == "train"][-1], 4),
        "images_seen": config.optim.epochs * config.optim.steps_per_epoch * config.optim.batch_size,
        "train_seconds": round(lines[-1]["train_seconds"]),
    }


# ---------------------------------------------------------------------------------------------------------------- main


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each model, start and budget: the mean over seeds, and every seed's."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["start"], row["steps"]), []).append(row)
    names = ("overlap_miou", "overlap_accuracy", "alone_accuracy", "miou")
    return [
        {"model": model, "start": start, "steps": steps, "seeds": len(group)}
        | {name: round(float(np.mean([row[name] for row in group])), 4) for name in names}
        | {f"{name}_by_seed": [row[name] for row in group] for name in names[:2]}
        for (model, start, steps), group in groups.items()
    ]


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(
        title=f"overlap pixels of {result['parameters']['digits'][1]:,} images; a coin: mIoU 0.333, pixels 0.500"
    )
    for column in ("model", "start", "steps", "seed", "mIoU", "95 %", "pixels", "95 %", "alone", "whole", "loss"):
        table.add_column(column, no_wrap=True)
    for row in result["measured"]:
        intervals = {
            name: " to ".join(f"{end:.3f}" for end in row[f"{name}_95"])
            for name in ("overlap_miou", "overlap_accuracy")
        }
        table.add_row(
            row["model"], row["start"], f"{row['steps']:,}", str(row["seed"]), f"{row['overlap_miou']:.3f}",
            intervals["overlap_miou"], f"{row['overlap_accuracy']:.3f}", intervals["overlap_accuracy"],
            f"{row['alone_accuracy']:.3f}", f"{row['miou']:.3f}", f"{row['train_loss']:.3f}",
        )  # fmt: skip
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", type=Path, help="folder of runs MODEL-pseudo; by default they are made")
    parser.add_argument("--dformerv2", metavar="CHECKPOINT", help="the authors' DFormerv2-S: one model more")
    parser.add_argument("--models", default=",".join(MODELS), help="some of m3ch,m4ch,mlin")
    parser.add_argument("--steps", default="240,1600", help="budgets of fine-tuning, multiples of 40")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--work", type=Path, help="folder for shards and runs, kept and used again; by default a temporary one"
    )
    parser.add_argument("--quick", action="store_true", help="a few images and steps: does it run? Writes no result")
    parser.add_argument(
        "--add", action="store_true", help="keep what the result has of other models, budgets and seeds"
    )
    parser.add_argument("--out", type=Path, help="by default digits.json or digits-cuda.json beside this file")
    given = parser.parse_args()
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    budgets, seeds, sizes = [int(steps) for steps in given.steps.split(",")], range(given.seeds), Sizes()
    if given.quick:
        budgets, seeds, sizes = [STEPS_PER_EPOCH], range(1), Sizes((96, 16), (128, 16), 1, 16)
    models = given.models.split(",")
    if unknown := set(models) - set(MODELS):
        parser.error(f"--models must be some of {', '.join(MODELS)}, got {min(unknown)}")
    if any(steps % STEPS_PER_EPOCH for steps in budgets):
        parser.error(f"--steps must be multiples of {STEPS_PER_EPOCH}, got {given.steps}")
    out = given.out or HERE / ("digits.json" if device == "cpu" else "digits-cuda.json")
    started, console = time.time(), Console(width=150)
    result: dict[str, Any] = {
        "what": "the kind of the digit on top, on pixels where two digits overlap; fine-tuned with exact depth",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(device),
        "parameters": {
            "batch": sizes.batch, "digits": list(sizes.digits), "size_px": SIZE_PX,
            "pretrained_on": "toy rooms, labelled by the toy teacher", "resamples": RESAMPLES,
        },
        "chance": CHANCE,
        "measured": [],
    }  # fmt: skip
    if given.add and out.exists():
        before = json.loads(out.read_text())
        if before["parameters"] != result["parameters"]:
            parser.error(f"--add: {out} is of other parameters")
        result["measured"] = before["measured"]
    with tempfile.TemporaryDirectory(prefix="digits-") as temporary:
        work = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        data = labelled_digits(work, sizes)
        if given.pretrained:
            inits = {model: str(given.pretrained / f"{model}-pseudo") for model in models}
        else:
            inits = pretrained_runs(work, models, device, sizes)
        if given.dformerv2:
            inits["dformerv2-small"] = given.dformerv2
        arms = [
            Arm(model, start, steps, seed)
            for steps in budgets for seed in seeds for model, init in inits.items() for start in (None, init)
        ]  # fmt: skip
        for arm in arms:
            run = fine_tuned(arm, data, work, device, sizes)
            facts: dict[str, Any] = {"model": arm.model, "start": arm.start, "steps": arm.steps, "seed": arm.seed}
            row = facts | tested(run, data, work / f"{arm.name}.png")
            others = [one for one in result["measured"] if not facts.items() <= one.items()]
            result["measured"] = sorted([*others, row], key=lambda one: (one["steps"], *map(one.get, FACTS)))
            told = f"mIoU {row['overlap_miou']:.3f}, pixels {row['overlap_accuracy']:.3f}"
            console.print(f"{time.time() - started:5.0f} s  {arm.name}: {told}", highlight=False)
            result["summary"] = summary(result["measured"])
            if not given.quick:
                out.write_text(json.dumps(result, indent=1) + "\n")
    result["machine"]["load_at_end"] = round(os.getloadavg()[0], 1)
    if not given.quick:
        out.write_text(json.dumps(result, indent=1) + "\n")
    show(result, console)


if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:  # as the command line sets it; it is read when torch is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    main()
