"""The recipe of fine-tuning as numbers, its schedule, its groups, and what the authors' grouping freezes."""

import itertools

import pytest
import torch
from segments import RELATIVES, VITS, config_of
from torch import nn

from training.config import ConfigError
from training.engine.optim import build_optimizer
from training.models.segmenter import Segmenter
from training.tasks.segmentation.config import FinetuneConfig, resolve, validate
from training.tasks.segmentation.grouping import freeze

EVERY = (*VITS, *RELATIVES)


def nyu(name, *settings, **more):
    return resolve("dformer-nyu", {"name": name}, settings, num_classes=40, **more)


@pytest.mark.parametrize("name", EVERY)
def test_the_nyu_preset_is_the_recipe(name):
    config = nyu(name)
    optim, augment = config.optim, config.augment
    assert (optim.epochs, optim.lr, optim.betas, optim.weight_decay) == (500, 6e-5, (0.9, 0.999), 0.01)
    assert (optim.warmup_epochs, config.schedule.power, optim.grouping, optim.grad_clip) == (10, 0.9, "complete", None)
    per_model = {"dformer-tiny": (8, 100, 0.1), "dformerv2-small": (16, 50, 0.25)}
    batch, steps, drop_path = per_model.get(name, (16, 50, 0.0))
    assert (optim.batch_size, optim.steps_per_epoch) == (batch, steps)
    assert config.model.drop_path == drop_path
    assert (augment.flip, augment.scales, augment.crop) == (0.5, (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), (480, 640))
    assert config.test.scales == (0.5, 0.75, 1.0, 1.25, 1.5)
    assert (config.head.kind, config.head.num_classes, config.head.rank, config.head.dropout) == ("ham", 40, 64, 0.1)
    assert (config.select.rule, config.data.depth) == ("best-on-val", "real")


def test_what_a_preset_says_of_a_model_holds_unless_asked_otherwise(tmp_path):
    """Not the model's own default, which happens to be the same number."""
    odd = str(tmp_path / "odd.toml")
    (tmp_path / "odd.toml").write_text(
        "[augment]\ncrop = [480, 640]\n[models.dformer-tiny.model]\ndrop_path = 0.3\n"
        "[models.dformer-tiny.optim]\nbatch_size = 3\n"
    )
    for model in ({"name": "dformer-tiny"}, {"name": "dformer-tiny", "inputs": "dformer-greys"}):
        config = resolve(odd, model, num_classes=3)
        assert (config.model.drop_path, config.optim.batch_size) == (0.3, 3)
        assert config.model.inputs == model.get("inputs", "z")
    assert resolve(odd, {"name": "dformer-tiny"}, ["model.drop_path=0.2"], num_classes=3).model.drop_path == 0.2
    assert resolve(odd, {"name": "m4ch"}, num_classes=3).optim.batch_size == 16


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.0), (0.02, 1.2e-7), (5, 3e-5), (9.98, 5.988e-5), (10, 6e-5 * 0.98**0.9), (250, 6e-5 * 0.5**0.9),
     (499.98, 6e-5 * (0.02 / 500) ** 0.9), (500, 0.0)],
)  # fmt: skip
def test_golden_learning_rates(epoch, expected):
    config = nyu("m4ch")
    assert config.schedule.rate(config.optim, epoch) == pytest.approx(expected, rel=1e-9, abs=1e-20)


def test_the_learning_rate_changes_every_step():
    config = nyu("m4ch")
    rates = [config.schedule.rate(config.optim, step / config.optim.steps_per_epoch) for step in range(25_000)]
    rising, falling = rates[:500], rates[500:]
    assert all(a < b for a, b in itertools.pairwise(rising)) and all(a > b for a, b in itertools.pairwise(falling))
    assert falling[0] == pytest.approx(6e-5 * 0.98**0.9)


# --- configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_a_config_survives_its_record(name):
    config = config_of(name, "optim.grad_clip=1.0", "seed=3")
    assert validate(config.model_dump(mode="json")) == config
    assert config.study_hash() == config_of(name, "optim.grad_clip=1.0", "seed=3", "runtime.workers=1").study_hash()
    for setting in ("head.width=16", "select.share=0.2", "data.depth=raw", "test.scales=[1.0]", "augment.flip=0"):
        assert config_of(name, setting).study_hash() != config_of(name).study_hash()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("m4ch", ["augment.crop=[100,64]"], "augment.crop must be whole steps of 16 px as m4ch divides images, got"),
        ("dformer-tiny", ["augment.crop=[48,64]"], "augment.crop must be whole steps of 32 px as dformer-tiny"),
        ("dformer-tiny", ["head.kind=linear"], "head.kind must be ham for dformer-tiny, got 'linear'"),
        ("dformerv2-small", ["head.kind=pyramid"], "head.kind must be ham for dformerv2-small, got 'pyramid'"),
        ("m4ch", ["head.kind=fcn"], "head.kind must be 'linear', 'pyramid' or 'ham', got 'fcn'"),
        ("m4ch", ["optim.warmup_epochs=501"], "optim.warmup_epochs must be at most optim.epochs 500, got 501"),
        ("m4ch", ["augment.scales=[]"], "augment.scales"),
        ("m4ch", ["augment.scales=[0.0]"], "augment.scales"),
        ("m4ch", ["select.rule=best"], "select.rule must be 'best-on-val' or 'best-on-test', got 'best'"),
        ("m4ch", ["optim.groping=x"], "did you mean 'optim.grouping'"),
        ("m4ch", ["model.name=mlin"], "use --model"),
        ("dformer-tiny", ["model.dims=[1,2]"], "model.dims"),
    ],
)
def test_mistakes_name_the_key_and_the_fix(name, settings, message):
    with pytest.raises(ConfigError) as caught:
        nyu(name, *settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_presets_and_models_list_what_there_is():
    with pytest.raises(ConfigError, match="--preset must be one of dformer-nyu, tiny, or a TOML file, got 'thesis'"):
        resolve("thesis", {"name": "m4ch"}, num_classes=40)
    with pytest.raises(ConfigError, match=r"--model must be one of m3ch, .*dformer-tiny, dformerv2-small, got 'm9'"):
        resolve("tiny", {"name": "m9"}, num_classes=40)


def test_the_tiny_presets_size_is_that_of_variants_alone():
    assert resolve("tiny", {"name": "m4ch"}, num_classes=6).model.width == 64
    own = {"name": "m4ch", "image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 3}
    assert resolve("tiny", own, num_classes=6).model.width == 24, "a run's own size holds"
    assert resolve("tiny", {"name": "dformer-tiny"}, num_classes=6).model.dims == (32, 64, 128, 256)


# --- groups --------------------------------------------------------------------------------------------------------


def built(config: FinetuneConfig) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(config.model, config.head, config.augment.crop)


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_is_in_one_group_and_one_dimensional_ones_do_not_decay(name):
    config = config_of(name)
    model = built(config)
    groups = {group["weight_decay"]: group["params"] for group in build_optimizer(model, config.optim).param_groups}
    assert groups.keys() == {0.01, 0.0}
    ids = [id(p) for params in groups.values() for p in params]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    fixed = {path for path, p in model.named_parameters() if not p.requires_grad}
    assert all(path.startswith("backbone.fusion.0.") and name == "mdf1" for path in fixed), "its dead tail alone"
    plain = {id(p) for p in groups[0.0]}
    for path, module in model.named_modules():
        norm = isinstance(module, nn.LayerNorm | nn.BatchNorm2d | nn.GroupNorm) or "Norm" in type(module).__name__
        for leaf, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if leaf == "bias" or norm or parameter.ndim <= 1:
                assert id(parameter) in plain, f"{path}.{leaf} decays"
            else:
                assert id(parameter) not in plain, f"{path}.{leaf} does not decay"


def qkv(*blocks):
    return {f"blocks.{block}.attn.qkv.{leaf}" for block in blocks for leaf in ("weight", "bias")}


PLAIN = {"cls_token", "pos_embed", *qkv(0, 1)}
FROZEN = {
    "m3ch": PLAIN,
    "m4ch": PLAIN,
    "mmlp": PLAIN,
    "mlin": PLAIN | {"alpha"},
    "mdf1": {"cls_token", "pos_embed", *qkv(0), "fusion.0.layer_scale_1", "fusion.0.layer_scale_2"},
    "mgem": {"cls_token", "pos_embed", *qkv(0)}
    | {f"fusion.0.attn.cross_attn_{way}.in_proj_{leaf}" for way in ("0_to_1", "1_to_0") for leaf in ("weight", "bias")}
    | {"fusion.0.attn.k_noise.weight", "fusion.0.attn.v_noise.weight"},
    # The last block's depth output is nobody's input, so it has no scales for depth.
    "dformer-tiny": {
        f"stages.{stage}.{block}.layer_scale_{scale}"
        for stage, count in enumerate((1, 2, 1, 2))
        for block in range(count)
        for scale in (("1", "2") if (stage, block) == (3, 1) else ("1", "2", "1_e", "2_e"))
    },
    "dformerv2-small": {
        f"layers.{stage}.blocks.{block}.Geo.weight"
        for stage, count in enumerate((1, 2, 1, 2))
        for block in range(count)
    },
}


@pytest.mark.parametrize("name", EVERY)
def test_the_authors_grouping_freezes_what_is_no_stock_layer(name):
    model = built(config_of(name))
    before = {path for path, p in model.named_parameters() if p.requires_grad}
    frozen = freeze(model)
    after = {path for path, p in model.named_parameters() if p.requires_grad}
    assert set(frozen) == before - after == {f"backbone.{path}" for path in FROZEN[name]}
    assert frozen == [path for path, _ in model.named_parameters() if path in frozen], "in the model's order"
    optimizer = build_optimizer(model, config_of(name).optim)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
