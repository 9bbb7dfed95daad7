"""Weights from elsewhere: the same logits, every variant from each source, and one line where it cannot be."""

import argparse
import io
import json
import math
import os
import pickle
import zipfile
from functools import partial

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from training import export
from training.engine import checkpoint
from training.models.pretrained import load
from training.models.registry import MONIKERS
from training.models.vit import ModelError
from training.records import study_hash
from training.tasks.classification.config import resolve
from training.weights import initialise, weights_of_timm

TINY = ("model.image_size=32", "model.width=24", "model.depth=2", "model.heads=3")


def tiny(moniker: str, *settings: str, num_classes=5):
    return resolve("tiny", moniker, [*TINY, *settings], num_classes).model


def redrawn(model: nn.Module, seed=0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def inputs(size=32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, size, size, generator=generator), torch.randn(2, 1, size, size, generator=generator)


def torchvision_vit(**changes):
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 24, "mlp_dim": 96}
    return redrawn(torchvision.models.VisionTransformer(**sizes | {"num_classes": 5} | changes))


def timm_vit(**changes):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    return redrawn(timm.models.VisionTransformer(**sizes | changes))


BUILDERS = {"torchvision": torchvision_vit, "timm": timm_vit}


@pytest.fixture(params=BUILDERS)
def source(request, tmp_path):
    """A public model and the file of its weights."""
    model = BUILDERS[request.param]()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    return model, str(tmp_path / "weights.pth")


def how_of(report) -> dict[str, set[str]]:
    how: dict[str, set[str]] = {}
    for row in report.rows:
        how.setdefault(row.what, set()).add(row.how)
    return how


def test_same_logits(source):
    theirs, file = source
    ours = tiny("m3ch").build()
    report = initialise(ours, file)
    rgb, depth = inputs()
    torch.testing.assert_close(ours(rgb, depth), theirs(rgb), rtol=1e-5, atol=1e-5)
    assert {row.how for row in report.rows} == {"loaded"}
    assert sum(row.parameters for row in report.rows) == sum(p.numel() for p in ours.parameters())
    assert sum(row.tensors for row in report.rows) == len(ours.state_dict())
    assert len(report.sha256) == 64


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [partial(timm.create_model, "vit_base_patch16_224", pretrained=False), torchvision.models.vit_b_16],
    ids=["timm", "torchvision"],
)
def test_same_logits_at_full_size(build, tmp_path):
    with torch.device("meta"):
        theirs, ours = build(), resolve("thesis", "m3ch").model.build()
    theirs, ours = theirs.to_empty(device="cpu").eval(), ours.to_empty(device="cpu").eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(float(parameter.ndim == 1), 0.05)
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    initialise(ours, str(tmp_path / "weights.safetensors"))
    rgb, depth = inputs(224)
    with torch.inference_mode():
        expected = theirs(rgb)
        torch.testing.assert_close(ours(rgb, depth), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("moniker", MONIKERS)
def test_every_variant_starts_from_any_plain_vit(moniker, source):
    _, file = source
    model = tiny(moniker).build()
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    how = how_of(initialise(model, file))
    state = model.state_dict()
    changed = {name for name, value in state.items() if not torch.equal(value, fresh[name])}
    two_branches = moniker in ("mdf1", "mgem")
    for name in state:
        part = name.split(".")[0]
        kept = part not in ("cls_token", "pos_embed", "patch_embed", "blocks", "norm", "head")
        kept = kept or (moniker == "mgem" and part in ("patch_embed", "pos_embed"))
        assert (name not in changed) == kept, name
    assert how["blocks"] == how["head"] == how["last norm"] == {"loaded"}
    plain = tiny("m3ch").build()
    initialise(plain, file)
    first = model.config.depth - model.config.num_blocks
    assert first == int(two_branches)
    torch.testing.assert_close(
        model.blocks[-1].mlp.fc1.weight, plain.blocks[model.config.depth - 1].mlp.fc1.weight, rtol=0, atol=0
    )
    if two_branches:
        torch.testing.assert_close(model.cls_token, plain.cls_token + plain.pos_embed[:, :1], rtol=0, atol=0)
        assert how["class token"] == {"adapted"}
        assert how["fusion blocks"] == how["depth embedding"] == {"fresh"}
    if moniker == "mdf1":
        torch.testing.assert_close(model.pos_embed, plain.pos_embed[:, 1:], rtol=0, atol=0)
        assert how["position embedding"] == {"adapted"}
        assert how["patch embedding"] == {"loaded"}
    if moniker == "mgem":
        assert how["position embedding"] == how["patch embedding"] == {"fresh"}
    assert torch.isfinite(model(*inputs())).all()


def test_m4ch_starts_with_the_logits_of_its_three_channels(source):
    _, file = source
    rgb, depth = inputs()
    plain, four, mean = tiny("m3ch").build(), tiny("m4ch").build(), tiny("m4ch", "model.depth_init=mean").build()
    for model in (plain, four, mean):
        initialise(model, file)
    torch.testing.assert_close(four(rgb, depth), plain(rgb, depth), rtol=1e-6, atol=1e-6)
    weight = mean.patch_embed.proj.weight
    torch.testing.assert_close(weight[:, 3], weight[:, :3].mean(1))
    torch.testing.assert_close(weight[:, :3], plain.patch_embed.proj.weight, rtol=0, atol=0)
    assert (mean(rgb, depth) - plain(rgb, depth)).abs().max() > 1e-3


def test_positions_are_resized_as_timm_does_and_another_head_starts_fresh(source):
    _, file = source
    config = tiny("m3ch", "model.image_size=48", num_classes=7)
    model = config.build()
    report = initialise(model, file)
    small = tiny("m3ch").build()
    initialise(small, file)
    expected = timm.layers.resample_abs_pos_embed(small.pos_embed, (6, 6))
    torch.testing.assert_close(model.pos_embed, expected)
    assert how_of(report)["position embedding"] == {"adapted"}
    assert how_of(report)["head"] == {"fresh"}
    assert (model.head.weight == 0).all()
    details = {row.what: row.detail for row in report.rows}
    assert details["position embedding"] == "4x4 to 6x6"
    assert details["head"] == "for 7 classes, the source has one for 5"


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "state_dict_ema", "model_ema"])
def test_wrappers_and_prefixes_are_seen_through(wrapper, tmp_path):
    theirs = timm_vit()
    state = {f"module._orig_mod.backbone.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"epoch": 3, wrapper: state}, tmp_path / "weights.bin")
    ours = tiny("m3ch").build()
    initialise(ours, str(tmp_path / "weights.bin"))
    rgb, depth = inputs()
    torch.testing.assert_close(ours(rgb, depth), theirs(rgb), rtol=1e-5, atol=1e-5)


def test_torchs_averaged_model_and_timms_training_checkpoint_start_a_model(tmp_path):
    """As their own code writes them: torch's counts its updates, timm's keeps its command line (a Namespace)."""
    plain, model = redrawn(timm_vit()), tiny("m3ch").build()
    average = torch.optim.swa_utils.AveragedModel(plain)
    average.update_parameters(redrawn(timm_vit(), seed=1))
    torch.save(average.state_dict(), tmp_path / "average.pt")
    torch.save({"model_ema": average.state_dict(), "epoch": 3}, tmp_path / "reference.pt")
    optimizer = torch.optim.AdamW(plain.parameters())
    arguments = argparse.Namespace(model="vit", output="out", lr=1e-3, mean=(0.5, 0.5, 0.5), resume=None)
    saver = timm.utils.CheckpointSaver(plain, optimizer, args=arguments, checkpoint_dir=tmp_path, recovery_dir=tmp_path)
    saver.save_checkpoint(0, 1.0)
    for name, theirs in (("average.pt", average.module), ("reference.pt", average.module), ("last.pth.tar", plain)):
        initialise(model, str(tmp_path / name))
        rgb, depth = inputs()
        torch.testing.assert_close(model.eval()(rgb, depth), theirs.eval()(rgb), rtol=1e-5, atol=1e-5)
    state = plain.state_dict()
    torch.save(state | {f"module.{name}": value for name, value in state.items()}, tmp_path / "twice.pt")
    with pytest.raises(ModelError, match="the same names under several prefixes"):
        initialise(model, str(tmp_path / "twice.pt"))


@pytest.mark.parametrize("moniker", MONIKERS)
def test_our_own_runs_files_and_exports_come_back_whole(moniker, tmp_path):
    config = resolve("tiny", moniker, TINY, 5)
    model = redrawn(config.model.build())
    record = {"config": config.model_dump(mode="json")}
    write_run(tmp_path / "run", record, model, config)
    export.export(model, config.model, tmp_path / "export", {"classes": ["a"]})
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    rgb, depth = inputs()
    for source in ("run", "run:epoch-3", "export", "weights.pt"):
        again = config.model.build().eval()
        report = initialise(again, str(tmp_path / source))
        assert {row.how for row in report.rows} == {"loaded"}
        torch.testing.assert_close(again(rgb, depth), model(rgb, depth), rtol=0, atol=0)
    with pytest.raises(ModelError, match="has no checkpoint 'epoch-4', it has epoch-3, step-9"):
        initialise(model, str(tmp_path / "run:epoch-4"))


def write_run(folder, record, model, config):
    folder.mkdir()
    shards = {
        "path": "x", "source": "x", "train_fingerprint": "x", "val_fingerprint": "x", "num_train": 1, "num_val": 1,
        "num_classes": 5, "classes_sha256": "x", "depth_field": "pseudo", "teacher": None,
        "standardisation": {"mean": 0.0, "std": 1.0, "polarity": "farther_is_larger", "unit": "m"},
    }  # fmt: skip
    rest = {
        "name": "run", "created": "x", "preset": "tiny", "model": config.model.name, "seed": 0,
        "study_hash": study_hash(record["config"]),
        "shards": shards, "num_parameters": 1, "macs": 1, "steps_per_epoch": 1, "num_steps": 1, "git": {},
        "versions": {}, "machine": {},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record | rest | {"schema_version": 1}))
    for name in ("step-9", "epoch-3"):
        where = folder / "checkpoints" / name
        checkpoint.save(where, {"model": model.state_dict()}, step=9, epoch=3, study_hash=rest["study_hash"])


@pytest.mark.parametrize("moniker", [m for m in MONIKERS if m not in ("mdf1", "mgem", "m3ch")])
def test_variants_of_ours_start_each_other(moniker, tmp_path):
    model = redrawn(tiny(moniker).build())
    export.export(model, model.config, tmp_path / "export", {})
    plain = tiny("m3ch").build()
    report = initialise(plain, str(tmp_path / "export"))
    torch.testing.assert_close(plain.blocks[1].attn.qkv.weight, model.blocks[1].attn.qkv.weight, rtol=0, atol=0)
    torch.testing.assert_close(plain.patch_embed.proj.weight, model.patch_embed.proj.weight[:, :3], rtol=0, atol=0)
    assert (how_of(report)["patch embedding"] == {"loaded"}) == (moniker != "m4ch")


def test_two_branch_blocks_start_their_own_kind_alone(tmp_path):
    model = tiny("mdf1").build()
    export.export(model, model.config, tmp_path / "export", {})
    for moniker in ("m3ch", "mgem"):
        with pytest.raises(ModelError, match="is a mdf1, whose first blocks have two branches"):
            initialise(tiny(moniker).build(), str(tmp_path / "export"))


def test_the_cross_heads_of_mgem_belong_to_its_weights(tmp_path):
    model = tiny("mgem", "model.cross_heads=2").build()
    export.export(model, model.config, tmp_path / "export", {})
    with pytest.raises(ModelError, match=r"cross heads must be 3 .* got 2: .* --set model.cross_heads=2"):
        initialise(tiny("mgem").build(), str(tmp_path / "export"))


# --- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"embed_dim": 48}, "width must be 24 as model.width is, got 48: .* --set model.width=48"),
        ({"depth": 3}, "depth must be 2 as model.depth is, got 3"),
        ({"mlp_ratio": 2}, "mlp ratio must be 4 .* got 2"),
        ({"patch_size": 16}, "patch size must be 8 .* got 16"),
        ({"num_heads": 4}, "heads must be 3 .* got 4"),
        ({"qkv_bias": False}, "has no bias in its queries, keys and values"),
        ({"class_token": False, "global_pool": "avg"}, "classify by its class token, got pooling 'avg'"),
        ({"pre_norm": True}, "has a norm before its first block"),
        ({"reg_tokens": 4}, "has register tokens"),
        ({"init_values": 1.0}, "has LayerScale"),
        ({"qk_norm": True}, "has normalised queries"),
        ({"no_embed_class": True}, r"pos_embed must have .* got \(1, 16, 24\)"),
        ({"norm_layer": partial(nn.LayerNorm, eps=1e-5)}, "eps 1e-6, got 1e-05"),
        ({"act_layer": nn.ReLU}, "must use GELU, got ReLU"),
    ],
)
def test_other_architectures_are_refused_and_leave_the_model_alone(changes, complaint, tmp_path):
    theirs = timm_vit(**changes)
    model = tiny("m3ch").build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=complaint) as caught:
        load(model, weights_of_timm(theirs, "timm:some_vit"), "timm:some_vit")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_timm_by_name_knows_heads_and_normalisation(monkeypatch):
    theirs = timm_vit()
    theirs.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def fetched(name, pretrained):
        assert pretrained
        return theirs

    monkeypatch.setattr(timm, "create_model", fetched)
    model = tiny("m3ch").build()
    report = initialise(model, "timm:vit_base_patch16_224.augreg_in21k")
    assert report.sha256 == initialise(model, "timm:vit_base_patch16_224").sha256
    assert "mean (0.5, 0.5, 0.5)" in report.note
    rgb, depth = inputs()
    torch.testing.assert_close(model(rgb, depth), theirs(rgb), rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match=r"heads must be 4 .* got 3"):
        initialise(tiny("m3ch", "model.heads=4").build(), "timm:vit_base_patch16_224")


def test_timm_without_a_network_or_with_a_wrong_name(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = tiny("m3ch").build()
    with pytest.raises(ModelError, match=r"timm:vit_base_patch16_224 could not be fetched .* give the file") as caught:
        initialise(model, "timm:vit_base_patch16_224")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"timm:vit_bse: timm .* has no such model"):
        initialise(model, "timm:vit_bse")


def zipped(path, name):
    """What torch takes for a TorchScript archive: the file's name inside tells."""
    torch.save({}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"")


class Anything:
    """What a pickle may hold besides weights."""


def damage(folder, kind):
    path = folder / f"weights.{'safetensors' if 'safetensors' in kind else 'pth'}"
    whole = timm_vit().state_dict()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404</html>")
    elif kind == "cut":
        torch.save(whole, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "cut safetensors":
        save_file(whole, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "objects":
        torch.save({"model": whole, "args": Anything()}, path)
    elif kind == "a function":
        path.write_bytes(pickle.dumps({"model": os.system}, protocol=2))
    elif kind == "a program":
        zipped(path, "weights/constants.pkl")
    elif kind == "protocol 4":
        path.write_bytes(pickle.dumps({"model": os.system}, protocol=4))
    elif kind == "a broken pickle":
        path.write_bytes(b"\x80\x02s.")
    elif kind == "a tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "numbers":
        torch.save({"epoch": 3, "loss": 0.1}, path)
    elif kind == "a ResNet":
        torch.save(torchvision.models.resnet18().state_dict(), path)
    elif kind == "a block less":
        torch.save({name: value for name, value in whole.items() if "blocks.1.mlp" not in name}, path)
    elif kind == "more":
        torch.save({**whole, "decode_head.weight": torch.zeros(3)}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("empty", "damaged or no weights file"),
        ("text", "damaged or no weights file"),
        ("cut", "damaged or no weights file"),
        ("cut safetensors", "damaged or no weights file"),
        ("objects", "holds Python objects besides weights"),
        ("a function", "holds Python objects besides weights"),
        ("a program", "holds Python objects besides weights"),
        ("protocol 4", "damaged or no weights file .nothing that torch reads safely.: .* as .safetensors"),
        ("a broken pickle", "damaged or no weights file"),
        ("a tensor", "must hold named weights, got Tensor"),
        ("numbers", "must hold named weights, got int under 'epoch'"),
        ("a ResNet", "must be a Vision Transformer of timm, torchvision or ours, got conv1.weight"),
        ("a block less", "has no blocks.1.mlp.fc1.weight, which these models need"),
        ("more", r"has weights we do not know \(decode_head.weight\)"),
        ("missing", "init must be timm:NAME, .* nothing there"),
    ],
)
def test_bad_files_give_one_line(kind, complaint, tmp_path):
    with pytest.raises(ModelError, match=complaint) as caught:
        initialise(tiny("m3ch").build(), str(damage(tmp_path, kind)))
    assert "\n" not in str(caught.value)


FC1 = "blocks.0.mlp.fc1.weight"
PATCHES = "patch_embed.proj.weight"
ODD = {  # weight, what it is replaced by, complaint
    "head 0-d": ("head.weight", torch.zeros(()), r"have 2 dimensions, got shape \(\)"),
    "head bias of another length": ("head.bias", torch.zeros(4), r"have shape \(5,\), got \(4,\)"),
    "fc1 1-d": (FC1, torch.zeros(96), "have 2 dimensions"),
    "fc1 empty": (FC1, torch.zeros(0, 0), r"not be empty, got shape \(0, 0\)"),
    "patches 0-d": (PATCHES, torch.zeros(()), "have 4 dimensions"),
    "patches of five channels": (PATCHES, torch.zeros(24, 5, 8, 8), r"have shape \(24, [34], 8, 8\), got \(24, 5"),
    "positions 0-d": ("pos_embed", torch.zeros(()), "have 3 dimensions"),
    "positions 1-d": ("pos_embed", torch.zeros(24), "have 3 dimensions"),
    "no positions": ("pos_embed", torch.zeros(1, 0, 24), "not be empty"),
    "the class token's position alone": (
        "pos_embed",
        torch.zeros(1, 1, 24),
        r"have .* a row a patch.*got \(1, 1, 24\)",
    ),
    "narrow positions": ("pos_embed", torch.zeros(1, 17, 1), r"have shape \(1, rows, 24\), got \(1, 17, 1\)"),
    "a narrow class token": ("cls_token", torch.zeros(1, 1, 1), r"have shape \(1, rows, 24\), got \(1, 1, 1\)"),
    "meta": ("norm.weight", torch.ones(24, device="meta"), "have values, got a tensor on the meta device"),
    "sparse": (FC1, torch.ones(96, 24).to_sparse(), "be a dense tensor, got torch.sparse_coo"),
    "complex": ("norm.weight", torch.ones(24) * 1j, "be of float16, .*, got torch.complex64"),
    "integers": ("norm.weight", torch.ones(24, dtype=torch.int64), "be of float16, .*, got torch.int64"),
    "expanded": ("pos_embed", torch.ones(1).expand(1, 10**12 + 1, 24), "be stored whole"),
    "not a number": ("norm.bias", torch.tensor([math.nan, math.inf] + 22 * [0.0]), "be finite .* got 2 of 24 that"),
    "beyond float32": ("norm.bias", torch.full((24,), 1e300, dtype=torch.float64), "be finite .* got 24 of 24 that"),
}
ODD_NAMES = {
    "blocks.99999999999.norm1.weight": "has weights we do not know .blocks.99999999999.norm1.weight.",
    "blocks.1" + 5000 * "0" + ".norm1.weight": "must name its weights in one short line",
    "blocks.9999.norm1.weight": "has no blocks.2.norm1.weight",
    "a\nb": r"must name its weights in one short line, got 'a\\nb'",
}


@pytest.mark.parametrize("moniker", ["m4ch", "mdf1"])
@pytest.mark.parametrize(("name", "value", "complaint"), ODD.values(), ids=ODD)
def test_odd_weights_give_one_line(name, value, complaint, moniker, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({**timm_vit().state_dict(), name: value}, file)
    with pytest.raises(ModelError, match=rf"^{file}: {name} must {complaint}.*: choose other weights") as caught:
        initialise(tiny(moniker).build(), str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "complaint"), ODD_NAMES.items(), ids=range(len(ODD_NAMES)))
def test_odd_names_give_one_short_line(name, complaint, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({**timm_vit().state_dict(), name: torch.ones(24)}, file)
    with pytest.raises(ModelError, match=f"^{file} {complaint}") as caught:
        initialise(tiny("m3ch").build(), str(file))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own, of quantised tensors
def test_quantised_weights_give_one_line(tmp_path):
    state = timm_vit().state_dict()
    state[FC1] = torch.quantize_per_tensor(state[FC1], 0.1, 0, torch.qint8)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=f"{FC1} must be of float16, .*, got torch.qint8"):
        initialise(tiny("m3ch").build(), str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("moniker", ["mlin", "mgem"])
def test_odd_weights_of_our_own_give_one_line(moniker, tmp_path):
    model = tiny(moniker).build()
    whole = model.state_dict()
    for name, own in whole.items():
        for value in (torch.zeros(()), torch.full_like(own, math.nan), torch.ones(*own.shape, 1), own * 1j):
            torch.save({**whole, name: value}, tmp_path / "weights.pth")
            with pytest.raises(ModelError, match=f"{name} must") as caught:
                initialise(model, str(tmp_path / "weights.pth"))
            assert "\n" not in str(caught.value)


def test_an_export_without_some_weights_gives_one_line(tmp_path):
    model = tiny("m3ch").build()
    export.export(model, model.config, tmp_path / "export", {})
    whole = model.state_dict()
    for name in whole:
        save_file({n: value for n, value in whole.items() if n != name}, tmp_path / "export" / export.WEIGHTS)
        with pytest.raises(ModelError, match=rf"does not fit the model: 1 weights missing, .* {name}\)"):
            initialise(model, str(tmp_path / "export"))


def test_a_head_without_a_bias_gets_zeros_and_a_bias_alone_is_left(tmp_path):
    theirs = timm_vit()
    torch.nn.init.zeros_(theirs.head.bias)
    for missing, detail in (("head.bias", "zeros: the source's head has none"), ("head.weight", "the source has none")):
        state = {name: value for name, value in theirs.state_dict().items() if name != missing}
        torch.save(state, tmp_path / "weights.pth")
        ours = tiny("m3ch").build()
        report = initialise(ours, str(tmp_path / "weights.pth"))
        assert any(row.what == "head" and row.detail.endswith(detail) for row in report.rows)
        if missing == "head.bias":
            rgb, depth = inputs()
            torch.testing.assert_close(ours(rgb, depth), theirs(rgb), rtol=1e-5, atol=1e-5)
        else:
            assert (ours.head.weight == 0).all() and (ours.head.bias == 0).all()


def test_the_report_is_a_table(source):
    from rich.console import Console

    console = Console(width=160, file=io.StringIO())
    console.print(initialise(tiny("mdf1").build(), source[1]).table())
    text = console.file.getvalue()
    for words in ("position embedding", "without the class token's", "fusion blocks", "fresh", "sha256", "heads"):
        assert words in text
