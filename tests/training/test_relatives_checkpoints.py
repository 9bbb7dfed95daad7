"""The DFormer authors' checkpoints: what loads, what is left out or starts fresh, what is refused."""

import argparse
import re
from pathlib import Path

import pytest
import torch
from tiny_relatives import BOTH, DFORMER, DFORMERV2, PUBLISHED, layout, redrawn

from training.models.fusion.m3ch import M3chConfig
from training.models.ham import LightHam
from training.models.relatives.checkpoints import load_authors
from training.models.relatives.dformer import DFormerTinyConfig
from training.models.vit import ModelError


@pytest.mark.parametrize(("kind", "name"), PUBLISHED)
def test_a_checkpoint_of_the_published_layout_loads_whole(kind, name, tmp_path):
    backbone = kind().build()
    head = LightHam(backbone.channels[1:], 40)
    constants = {key: value for key, value in backbone.state_dict().items() if key.endswith((".angle", ".decay"))}
    state = {}
    for part, shapes in layout(name).items():
        for key, shape in shapes.items():
            counts = key.endswith("num_batches_tracked")
            value = torch.tensor(3) if counts else torch.full(shape, 0.5, dtype=torch.float16)
            state[f"{part}.{key}"] = constants.get(key, value)
    torch.save({"model": state, "epoch": 1}, tmp_path / "authors.pth")
    report = load_authors(backbone, head, tmp_path / "authors.pth")
    assert {row.how for row in report.rows} == {"loaded"} and report.note == ""
    parameters = [*backbone.parameters(), *head.parameters()]
    assert sum(row.parameters for row in report.rows) == sum(p.numel() for p in parameters)
    assert all((parameter == 0.5).all() for parameter in parameters)


def model_of(config, num_classes=5):
    backbone = config.build()
    return backbone, LightHam(backbone.channels[1:], num_classes, width=16, rank=4)


def segmentation(config) -> dict[str, torch.Tensor]:
    """What a segmentation checkpoint holds, other numbers than a new model's."""
    backbone, head = (redrawn(module, torch.float32) for module in model_of(config))
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    return state | {f"decode_head.{name}": value for name, value in head.state_dict().items()}


def assert_loaded(state, backbone, head) -> None:
    for prefix, module in (("backbone.", backbone), ("decode_head.", head)):
        for name, value in module.state_dict().items():
            assert torch.equal(value, state[prefix + name]), name


def wrong(state):
    return {name: torch.zeros_like(value) for name, value in state.items()}


@BOTH
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"state": {}}, "iteration": 7},
        lambda state: {"state_dict": wrong(state), "state_dict_ema": state, "args": argparse.Namespace(lr=1.0)},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {name.removeprefix("backbone."): value for name, value in state.items()},
        lambda state: {name.replace("backbone.", "encoder."): value for name, value in state.items()},
        lambda state: {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
    ],
    ids=["bare", "state_dict", "model", "ema", "nested", "module", "no prefix", "encoder", "no counters"],
)
def test_wrappers_and_prefixes(config, wrapped, tmp_path):
    state = segmentation(config)
    torch.save(wrapped(state), tmp_path / "authors.pth")
    backbone, head = model_of(config)
    report = load_authors(backbone, head, tmp_path / "authors.pth")
    assert_loaded(state, backbone, head)
    assert {row.how for row in report.rows} == {"loaded"} and report.note == ""
    parameters = [*backbone.parameters(), *head.parameters()]
    assert sum(row.parameters for row in report.rows) == sum(p.numel() for p in parameters)
    report.table()


@BOTH
def test_pretraining_checkpoints_start_the_backbone_and_say_what_they_leave(config, tmp_path):
    state = segmentation(config)
    held = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    if config is DFORMER:
        held |= {"pred.weight": torch.zeros(3, 24), "pred.bias": torch.zeros(3)}
        held |= {f"stages.3.1.{name}": torch.ones(8) for name in ("layer_scale_1_e", "attn.proj_e.bias")}
        words = [r"the classifier of its pre-training \(2 tensors, pred.bias, ...\)", r"depth output .* \(2 tensors"]
    else:
        held |= {"proj.weight": torch.zeros(9, 16), "norm.running_var": torch.ones(9), "head.bias": torch.zeros(3)}
        held = {name: value for name, value in held.items() if not name.startswith("extra_norms.")}
        words = [r"Left out: the classifier of its pre-training \(3 tensors, head.bias, ...\)"]
    torch.save({"state_dict": held}, tmp_path / "authors.pth.tar")
    backbone, head = model_of(config)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    report = load_authors(backbone, head, tmp_path / "authors.pth.tar")
    for pattern in words:
        assert re.search(pattern, report.note), report.note
    rows = {row.what: row for row in report.rows}
    assert (rows["decode head"].how, rows["decode head"].detail) == ("fresh", "the source has none")
    assert rows["stages"].how == "loaded"
    if config is DFORMERV2:
        assert rows["norms of the maps"].how == "fresh"
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    for name, value in backbone.state_dict().items():
        assert name not in held or torch.equal(value, held[name])


def test_what_segmentation_checkpoints_hold_besides(tmp_path):
    state = segmentation(DFORMER) | {"backbone.norm3.weight": torch.ones(16), "aux_head.conv.bias": torch.zeros(2)}
    torch.save(state, tmp_path / "authors.pth")
    backbone, head = model_of(DFORMER, num_classes=7)
    report = load_authors(backbone, head, tmp_path / "authors.pth")
    classifier = next(row for row in report.rows if row.what == "classifier")
    assert (classifier.how, classifier.detail) == ("fresh", "for 7 classes, the source has one for 5")
    assert "an auxiliary head (1 tensor, aux_head.conv.bias)" in report.note and "never reads (1 tensor" in report.note
    assert "its segmentation head (22 tensors" in load_authors(backbone, None, tmp_path / "authors.pth").note


def test_what_is_allowed_by_name(tmp_path):
    state = segmentation(DFORMERV2) | {"backbone.more.weight": torch.ones(1)}
    del state["decode_head.align.conv.weight"]
    torch.save(state, tmp_path / "authors.pth")
    report = load_authors(*model_of(DFORMERV2), tmp_path / "authors.pth", ["decode_head.align.*"], ["more.*"])
    assert [row.tensors for row in report.rows if row.detail == "missing, as allowed"] == [1]
    assert report.note == "Left out: others, as allowed (1 tensor, more.weight)."


def changed(**changes):
    """A segmentation checkpoint with these weights in place, or without them."""

    def edited(state):
        edits = {name.replace("__", "."): value for name, value in changes.items()}
        return {name: value for name, value in (state | edits).items() if value is not None}

    return edited


SCALE, DECAY = "backbone__stages__1__0__layer_scale_1", "backbone__layers__3__blocks__1__Geo__decay"


@pytest.mark.parametrize(
    ("config", "edited", "complaint"),
    [
        (DFORMER, changed(**{SCALE: None}), r"1 weights missing, 0 unexpected \(first: stages.1.0.layer_scale_1\)"),
        (DFORMER, changed(other=torch.ones(1)), r"0 weights missing, 1 unexpected \(first: other\)"),
        (DFORMER, changed(**{SCALE: torch.ones(9)}), r"layer_scale_1 must have shape \(8,\), got \(9,\)"),
        (DFORMER, changed(**{SCALE: torch.ones(1)}), r"layer_scale_1 must have shape \(8,\), got \(1,\)"),
        (DFORMER, changed(**{SCALE: torch.full((8,), torch.nan)}), "layer_scale_1 must be finite"),
        (DFORMER, changed(pred__bias=torch.ones(3)), r"1 unexpected \(first: pred.bias\)"),
        (
            DFORMER,
            lambda state: segmentation(DFORMERV2),
            r"must hold a DFormer \(w.*, got a DFormerv2 \(widths 8/8/12/16",
        ),
        (
            DFORMERV2,
            lambda state: segmentation(DFORMER),
            r"must hold a DFormerv2 \(.*, got a DFormer \(widths 8/8/12/16",
        ),
        (DFORMER, changed(**{f"backbone__stages__3__2__{n}": torch.ones(1) for n in "ab"}), "depths 1/2/1/3"),
        (DFORMERV2, changed(**{DECAY: torch.tensor([-0.1, -0.2])}), "Geo.decay must be the constants -0.2877, "),
        (DFORMERV2, changed(backbone__extra_norms__0__bias=None), "1 weights missing, 0 unexpected"),
        (DFORMERV2, changed(decode_head__squeeze__bn__weight=None), "1 weights missing, 0 unexpected"),
        (DFORMER, lambda state: {"a": torch.ones(1)}, r"got weights of another kind \(a, ...\)"),
        (DFORMER, lambda state: {f"{p}.a": torch.ones(1) for p in ("module", "backbone")}, "name each weight once"),
        (DFORMER, lambda state: {"model": state, "state_dict": [1]} and [1], "must hold named weights, got list"),
        (DFORMER, lambda state: {"model": {"a": 1}}, "must hold named weights, got int under 'a'"),
        (DFORMER, lambda state: {"model": Path("x")}, "holds Python objects besides weights"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(config, edited, complaint, tmp_path):
    torch.save(edited(segmentation(config)), tmp_path / "authors.pth")
    backbone, head = model_of(config)
    before = {name: value.clone() for name, value in (backbone.state_dict() | head.state_dict()).items()}
    with pytest.raises(ModelError, match=complaint) as caught:
        load_authors(backbone, head, tmp_path / "authors.pth")
    assert "\n" not in str(caught.value) and "authors.pth" in str(caught.value)
    for name, value in (backbone.state_dict() | head.state_dict()).items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    "state",
    [
        lambda: M3chConfig(image_size=32, patch_size=16, width=8, depth=1, heads=1).build().state_dict(),
        lambda: {"class_token": torch.zeros(1, 1, 8), "encoder.pos_embedding": torch.zeros(1, 5, 8)},
    ],
    ids=["timm", "torchvision"],
)
def test_a_plain_vit_is_named(state, tmp_path):
    torch.save(state(), tmp_path / "vit.pth")
    with pytest.raises(ModelError, match=r"must hold a DFormer \(.*\), got a plain Vision Transformer: choose other"):
        load_authors(*model_of(DFORMER), tmp_path / "vit.pth")


def test_published_models_are_named(tmp_path):
    with torch.device("meta"):
        tiny = DFormerTinyConfig().build()
        small = DFormerTinyConfig(dims=(64, 128, 256, 512), depths=(2, 2, 4, 2)).build()
    state = {name: torch.zeros(()).expand(value.shape) for name, value in small.state_dict().items()}
    torch.save(state, tmp_path / "small.pth")
    with pytest.raises(
        ModelError, match=r"must hold DFormer-Tiny \(widths 32/64/128/256.*, got DFormer-Small \(widths 64"
    ):
        load_authors(tiny, None, tmp_path / "small.pth")


def test_there_must_be_a_file(tmp_path):
    with pytest.raises(ModelError, match="must be a file of the DFormer authors' weights, got nothing there"):
        load_authors(*model_of(DFORMER), tmp_path / "no.pth")
    (tmp_path / "torn.pth").write_bytes(b"torn")
    with pytest.raises(ModelError, match="damaged or no weights file"):
        load_authors(*model_of(DFORMER), tmp_path / "torn.pth")
