"""A step of training by itself: a golden run of twenty, and what accumulation is made of."""

import shutil
from itertools import islice

import pytest
import torch

from training.engine.machine import Machine
from training.engine.optim import WeightAverage
from training.engine.share import Share
from training.engine.step import NonFinite, TrainingStep
from training.tasks.classification.config import resolve
from training.tasks.classification.data import open_shards, train_loader
from training.tasks.classification.task import PreTraining

# Changes whenever order, augmentation, initialisation, model, loss or optimizer do. A change that means to change none
# of them must leave these numbers alone; one that means to says why, and puts the new ones here.
GOLDEN = {
    "m3ch": [1.7953, 1.7986, 1.7720, 1.8098],
    "mlin": [1.7961, 1.7959, 1.7693, 1.7974],
    "mmlp": [1.7962, 1.7957, 1.7698, 1.7974],
    "m4ch": [1.8007, 1.8126, 1.7593, 1.7630],
    "mdf1": [1.8056, 1.7905, 1.7600, 1.7764],
    "mgem": [1.7916, 1.8043, 1.7259, 1.7559],
}


def begun(rooms, moniker, *settings, kind=PreTraining):
    chosen = ("data.depth=raw", "optim.batch_size=32", "optim.epochs=8", "model.width=32", "model.depth=3",
              "runtime.workers=0", "runtime.device=cpu", "augment.rand_augment_ops=2", "augment.mixup_alpha=0.8",
              "augment.cutmix_alpha=1.0", "augment.mix_group=16")  # fmt: skip
    config = resolve("tiny", moniker, [*chosen, *settings], num_classes=6)
    split, share = open_shards(rooms, "train", "raw"), Share.of(config)
    torch.manual_seed(0)
    task = kind(config)
    step = TrainingStep(task, task.build(), Machine.here(config), share)
    return step, train_loader(split, config, share, 0, 20)


def losses(rooms, moniker, *settings, steps=20):
    step, loader = begun(rooms, moniker, *settings)
    return [step(islice(loader, step.share.pieces), number, 1 + number / 10).loss for number in range(steps)]


@pytest.mark.parametrize("moniker", ["m3ch", "mlin", "mmlp", "m4ch", "mdf1", "mgem"])
def test_golden_losses_of_twenty_steps(rooms, moniker):
    assert losses(rooms, moniker)[4::5] == pytest.approx(GOLDEN[moniker], rel=5e-4)


def test_label_smoothing_spreads_its_share_over_all_classes():
    task = PreTraining(resolve("tiny", "m3ch", ["optim.label_smoothing=0.2"], num_classes=4))
    logits = torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.0, 3.0, 0.0, 1.0]])
    target = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.3, 0.7, 0.0]])  # of one class, and mixed
    seen = torch.zeros(2, 1, 1, 1)
    literal = -((0.8 * target + 0.2 / 4) * logits.log_softmax(1)).sum()
    torch.testing.assert_close(task.loss(lambda rgb, depth: logits, seen, seen, target), literal)


class Factored(PreTraining):
    """The first block at a tenth of the rate, and a warm-up of its own length."""

    @property
    def rate_factors(self):
        return {"blocks.0": 0.1}

    @property
    def warmup_epochs(self):
        return 2.0


@pytest.mark.parametrize(
    ("epoch", "rates"),
    [(0, (1e-5, 1e-6)), (1, (5.05e-4, 5.05e-5)), (2, (1e-3, 1e-4)), (5, (5.05e-4, 5.5e-5)), (8, (1e-5, 1e-5))],
)
def test_a_part_has_its_own_rate_and_the_lowest_is_the_same_for_all(rooms, epoch, rates):
    """From a hundredth of either peak, 1e-3 and 1e-4, in two epochs; then to 1e-5, at 5 of 8 half way there."""
    step, loader = begun(rooms, "m3ch", "optim.lr=1e-3", "schedule.min_lr=1e-5", "optim.warmup_epochs=1", kind=Factored)
    names = {id(weight): name for name, weight in step.model.named_parameters()}
    step(islice(loader, 1), 0, epoch)
    found = {names[id(p)]: group["lr"] for group in step.optimizer.param_groups for p in group["params"]}
    assert found.keys() == set(names.values())
    for name, rate in found.items():
        assert rate == pytest.approx(rates[name.startswith("blocks.0.")]), name
    assert step.lr == pytest.approx(rates[0]), "what metrics tell is the rate of what has no factor"
    decayed = {names[id(p)] for group in step.optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {name for name, weight in step.model.named_parameters() if weight.ndim > 1}


def test_factors_add_groups_and_nothing_else_to_a_checkpoint(rooms):
    plain, _ = begun(rooms, "m3ch")
    torchs = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], fused=True).state_dict()["param_groups"][0]
    for step, count in ((plain, 2), (begun(rooms, "m3ch", kind=Factored)[0], 4)):
        groups = step.state()["optimizer"]["param_groups"]
        assert len(groups) == count
        assert all(group.keys() == torchs.keys() for group in groups)
    assert [id(p) for p in plain.optimizer.param_groups[0]["params"]] == [
        id(p) for p in plain.model.parameters() if p.ndim > 1
    ], "in the order of the model"


def test_averaged_weights_warm_up_and_statistics_are_the_models_own():
    """timm's rule: after step n the average keeps a share min(decay, (1 + n) / (10 + n)) of itself."""
    model = torch.nn.BatchNorm1d(1)
    average = WeightAverage(model, 0.9)
    expected = 1.0
    for step, weight, kept in ((1, 5.0, 2 / 11), (2, -3.0, 3 / 12), (79, 2.0, 80 / 89), (500, 7.0, 0.9)):
        model.weight.data.fill_(weight)
        model.running_mean.fill_(weight)
        average.update(model, step)
        expected = kept * expected + (1 - kept) * weight
        assert average.model.weight.item() == pytest.approx(expected, rel=1e-5)
        assert average.model.running_mean.item() == weight
    assert not average.model.weight.requires_grad


def test_pieces_and_micro_batches_add_up_to_the_whole(rooms):
    whole = losses(rooms, "m4ch", steps=4)
    for micro_batch in (4, 16):
        parts = losses(rooms, "m4ch", f"runtime.micro_batch={micro_batch}", steps=4)
        assert parts == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("spoiled", ["gradient", "loss"])
def test_what_is_no_number_changes_no_weight(rooms, spoiled):
    step, loader = begun(rooms, "mlin", "optim.ema_decay=0.9")
    step(islice(loader, 1), 0, 1.0)
    before = {name: value.clone() for name, value in step.state()["model"].items()}
    if spoiled == "gradient":
        step.model.cls_token.register_hook(lambda gradient: gradient * torch.inf)
    else:
        step.model.head.register_forward_hook(lambda module, given, logits: logits * torch.nan)
    batch = next(loader)
    with pytest.raises(NonFinite, match=f"non-finite {spoiled} at step 1 before the update") as caught:
        step([batch], 1, 1.0)
    assert all(key in str(caught.value) for key in batch.keys[:8])
    for name, value in step.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_bf16_trains_as_fp32_does_to_its_precision(rooms):
    for moniker in ("mlin", "mmlp", "mgem"):
        exact, rounded = (losses(rooms, moniker, f"runtime.precision={kind}", steps=6) for kind in ("fp32", "bf16"))
        assert rounded == pytest.approx(exact, rel=5e-3)
        assert rounded != exact


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="Inductor needs a C++ compiler")
def test_a_compiled_run_is_the_same_run(rooms):
    step, loader = begun(rooms, "mlin", "runtime.compile=true")
    assert not any("_orig_mod" in name for name in step.state()["model"])
    compiled = [step(islice(loader, 1), number, 1 + number / 10).loss for number in range(4)]
    assert compiled == pytest.approx(losses(rooms, "mlin", steps=4), rel=1e-4)
