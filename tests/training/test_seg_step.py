"""A step of fine-tuning: the loss is a mean over labelled pixels of the global batch, zero where there are none."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest
import torch
from segments import config_of

from pipeline import shards
from training.engine.machine import Machine
from training.engine.ranks import Ranks
from training.engine.share import Share
from training.engine.step import TrainingStep
from training.tasks.segmentation.batch import SegBatch
from training.tasks.segmentation.data import open_labelled, train_loader, whole
from training.tasks.segmentation.grouping import freeze
from training.tasks.segmentation.samples import model_inputs
from training.tasks.segmentation.task import FineTuning

CROP = (32, 48)


def batch_of(labels: torch.Tensor, seed: int = 0) -> SegBatch:
    generator = torch.Generator().manual_seed(seed)
    count, height, width = labels.shape
    rgb = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    depth = torch.randn(count, 1, height, width, generator=generator)
    depth[:, :, :5] = torch.nan
    inside = torch.tensor([[0, 0, height, width]]).expand(count, 4)
    return SegBatch(rgb, depth, labels.to(torch.uint8), inside, [f"s{seed}-{k}" for k in range(count)])


def mostly_void() -> torch.Tensor:
    """Four images: one all labelled, one void, one with nine pixels, one half."""
    labels = torch.randint(0, 5, (4, *CROP), generator=torch.Generator().manual_seed(3))
    labels[1] = shards.VOID
    labels[2] = shards.VOID
    labels[2, :3, :3] = 4
    labels[3, :, 24:] = shards.VOID
    return labels


def parts(batch: SegBatch, size: int) -> list[SegBatch]:
    places = [slice(start, start + size) for start in range(0, len(batch.keys), size)]
    return [
        SegBatch(batch.rgb[p], batch.depth[p], batch.label[p], batch.inside[p], batch.keys[p], batch.first)
        for p in places
    ]


def step_of(name="m4ch", head="linear", batch_size=4, ranks=Ranks(), *settings, **share):
    config = config_of(name, f"augment.crop={list(CROP)}", f"optim.batch_size={batch_size}", *settings, head=head)
    torch.manual_seed(0)
    task = FineTuning(config)
    return TrainingStep(task, task.build(), Machine.here(config, ranks), Share.of(config, ranks.rank, ranks.world_size))


def gradients(step: TrainingStep) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in step.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("head", ["linear", "pyramid", "ham"])
def test_a_batch_without_labels_has_no_loss_and_no_gradient(head):
    step = step_of(head=head)
    done = step([batch_of(torch.full((4, *CROP), shards.VOID))], 0, 1.0)
    assert (done.loss, done.grad_norm) == (0.0, 0.0)
    assert all((g == 0).all() for g in gradients(step).values())
    assert all(p.isfinite().all() for p in step.model.parameters())


def test_the_loss_is_the_mean_over_labelled_pixels():
    step, batch = step_of(), batch_of(mostly_void())
    rgb, depth = model_inputs(batch, step.config)
    logits = step.model(rgb, depth)
    valid = batch.label != shards.VOID
    assert int(valid.sum()) == 32 * 48 + 9 + 32 * 24
    literal = torch.stack([
        -logits[i, :, r, c].log_softmax(0)[int(batch.label[i, r, c])] for i, r, c in valid.nonzero().tolist()
    ]).mean()  # fmt: skip
    expected = torch.autograd.grad(literal, step.model.decode_head.classify.weight)[0]
    done = step([batch], 0, 0.0)  # at epoch 0 the rate is 0: the weights stay
    assert done.loss == pytest.approx(literal.item(), rel=1e-5)
    torch.testing.assert_close(gradients(step)["decode_head.classify.weight"], expected, rtol=1e-4, atol=1e-6)


def test_a_model_at_epoch_zero_stays_where_it_is_and_moves_later():
    step = step_of()
    before = {name: p.clone() for name, p in step.model.named_parameters()}
    step([batch_of(mostly_void())], 0, 0.0)
    assert all(torch.equal(p, before[name]) for name, p in step.model.named_parameters())
    step([batch_of(mostly_void())], 1, 0.1)
    assert not torch.equal(step.model.decode_head.classify.weight, before["decode_head.classify.weight"])


@pytest.mark.parametrize("how", ["pieces of one", "pieces of two", "micro-batches"])
def test_accumulation_is_the_whole_however_the_labels_lie(how):
    batch, settings = batch_of(mostly_void()), ()
    pieces = {"pieces of one": parts(batch, 1), "pieces of two": parts(batch, 2)}.get(how, [batch])
    if how == "micro-batches":
        settings = ("runtime.micro_batch=1",)
    whole_step, other = step_of(), step_of("m4ch", "linear", 4, Ranks(), *settings)
    expected = whole_step([batch], 0, 0.0)
    found = other(iter(pieces), 0, 0.0)
    assert (found.loss, found.grad_norm) == pytest.approx((expected.loss, expected.grad_norm), rel=1e-4)
    for name, gradient in gradients(whole_step).items():
        torch.testing.assert_close(gradients(other)[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["mlin", "mdf1", "dformer-tiny", "dformerv2-small"])
def test_training_lowers_the_loss_and_is_deterministic(rooms: Path, name):
    """Dropout, drop path and random bases too: a step's randomness follows from the seed and its number."""
    losses = []
    for attempt in range(2):
        config = config_of(name, "augment.crop=[32,32]", "augment.scales=[1.0]", "optim.batch_size=8", "optim.lr=1e-2",
                           "optim.epochs=500", "optim.warmup_epochs=0",
                           num_classes=9, depth="raw")  # fmt: skip
        share = Share.of(config)
        torch.manual_seed(0)
        task = FineTuning(config)
        step = TrainingStep(task, task.build(), Machine.here(config), share)
        loader = train_loader(whole(open_labelled(rooms, "train", "raw")), config, share, 0, 8)
        torch.manual_seed(attempt)  # what was drawn before does not matter
        losses.append([step(islice(loader, 1), number, 1 + number / 10).loss for number in range(8)])
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


def test_frozen_weights_stay_and_the_others_move():
    step = step_of("mlin", "ham")
    before = {name: p.clone() for name, p in step.model.named_parameters()}
    frozen = freeze(step.model)
    step = TrainingStep(step.task, step.model, Machine.here(step.config), step.share)
    for number in range(2):
        step([batch_of(mostly_void(), number)], number, 1.0)
    for name, parameter in step.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in frozen), name


@dataclass(frozen=True)
class _Meeting(Ranks):
    """Ranks that are threads of this process, without the averaging of gradients."""

    world_size: int = 2
    told: dict[int, torch.Tensor] = field(default_factory=dict)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=60))

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        self.told[self.rank] = values.clone()
        self.barrier.wait()
        values.copy_(torch.stack([self.told[rank] for rank in range(2)]).mean(0))
        self.barrier.wait()
        return values


def stem_statistics(step: TrainingStep) -> list[torch.Tensor]:
    """Of the batch norms that come before anything random."""
    norms = [m for m in step.model.backbone.downsample_layers[0] if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    return [statistics.clone() for norm in norms for statistics in (norm.running_mean, norm.running_var)]


def test_batch_norms_statistics_are_averaged_over_ranks(monkeypatch):
    monkeypatch.setattr("training.engine.step.DistributedDataParallel", lambda model, *rest, **more: model)
    batches = [batch_of(torch.randint(0, 5, (2, 32, 64)), seed) for seed in range(2)]

    def seen(step: TrainingStep, batch: SegBatch) -> Sequence[torch.Tensor]:
        step([batch], 0, 0.0)
        return stem_statistics(step)

    of_32 = "augment.crop=[32,64]"
    alone = [seen(step_of("dformer-tiny", "ham", 2, Ranks(), of_32), batch) for batch in batches]
    first = _Meeting(rank=0)
    steps = [
        step_of("dformer-tiny", "ham", 4, ranks, of_32)
        for ranks in (first, _Meeting(rank=1, told=first.told, barrier=first.barrier))
    ]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(seen, steps, batches))
    for one, other, ours, theirs in zip(*alone, *together, strict=True):
        assert not torch.equal(one, other)
        torch.testing.assert_close(ours, (one + other) / 2)
        assert torch.equal(ours, theirs)
