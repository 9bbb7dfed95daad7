"""`train dump` on real models: what streams is what the raw tier says; what is done to depth shows."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr

import analysis
from pipeline import depth_codec, shards
from pipeline.files import WriteError
from training.commands import dump as command_dump
from training.dumping.dump import DumpedImages, causal_numbers, dump, plan_dump, spread
from training.dumping.interventions import _Swap
from training.dumping.observe import DumpFailed, _Observer
from training.dumps.arrays import unpacked
from training.dumps.estimate import estimated_bytes, estimated_memory
from training.dumps.from_raw import bias_mode, biased, raw_bias, raw_depth, raw_scores, statistics_of_raw
from training.dumps.pairs import REGRESSORS, partner
from training.dumps.schema import OUTCOMES, arrays
from training.dumps.scores import ROWS
from training.dumps.store import SHARD, Dump, DumpError, DumpWriter, open_dump
from training.models.registry import MONIKERS
from training.models.vit import VisionTransformer
from training.tasks.classification.config import Config, resolve
from training.tasks.classification.data import classes_sha256, open_shards

SIZE = ("model.image_size=48", "model.patch_size=8", "model.width=32", "model.depth=3", "model.heads=4")
IMAGES = 20


def make(
    rooms: Path,
    out: Path,
    moniker: str,
    field: str = "exact",
    settings: tuple[str, ...] = (),
    change=lambda model: None,
    **changes,
) -> tuple[Dump, VisionTransformer]:
    split = open_shards(rooms, "val", field)
    many = f"model.num_classes={len(split.index.class_names)}"
    config = resolve("tiny", moniker, [*SIZE, many, "runtime.workers=0", f"data.depth={field}", *settings])
    torch.manual_seed(0)
    model = config.model.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    record = record_of(moniker, config, split)
    saved = SimpleNamespace(name="step-1", folder=Path("step-1"), info=SimpleNamespace(sha256="0", epoch=1))
    change(model)
    asked = {"num_images": IMAGES, "num_raw": IMAGES} | changes
    info = plan_dump(config, record, saved, model, split, field, **asked)
    dump(info, config, model, split, out, torch.device("cpu"), lambda count: None)
    return open_dump(out), model


def record_of(name: str, config: Config, split: shards.Split) -> SimpleNamespace:
    """What a run says of itself that was trained on these classes."""
    seen = SimpleNamespace(classes_sha256=classes_sha256(split), val_fingerprint=split.index.fingerprint)
    return SimpleNamespace(name=name, config=config.model_dump(mode="json"), study_hash="h", shards=seen)


@pytest.fixture(scope="module", params=MONIKERS)
def made(request, rooms, tmp_path_factory) -> tuple[Dump, VisionTransformer]:
    return make(rooms, tmp_path_factory.mktemp("dump") / "d.zarr", request.param, num_causal=IMAGES)


def test_streamed_statistics_equal_those_from_the_raw_tier(made):
    dump, _ = made
    again = statistics_of_raw(dump)
    names = [n for n in arrays(dump.info) if n.startswith("statistics/") and n.split("/")[-1] not in _OF_LABELS]
    assert len(names) > 30
    for name in names:
        for layer, (streamed, found) in enumerate(
            zip(*map(layers_of(name, dump), (dump[name], again[name])), strict=True)
        ):
            assert np.isfinite(streamed).all() or name.endswith("patch_depth")
            tolerance = 2e-3 * max(1e-6, float(np.abs(streamed[np.isfinite(streamed)]).max()))
            np.testing.assert_allclose(found, streamed, rtol=5e-3, atol=tolerance, err_msg=f"{name} {layer}")


_OF_LABELS = ("labels", "predicted")
_LAYERS_FIRST = ("bins/sum", "bins/sum_centred", "two_way/sum", "pattern/pair_sum")


def layers_of(name: str, dump: Dump) -> Callable[[np.ndarray], np.ndarray]:
    """Splits an array by layers, where it has any: each has a scale of its own."""
    _, kind, *rest = name.split("/")
    of_layers = kind in ("content", "total", "pattern", "probe", "similarity") and rest[0] not in ("position", "input")
    if not of_layers or name.endswith("bins/group_sum"):
        return lambda values: values.astype(np.float64)[None]
    axis = 0 if name.endswith(_LAYERS_FIRST) else 1
    stream = rest[0] if kind in ("probe", "similarity") else "tokens"
    count = dump.info.stream(stream).num_layers

    def split(values: np.ndarray) -> np.ndarray:
        assert values.shape[axis] == count
        return np.moveaxis(values.astype(np.float64), axis, 0)

    return split


def test_every_image_is_there_once_and_spread_over_the_split(made, rooms):
    dump, _ = made
    split = shards.open_split(rooms, "val")
    keys = [split.members(int(place), ()).key for place in spread(IMAGES, len(split))]
    assert dump.keys() == keys
    assert len(set(keys)) == IMAGES
    assert spread(3, 10).tolist() == [0, 3, 6]
    assert spread(5, 5).tolist() == [0, 1, 2, 3, 4]


def test_streams_are_the_blocks(made):
    dump, model = made
    info = dump.info
    first = info.first_attention_layer
    assert (first > 0) == (info.model in ("mdf1", "mgem"))
    assert [stream.name for stream in info.streams] == (["tokens", "rgb", "depth"] if first else ["tokens"])
    widths = {"mdf1": (32, 16), "mgem": (16, 16)}.get(info.model, ())
    assert [stream.width for stream in info.streams] == [32, *widths]
    assert info.num_attention_layers == len(model.blocks)
    assert dump["raw/resid_post/tokens"].shape == (IMAGES, len(model.blocks), 37, 32)


def test_bias_is_known_from_parameters(made):
    """total - content, per head: alpha_l s_h (mlin); φ's own regression (mmlp)."""
    dump, model = made
    info = dump.info
    if not info.has_bias:
        assert "parameters/head_scale" not in arrays(info)
        return
    column = ROWS.index("c_delta")
    content, total = (dump[f"statistics/{part}/head_rows"].sum(0)[..., column] for part in ("content", "total"))
    squares = unpacked(dump["statistics/pairs/centred"]).sum(0)[0, 0]
    if info.bias == "linear":
        expected = model.alpha.detach().numpy()[:, None] * model.head_scale.numpy()
        np.testing.assert_allclose((total - content) / squares, expected, rtol=1e-3)
    depth = raw_depth(dump, "mean", slice(0, 3))
    tensor = torch.as_tensor(np.where(np.isnan(depth), np.nan, depth), dtype=torch.float32)
    from training.models.patch_depth import token_depth
    from training.models.score_bias import LinearBias, TableBias

    for layer in range(info.num_attention_layers):
        if info.bias == "linear":
            own = LinearBias(model.head_scale, model.alpha[layer], token_depth(tensor)).dense()
        else:
            own = TableBias(model.head_scale, model.phi[layer](token_depth(tensor))).dense()
        scores = np.zeros((3, info.num_heads, *[1 + info.num_patches] * 2))
        np.testing.assert_allclose(
            biased(scores, raw_bias(dump, layer, depth, slice(0, 3))), own.detach().numpy(), atol=1e-5
        )


def test_models_that_read_center4_share_figures_with_those_that_read_no_depth(rooms, tmp_path):
    """The thesis preset's mlin: its bias reads the patches' centres, the statistics of every dump their means."""
    of = {}
    for model, settings in (("m3ch", ()), ("mlin", ("model.patch_depth=center4",))):
        of[model], _ = make(rooms, tmp_path / f"{model}.zarr", model, settings=settings, num_images=6, num_raw=6)
    study = analysis.load([dump.path for dump in of.values()])
    assert [dump.info.patch_depth for dump in study.last_dumps()] == ["mean", "mean"]
    mlin = of["mlin"]
    assert bias_mode(mlin.info) == "center4"
    rows = mlin["statistics/total/head_rows"]
    np.testing.assert_allclose(statistics_of_raw(mlin)["statistics/total/head_rows"], rows, rtol=5e-3, atol=0.05)
    depths = [raw_depth(mlin, mode, slice(0, 6)) for mode in ("mean", "center4")]
    slopes = [raw_bias(mlin, 0, depth, slice(0, 1)).table for depth in depths]
    assert np.abs(slopes[0] - slopes[1]).max() > 0.01


def test_causal_rows_are_first_differences(made, rooms):
    """Σ (S' - S)(Δ' - Δ), centred, written out; m3ch is moved by no depth at all, exactly."""
    dump, model = made
    info = dump.info
    rows, pairs = dump["causal/swap/rows"], dump["causal/swap/pairs"]
    outcomes = dump["causal/outcomes"]
    if info.model == "m3ch":
        assert (rows == 0).all()
        unmoved = [i for i, name in enumerate(info.interventions) if not name.startswith("erase")]
        assert len(unmoved) == 4
        assert (outcomes[:, unmoved, 1:] == 0).all()
        return
    assert outcomes.shape == (IMAGES, len(info.interventions), len(OUTCOMES))
    swapped = outcomes[:, info.interventions.index("swap")]
    assert (swapped[:, OUTCOMES.index("kl")] > 0).all() and (swapped[:, OUTCOMES.index("logit_mae")] > 0).all()
    assert (pairs > 0).all()
    numbers = causal_numbers(info)
    z = dump["statistics/patch_depth"].astype(np.float64)
    delta, other = (abs(d[:, :, None] - d[:, None]) for d in (z[numbers], z[[partner(n, IMAGES) for n in numbers]]))
    off = ~np.eye(36, dtype=bool)
    change = np.where(off, other - delta, 0.0)
    change = np.where(off, change - change.sum(2, keepdims=True) / 35, 0.0)
    np.testing.assert_allclose(pairs, (change**2).sum((1, 2)), rtol=1e-4)
    if info.bias == "linear" and info.first_attention_layer == 0:
        # Nothing but the bias of the first block knows of depth there: its slope is the bias's own.
        slope = dump["causal/swap/head_rows"].sum(0)[0] / dump["causal/swap/head_pairs"].sum()
        np.testing.assert_allclose(slope, model.alpha[0].item() * model.head_scale.numpy(), rtol=1e-3)
        slopes = (dump["causal/swap/distance"][:, 0].sum(0)) / dump["causal/swap/distance_pairs"].sum(0)
        np.testing.assert_allclose(slopes, model.alpha[0].item() * model.head_scale.numpy().mean(), rtol=1e-3)
    np.testing.assert_allclose(dump["causal/swap/distance"].sum((0, 2)), rows.sum(0), rtol=1e-6, atol=1e-9)


def test_of_a_swap_no_more_than_one_pass_is_held_and_told(made):
    info = made[0].info
    depth, other = torch.randn(2, 5, 36, dtype=torch.float64)
    before, after = (abs(z[:, :, None] - z[:, None]) for z in (depth, other))
    offsets = torch.randn(3, 5, 4, 36, 1, dtype=torch.float64)
    layers = (-1, 0, 2)
    swap = _Swap(depth, other, (6, 6))
    for slope, offset in zip(layers, offsets, strict=True):
        swap.keep(slope * before[:, None] + offset)
    for number, (slope, offset) in enumerate(zip(layers, offsets, strict=True)):
        assert len(swap._before) == len(layers) - number
        swap.compare(slope * after[:, None] - offset)
    assert not swap._before
    expected = np.array(layers)[:, None] * swap.pairs()[:, None, None]
    np.testing.assert_allclose(swap.rows(), expected[..., 0], atol=1e-9)
    np.testing.assert_allclose(swap.head_rows(), np.broadcast_to(expected, (5, 3, 4)), atol=1e-9)
    assert (swap.distance_pairs() > 0).all()
    by_distance = np.array(layers)[:, None] * swap.distance_pairs()[:, None]
    np.testing.assert_allclose(swap.distance(), by_distance, atol=1e-9)
    np.testing.assert_allclose(swap.distance_pairs().sum(1), swap.pairs())
    without = info.model_copy(update={"num_causal": 0, "interventions": []})
    one_pass = 4 * SHARD * info.num_attention_layers * info.num_heads * (info.num_prefix + info.num_patches) ** 2
    assert estimated_memory(info) > one_pass
    assert estimated_memory(info) >= estimated_memory(without)


def test_interventions_do_what_they_say(made):
    dump, _ = made
    info = dump.info
    assert info.interventions[:4] == ["swap", "zero", "mean", "real"]
    kl = dump["causal/outcomes"][:, :, OUTCOMES.index("kl")]
    for place, name in enumerate(info.interventions):
        last = f"-{info.num_layers}"
        if name.endswith(last):
            assert kl[:, place].max() < 1e-9, name  # nothing reads patches after the last block
        elif name.startswith(("erase", "ablate")):
            assert kl[:, place].min() >= -1e-12 and kl[:, place].max() > 1e-9, name
    assert any(name.startswith("ablate") for name in info.interventions) == info.has_bias


def test_erased_depth_is_gone_where_it_was_erased(made):
    """At the last block itself, no line predicts z from what is left; from other blocks on some comes back."""
    dump, _ = made
    moments = unpacked(dump["causal/refit/moments"].sum(0))
    unchanged = unpacked(dump["statistics/probe/tokens/moments"].sum(0))[-1]
    assert r_squared(unchanged) > 0.05 or dump.info.model == "m3ch"
    assert r_squared(moments[-2]) == pytest.approx(0, abs=1e-4)
    assert r_squared(moments[0]) > 1e-3
    assert moments.shape[0] == dump.info.num_attention_layers + 1
    np.testing.assert_allclose(moments[-1], unchanged, rtol=1e-4, atol=1e-3 * np.abs(unchanged).max())  # nothing erased


def r_squared(moments: np.ndarray) -> float:
    """Of z on h with a small ridge, from [h, z, z', 1] moments."""
    n = moments[-1, -1]
    mean = moments[-1] / n
    covariance = moments / n - np.outer(mean, mean)
    size = len(moments) - 3
    sigma = covariance[:size, size]
    own = covariance[:size, :size] + 1e-6 * np.trace(covariance[:size, :size]) / size * np.eye(size)
    return float(sigma @ np.linalg.solve(own, sigma) / covariance[size, size])


def test_patches_without_depth_are_left_out_and_told(rooms, tmp_path):
    dump, _ = make(rooms, tmp_path / "d.zarr", "m4ch", field="real")
    depth = dump["statistics/patch_depth"]
    gaps = np.isinf(depth)
    complete = dump["statistics/two_way/images"].sum()
    assert complete == (~gaps.any(1)).sum()
    pairs = unpacked(dump["statistics/pairs/literal"])[:, 0, 0]
    seen = (~gaps).sum(1)
    np.testing.assert_array_equal(pairs, seen * (seen - 1))
    assert dump["statistics/probe/position"][..., 0].sum() == seen.sum()


@pytest.mark.filterwarnings("error")
def test_depth_that_is_nowhere_is_refused(rooms, tmp_path, monkeypatch):
    def without_depth(self, number):
        views = read(self, number)
        for depth in (views.batch.depth, views.other):
            depth[:] = torch.nan
        return views

    read = DumpedImages.__getitem__
    monkeypatch.setattr(DumpedImages, "__getitem__", without_depth)
    with pytest.raises(DumpFailed, match="no patch of these images has exact depth"):
        make(rooms, tmp_path / "d.zarr", "m4ch", num_images=4, num_causal=4)
    assert list(tmp_path.iterdir()) == []


def test_two_class_tokens_are_two(rooms, tmp_path):
    dump, _ = make(rooms, tmp_path / "d.zarr", "mdf1", settings=("model.cls_copies=2",), num_raw=2)
    assert dump.info.num_prefix == 2
    assert dump["raw/scores_pre_bias"].shape[-1] == 38


@pytest.mark.parametrize("images", [2, 16, 17])
def test_any_number_of_images(rooms, tmp_path, images):
    dump, _ = make(rooms, tmp_path / "d.zarr", "m3ch", num_images=images, num_raw=3)
    assert dump.info.num_images == images
    assert dump["raw/rgb"].shape[0] == min(images, 3)
    stored = sum(file.stat().st_size for file in dump.path.rglob("*") if file.is_file())
    assert stored < 3 * estimated_bytes(dump.info) + 200_000
    scores = raw_scores(dump, 0, slice(0, 2))
    assert np.isfinite(scores).all()
    assert np.abs(scores.mean(-1) - dump["raw/row_mean"][:2, 0]).max() < 1e-2


@pytest.mark.parametrize(("model", "block", "raw"), [("m3ch", 1, 4), ("m3ch", 1, 0), ("mgem", 0, 0)])
def test_a_checkpoint_that_diverged_is_refused(rooms, tmp_path, model, block, raw):
    """With raw scores or without: the mean patch is in fp16 as well. Blocks count from the model's first."""

    def diverged(built):
        with torch.no_grad():
            built.blocks[block].mlp.fc2.bias.fill_(1e5)

    with pytest.raises(DumpFailed, match=r"output of block 2 holds values that fp16 cannot \(65,504 at most\)"):
        make(rooms, tmp_path / "d.zarr", model, num_images=4, num_raw=raw, change=diverged)
    assert list(tmp_path.iterdir()) == []


def test_one_patch_beyond_fp16_is_refused_where_it_is_kept(rooms, tmp_path, monkeypatch):
    """Raw outputs cannot hold it; statistics, and the mean patch, can."""

    def loud(self, name, tensor):
        if name == "blocks.1.resid_post":
            tensor = tensor.clone()
            tensor[0, 3, 0] = 1e5
        return observed(self, name, tensor)

    observed = _Observer.__call__
    monkeypatch.setattr(_Observer, "__call__", loud)
    made, _ = make(rooms, tmp_path / "a.zarr", "m3ch", num_images=4, num_raw=0)
    assert np.isfinite(made["statistics/similarity/tokens/summary"]).all()
    with pytest.raises(DumpFailed, match="output of block 2 holds values that fp16 cannot"):
        make(rooms, tmp_path / "b.zarr", "m3ch", num_images=4, num_raw=4)


def test_null_regressors_are_kept(made):
    dump, _ = made
    centred = unpacked(dump["statistics/pairs/centred"]).sum(0)
    assert (centred.diagonal() > 0).all()
    assert len(REGRESSORS) == len(centred)


def test_nothing_but_zeros_is_written_too(rooms, tmp_path):
    """Zarr leaves out chunks that equal the fill value, which could not be told from chunks that were lost."""
    dump, _ = make(rooms, tmp_path / "d.zarr", "m3ch", num_causal=6)
    assert (dump["causal/base"] == 0).all() or (dump["causal/outcomes"] == 0).any()
    assert (dump["causal/swap/rows"] == 0).all()
    for chunk in (dump.path / "causal" / "swap" / "rows" / "c").rglob("0"):
        if chunk.is_file():
            chunk.unlink()
    with pytest.raises(DumpError, match=r"array causal/swap/rows has 0 of 1 chunks"):
        open_dump(tmp_path / "d.zarr")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"polarity": "farther_is_larger"', '"polarity": "closer_is_larger"'),
        ('"epoch": 1,', '"epoch": 2,'),
        ('"sha256": "', '"sha256": "0'),
    ],
)
def test_attributes_that_were_edited_are_refused(rooms, tmp_path, old, new):
    made, _ = make(rooms, tmp_path / "d.zarr", "m3ch", num_images=4, num_raw=0)
    attributes = made.path / "zarr.json"
    text = attributes.read_text()
    attributes.write_text(json.dumps(json.loads(text), sort_keys=True))  # says the same
    assert open_dump(made.path).info == made.info
    assert old in text
    attributes.write_text(text.replace(old, new))
    with pytest.raises(
        DumpError, match=r"d\.zarr: its attributes are not those it was written with \(checksum differs\)"
    ):
        open_dump(made.path)


def test_a_folder_that_is_no_dump_is_told_by_name(tmp_path):
    (tmp_path / "junk.zarr").mkdir()
    with pytest.raises(
        DumpError, match=r"junk\.zarr is no dump, it has no zarr\.json: remove it, or move it elsewhere"
    ):
        analysis.load(tmp_path / "junk.zarr")


@pytest.mark.parametrize("called", ["create_array", "write"])
def test_a_full_disk_leaves_nothing(rooms, tmp_path, monkeypatch, called):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((zarr.Group, called) if called == "create_array" else (DumpWriter, called)), full)
    with pytest.raises(WriteError, match=r"cannot write .*d\.zarr \(No space left on device\): make room"):
        make(rooms, tmp_path / "d.zarr", "m3ch", num_images=4)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_store_are_one_too_many(rooms, tmp_path):
    first, _ = make(rooms, tmp_path / "a.zarr", "m3ch", num_raw=0)
    with DumpWriter(tmp_path / "d.zarr", first.info) as writer:
        (writer.partial / "left").mkdir()
        with pytest.raises(WriteError, match=r"another process is writing .*d.zarr"):
            make(rooms, tmp_path / "d.zarr", "m3ch", num_raw=0)
        assert (writer.partial / "left").exists()
        with pytest.raises(WriteError, match=r"another process is writing"), DumpWriter(writer.path, first.info):
            pass
    make(rooms, tmp_path / "d.zarr", "m3ch", num_raw=0)
    assert not list(tmp_path.glob(".*"))


def test_causal_images_are_pairs_that_exchange_their_depths(rooms, tmp_path):
    dump, _ = make(rooms, tmp_path / "d.zarr", "m4ch", num_causal=7, num_raw=0)
    assert dump.info.num_causal == 8
    # Every fifth image of a dump, and it would be one fold: places in the tier decide.
    assert (unpacked(dump["causal/refit/moments"])[:, :, -1, -1] > 0).sum(0).tolist() == [4] * 4
    assert (dump["causal/swap/head_pairs"] > 0).sum() == 4
    numbers = causal_numbers(dump.info)
    assert [partner(int(n), IMAGES) for n in numbers[:4]] == numbers[4:].tolist()
    assert len(set(numbers.tolist())) == 8
    np.testing.assert_allclose(dump["causal/swap/pairs"][:4], dump["causal/swap/pairs"][4:], rtol=1e-6)


def test_neither_another_store_nor_another_runs_dump_is_replaced(rooms, tmp_path):
    first, _ = make(rooms, tmp_path / "d.zarr", "m3ch", num_raw=0)
    with pytest.raises(
        DumpError, match=r"d\.zarr holds a dump of another run \(m3ch, study h; this is m4ch, study h\)"
    ):
        make(rooms, tmp_path / "d.zarr", "m4ch", num_raw=0)
    assert open_dump(tmp_path / "d.zarr").info == first.info
    larger = (
        r"d\.zarr holds 20 images, 0 raw, 0 causal of this checkpoint, and 12 images, 0 raw, 0 causal were asked for"
    )
    with pytest.raises(DumpError, match=larger):
        make(rooms, tmp_path / "d.zarr", "m3ch", num_images=12, num_raw=0)
    assert open_dump(tmp_path / "d.zarr").info == first.info
    assert make(rooms, tmp_path / "d.zarr", "m3ch", num_raw=4)[0].info.num_raw == 4
    foreign = zarr.open_group(tmp_path / "mine.zarr", mode="w", attributes={"mine": 1})
    foreign.create_array("precious", shape=(3,), dtype="f4")
    with pytest.raises(DumpError, match=r"mine\.zarr exists and is no dump: choose another --out, or remove it"):
        make(rooms, tmp_path / "mine.zarr", "m3ch", num_raw=0)
    assert "precious" in zarr.open_group(tmp_path / "mine.zarr", mode="r")


def test_the_command_puts_right_what_kills_left_and_follows_no_link(tmp_path, monkeypatch):
    """Of any dump of the run; a dump alone, at --out, minds its own (`tests/analysis/test_strange_dumps.py`)."""
    run, away = tmp_path / "run", tmp_path / "away"
    for folder in (run / "dumps" / ".epoch-0.zarr.0123abcd.old", run / "dumps" / ".latest.zarr.partial", away / "mine"):
        folder.mkdir(parents=True)
    (run / "dumps" / ".best.zarr.partial").symlink_to(away)
    monkeypatch.setattr("training.records.parse", lambda *_: None)
    monkeypatch.setattr("training.engine.checkpoint.find", lambda *_: None)
    monkeypatch.setattr(command_dump, "_dumped", lambda *_: (_ for _ in ()).throw(DumpFailed("far enough")))
    with pytest.raises(DumpFailed, match="far enough"):
        command_dump.dump(run, "shards", raw=0, causal=0)
    assert [path.name for path in (run / "dumps").iterdir()] == ["epoch-0.zarr"]
    (run / "dumps" / "epoch-0.zarr").rmdir()
    (run / "dumps").rmdir()
    (run / "dumps").symlink_to(away)
    with pytest.raises(WriteError, match=r"dumps is a link to .*away, and nothing is written through links"):
        command_dump.dump(run, "shards", raw=0, causal=0)
    assert [path.name for path in away.iterdir()] == ["mine"]


def test_what_no_reader_would_take_is_refused_before_the_work(rooms, tmp_path):
    split = open_shards(rooms, "val", "exact")
    config = resolve("tiny", "m3ch", [*SIZE, f"model.num_classes={len(split.index.class_names)}"])
    saved = SimpleNamespace(name="step-1", folder=Path("step-1"), info=SimpleNamespace(sha256="0", epoch=1))
    facts = record_of("a\nb", config, split)
    with pytest.raises(
        DumpFailed, match=r"no reader would take this dump, run: .*control characters.* rename it, or verify the shards"
    ):
        plan_dump(config, facts, saved, config.model.build(), split, "exact", num_images=4, num_raw=0)


def test_the_other_depth_of_an_image_must_be_of_its_size(rooms, tmp_path, monkeypatch):
    """It is put in its place; a map of another size would lie elsewhere than what it replaces."""
    truth = shards.Split.members

    def members(self, position, fields=None):
        found = truth(self, position, fields)
        if fields is not None and "real" in fields:
            found.data["real"] = ("real.pdz", depth_codec.encode(np.zeros((96, 64), np.float32), 2**-8))
        return found

    monkeypatch.setattr(shards.Split, "members", members)
    with pytest.raises(shards.ShardError, match=r"differ in size .*real 96x64"):
        make(rooms, tmp_path / "d.zarr", "m4ch", num_causal=IMAGES)
    assert not (tmp_path / "d.zarr").exists()
