import itertools
import json

import pytest
import torch

from training.config import ConfigError, CosineSchedule, OptimConfig
from training.engine.optim import build_optimizer
from training.models.registry import MONIKERS
from training.tasks.classification.config import resolve, validate


def test_thesis_preset_is_the_papers_recipe():
    config = resolve("thesis", "mlin")
    assert (config.optim.epochs, config.optim.batch_size, config.optim.lr) == (300, 192, 1e-3)
    assert config.model.patch_depth == "center4"
    assert (config.augment.cutmix_alpha, config.augment.mixup_alpha) == (1.0, 0.8)
    assert len(config.runtime.snapshot_epochs) == 32


def rate(config, epoch):
    return config.schedule.rate(config.optim, epoch)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1e-5), (10, 1e-3), (299, 1.03e-6)])
def test_golden_learning_rates(epoch, expected):
    config = resolve("thesis", "m3ch")
    assert rate(config, epoch) == pytest.approx(expected, rel=2e-3)
    assert rate(config, epoch + 0.99) == rate(config, epoch)  # steps once an epoch


def test_the_cosine_is_pytorchs():
    optim, ours = OptimConfig(epochs=12, warmup_epochs=4, lr=0.5), CosineSchedule(min_lr=0.1, warmup_factor=0.2)
    stepped = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    rising = torch.optim.lr_scheduler.LinearLR(stepped, 0.2, total_iters=4)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(stepped, 8, eta_min=0.1)
    theirs = torch.optim.lr_scheduler.SequentialLR(stepped, [rising, falling], [4])
    for epoch in range(13):
        assert ours.rate(optim, epoch) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6)
        stepped.step()
        theirs.step()


def test_learning_rate_per_step_is_smooth():
    optim, schedule = OptimConfig(epochs=10, warmup_epochs=2), CosineSchedule()
    rates = [schedule.rate(optim, i / 10) for i in range(101)]
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.06 * optim.lr
    assert rates[100] == pytest.approx(schedule.min_lr)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optim.epoch=1"], "unknown key 'optim.epoch': did you mean 'optim.epochs'"),
        (["optin.lr=1"], "did you mean 'optim.lr'"),
        (["model.widht=64"], "did you mean 'model.width'"),
        (["model.patch_depth=mean"], "unknown key 'model.patch_depth'"),
        (["optim.lr=fast"], "optim.lr"),
        (["optim.lr"], "--set takes section.key=value"),
        (["seed.x=1"], "seed"),
        (["model.width=65"], "must be a multiple of heads"),
        (["model.image_size=60"], "must be a multiple of patch_size"),
        (["data.depth=Fake/x"], "data.depth"),
        (["optim.min_lr=1e-5"], "unknown key 'optim.min_lr': did you mean 'schedule.min_lr'"),
        (["schedule.power=2"], "unknown key 'schedule.power'"),
        (["model.name=mlin"], "use --model"),
        (["augment.crop_scale=[1.0, 0.1]"], "augment.crop_scale"),
        (["optim.betas=[2, 3]"], "optim.betas"),
        (["optim.lr=inf"], "optim.lr must be a finite number"),
        (["seed=99999999999999999999"], "seed"),
        (["augment.mixup_alpha=1.0", "augment.mix_group=7"], "must be a multiple of augment.mix_group"),
    ],
)
def test_mistakes_name_the_key_and_the_fix(settings, message):
    with pytest.raises(ConfigError) as caught:
        resolve("tiny", "m3ch", settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


ONE_BY_ONE = "would replace the whole section, got "


@pytest.mark.parametrize(
    ("model", "setting", "message"),
    [
        ("m3ch", "optim.lr=1e300", "optim.lr must be less than or equal to 100, got 1e+300"),
        ("m3ch", "optim.lr=true", "optim.lr must be a valid number, got True"),
        ("m3ch", "schedule.min_lr=1e300", "schedule.min_lr must be less than or equal to 100, got 1e+300"),
        ("m3ch", "optim.weight_decay=1e300", "optim.weight_decay must be less than or equal to 100, got 1e+300"),
        ("m3ch", f"optim.epochs={10**30}", f"optim.epochs must be less than or equal to 1000000, got {10**30}"),
        ("m3ch", "optim.epochs=" + "9" * 5000, "optim.epochs must be a valid integer, got '9999"),
        ("m3ch", "optim.lr=" + "[" * 5000, "optim.lr must be a valid number, got '[[[["),
        ("m3ch", "optim.lr=0.1\nepochs=2", r"optim.lr must be a valid number, got '0.1\nepochs=2'"),
        ("m3ch", "augment.crop_ratio=[1e300, 1e308]", "augment.crop_ratio.0 must be less than or equal to 100, got 1e"),
        ("m3ch", "augment.crop_ratio=[0, 1]", "augment.crop_ratio.0 must be greater than or equal to 0.01, got 0"),
        ("m3ch", "augment.crop_ratio=[2, 1]", "augment.crop_ratio must be two rising numbers, got (2.0, 1.0)"),
        ("m3ch", "augment.crop_ratio=[1]", "augment.crop_ratio.1 must be given, got [1]"),
        ("m3ch", "augment.crop_ratio=[1, 2, 3]", "augment.crop_ratio must have at most 2 items"),
        ("m3ch", "augment.rand_augment_ops=99999999999", "augment.rand_augment_ops must be less than or equal to 16"),
        ("m3ch", "augment.eval_crop=1e-9", "augment.eval_crop must be greater than or equal to 0.05, got 1e-09"),
        ("m3ch", "augment.mixup_alpha=1e300", "augment.mixup_alpha must be less than or equal to 1000, got 1e+300"),
        ("m3ch", "runtime.workers=2000000", "runtime.workers must be less than or equal to 1024, got 2000000"),
        ("m3ch", "runtime.snapshot_epochs=[-1, 99]", "runtime.snapshot_epochs.0 must be greater than or equal to 0"),
        ("m3ch", "runtime.snapshot_epochs=[0, true]", "runtime.snapshot_epochs.1 must be a valid integer, got True"),
        ("m3ch", "runtime.micro_batch=true", "runtime.micro_batch must be a valid integer, got True"),
        ("m3ch", "runtime.compile=1", "runtime.compile must be a valid boolean, got 1"),
        ("m3ch", "seed=true", "seed must be a valid integer, got True"),
        ("m3ch", "data.teacher_stats=[0, 0]", "data.teacher_stats.1 must be greater than or equal to 0.000001, got 0"),
        ("m3ch", "model.width=1e9", "model.width must be a valid integer, got 1000000000.0"),
        ("m3ch", "model.width=1000000000", "model.width must be less than or equal to 65536, got 1000000000"),
        ("m3ch", "model.width=true", "model.width must be a valid integer, got True"),
        ("m3ch", "model.depth=100000", "model.depth must be less than or equal to 1024, got 100000"),
        ("m3ch", "model.image_size=160000", "model.image_size must be less than or equal to 16384, got 160000"),
        ("m3ch", "model.mlp_ratio=1000", "model.mlp_ratio must be less than or equal to 64, got 1000"),
        ("m3ch", "model.num_classes=10000000000", "model.num_classes must be less than or equal to 10000000, got"),
        ("mlin", "model.initial_value=inf", "model.initial_value must be a finite number, got inf"),
        ("mlin", "model.initial_value=nan", "model.initial_value must be a finite number, got nan"),
        ("mmlp", "model.initial_value=0", "model.initial_value must be greater than or equal to 0.001, got 0"),
        ("mlin", "model.initial_value=60", "model.initial_value must be less than or equal to 24, got 60"),
        ("mmlp", "model.decay_range=-1", "model.decay_range must be greater than or equal to 0, got -1"),
        ("mdf1", "model.layer_scale=1e300", "model.layer_scale must be less than or equal to 100, got 1e+300"),
        ("mdf1", "model.pooled_grid=true", "model.pooled_grid must be a valid integer, got True"),
        ("m3ch", "optim={lr=3}", f"--set optim {ONE_BY_ONE}{{'lr': 3}}: set its keys one by one, as --set optim.lr="),
        ("m3ch", "optim=[1]", f"--set optim {ONE_BY_ONE}[1]: set its keys one by one, as --set optim.epochs=VALUE"),
        ("mlin", "model={width=8}", f"--set model {ONE_BY_ONE}{{'width': 8}}: set its keys one by one, as --set model"),
        ("m3ch", "runtime=3", f"--set runtime {ONE_BY_ONE}3"),
        ("m3ch", "seed={a=1}", "seed must be a valid integer, got {'a': 1}"),
        ("m3ch", "data.teacher=[1]", "data.teacher must be a valid string, got [1]"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused_in_one_line(model, setting, message):
    with pytest.raises(ConfigError) as caught:
        resolve("tiny", model, [setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("initial_value", "decay_range"), [(0.001, 0.0), (0.001, 24.0), (24.0, 0.0), (24.0, 24.0)])
def test_every_allowed_decay_is_negative_and_finite(initial_value, decay_range):
    settings = [f"model.initial_value={initial_value}", f"model.decay_range={decay_range}"]
    for moniker in ("mlin", "mmlp"):
        scale = resolve("tiny", moniker, settings, num_classes=5).model.build().head_scale
        assert (scale < 0).all() and scale.isfinite().all()


@pytest.mark.parametrize("preset", ["modern", "thesis", "tiny"])
def test_a_config_survives_its_record(preset):
    """Records hold plain JSON: lists for tuples."""
    for moniker in MONIKERS:
        config = resolve(preset, moniker, ["optim.lr=1", "runtime.loggers=['wandb']"])
        assert validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_unknown_preset_and_model_list_what_there_is():
    with pytest.raises(ConfigError, match="thesis, tiny"):
        resolve("huge", "m3ch")
    with pytest.raises(ConfigError, match="m3ch, mlin, "):
        resolve("tiny", "m5ch")


def test_study_hash_covers_all_but_runtime():
    base = resolve("tiny", "m4ch").study_hash()
    assert resolve("tiny", "m4ch", ["runtime.workers=7"]).study_hash() == base
    for setting in ("seed=1", "optim.lr=3e-3", "data.depth=real", "augment.flip=0.1", "model.width=32"):
        assert resolve("tiny", "m4ch", [setting]).study_hash() != base


def test_optimizer_holds_every_parameter_once():
    model = resolve("tiny", "mlin", num_classes=5).model.build()
    for decay_1d, undecayed in ((True, 0), (False, sum(p.ndim < 2 for p in model.parameters()))):
        optimizer = build_optimizer(model, OptimConfig(decay_1d=decay_1d))
        plain = [p for g in optimizer.param_groups if g["weight_decay"] == 0 for p in g["params"]]
        assert len(plain) == undecayed
        assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    frozen = resolve("tiny", "m3ch", num_classes=5).model.build()
    frozen.cls_token.requires_grad_(False)
    held = {id(p) for g in build_optimizer(frozen, OptimConfig()).param_groups for p in g["params"]}
    assert id(frozen.cls_token) not in held
    assert isinstance(frozen.cls_token, torch.nn.Parameter)
