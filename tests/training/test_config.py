import itertools

import pytest
import torch

from training.config import ConfigError, OptimConfig, resolve
from training.optim import build_optimizer, learning_rate


def test_thesis_preset_is_the_papers_recipe():
    config = resolve("thesis", "mlin")
    assert (config.optim.epochs, config.optim.batch_size, config.optim.lr) == (300, 192, 1e-3)
    assert config.model.patch_depth == "center4"
    assert (config.augment.cutmix_alpha, config.augment.mixup_alpha) == (1.0, 0.8)
    assert len(config.runtime.snapshot_epochs) == 32


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1e-5), (10, 1e-3), (299, 1.03e-6)])
def test_golden_learning_rates(epoch, expected):
    config = resolve("thesis", "m3ch").optim
    assert learning_rate(config, epoch) == pytest.approx(expected, rel=2e-3)
    assert learning_rate(config, epoch + 0.99) == learning_rate(config, epoch)  # steps once an epoch


def test_learning_rate_per_step_is_smooth():
    config = OptimConfig(epochs=10, warmup_epochs=2, schedule="step")
    rates = [learning_rate(config, i / 10) for i in range(101)]
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.06 * config.lr
    assert rates[100] == pytest.approx(config.min_lr)


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
        (["data.depth=fake"], "data.depth must be 'pseudo', 'real', 'raw', 'exact' or 'online', got 'fake'"),
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
