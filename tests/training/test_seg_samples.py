"""Samples of fine-tuning: what flip, scale, crop and padding do to RGB, depth and labels, and the authors' input."""

import io
from itertools import pairwise

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from segments import config_of, members

from pipeline import shards
from training.loading.augment.normalise import RGB_MEAN, RGB_STD
from training.tasks.segmentation.samples import GREYS_R, eval_batch, model_inputs, prepared, train_batch

ROWS, COLUMNS = 40, 60


def coordinates(key="sample", across=True):
    """R is 4 times the column, G 4 times the row; depth and label are the column, or the row."""
    row, column = np.mgrid[:ROWS, :COLUMNS]
    rgb = np.stack([4 * column, 4 * row, 0 * row], 2).astype(np.uint8)
    which = column if across else row
    return members(rgb, which / 16, which.astype(np.uint8), key)


def drawn(config, epochs=1, key="sample", across=True):
    return train_batch([(epoch, coordinates(key, across)) for epoch in range(epochs)], epochs, config, 0)


def settings(crop, scales="[1.0]", *more):
    return config_of("m4ch", f"augment.crop={crop}", f"augment.scales={scales}", *more, num_classes=60)


@pytest.mark.parametrize("across", [True, False])
def test_flip_scale_and_crop_move_every_plane_alike(across):
    """At scale 1 to the bit; at others labels are of the nearest pixel and the rest is between neighbours."""
    batch = drawn(settings([24, 32]), 40, across=across)
    assert {tuple(box) for box in batch.inside.tolist()} == {(0, 0, 24, 32)}
    source = batch.rgb[:, 0 if across else 1] // 4
    assert torch.equal(source, batch.label)
    assert torch.equal(batch.depth[:, 0] * 16, batch.label.float())
    assert len({tuple(image[0, ::31].tolist()) for image in batch.rgb[:, 0]}) > 10, "crops differ"
    mirrored = batch.rgb[:, 0, 0, 0] > batch.rgb[:, 0, 0, 1]
    assert 8 <= int(mirrored.sum()) <= 32
    for scale in (0.5, 0.75, 1.75):
        batch = drawn(settings([16, 24], f"[{scale}]"), 12, across=across)
        label, z = batch.label.float(), batch.depth[:, 0] * 16
        assert (z - label).abs().max() <= 1.01
        assert (batch.rgb[:, 0 if across else 1] / 4 - label).abs().max() <= 1.3
        assert ((z[:, 1:, 1:] - z[:, :-1, :-1]).abs().mean() - 1 / scale).abs() < 0.1


def test_labels_are_those_of_whole_pixels():
    """Labels 0 and 40 side by side never become something between."""
    row, column = np.mgrid[:ROWS, :COLUMNS]
    label = np.where((row + column) % 2, 0, 40).astype(np.uint8)
    sample = members(np.zeros((ROWS, COLUMNS, 3), np.uint8), column / 16, label)
    config = settings([24, 24], "[0.75,1.25,1.5]")
    batch = train_batch([(epoch, sample) for epoch in range(12)], 12, config, 0)
    assert set(batch.label.unique().tolist()) == {0, 40}


def test_flips_are_as_many_as_asked():
    for share, expected in ((0, 0), (1, 30)):
        batch = drawn(settings([ROWS // 8 * 8, 56], "[1.0]", f"augment.flip={share}"), 30)
        assert int((batch.rgb[:, 0, 0, 0] > batch.rgb[:, 0, 0, 1]).sum()) == expected


def test_scales_are_those_of_the_list_and_all_of_them():
    scales = (0.5, 0.75, 1.0, 1.25)
    batch = drawn(settings([56, 80], str(list(scales))), 80)
    found = [((bottom - top) / ROWS, (right - left) / COLUMNS) for top, left, bottom, right in batch.inside.tolist()]
    assert all(a == b for a, b in found)
    counts = {scale: sum(a == scale for a, _ in found) for scale in scales}
    assert sum(counts.values()) == 80
    assert min(counts.values()) >= 8


def test_padding_is_zero_after_normalisation_without_depth_and_void():
    config = settings([56, 80])
    batch = drawn(config, 3)
    rgb, depth = model_inputs(batch, config)
    assert batch.inside.tolist() == [[8, 10, 48, 70]] * 3, "on both sides alike"
    outside = torch.ones(56, 80, dtype=torch.bool)
    outside[8:48, 10:70] = False
    assert (rgb[:, :, outside] == 0).all()
    assert depth[:, 0, outside].isnan().all()
    assert (batch.label[:, outside] == shards.VOID).all()
    assert (batch.label[:, ~outside] != shards.VOID).all() and depth[:, 0, ~outside].isfinite().all()
    mean, std = (torch.tensor(v)[:, None] for v in (RGB_MEAN, RGB_STD))
    expected = (batch.rgb[0][:, ~outside] / 255 - mean) / std
    torch.testing.assert_close(rgb[0][:, ~outside], expected, rtol=1e-5, atol=1e-5)


def test_one_side_may_be_cut_and_the_other_padded():
    batch = drawn(settings([24, 80]), 6)
    assert {tuple(box) for box in batch.inside.tolist()} == {(0, 10, 24, 70)}
    assert len(batch.rgb[:, 1, 0, 40].unique()) > 2, "the rows cut differ"


def test_crops_begin_everywhere_alike():
    """Four columns less than the image has: five places, the first and the last among them."""
    starts = drawn(settings([40, 56], "[1.0]", "augment.flip=0"), 300).label[:, 0, 0]
    often = starts.bincount()
    assert len(often) == 5 and (often > 35).all()


def test_a_sample_depends_on_seed_epoch_and_key_alone():
    config = settings([24, 32], "[0.75,1.0,1.5]")
    alone = train_batch([(3, coordinates("b"))], 1, config, 0)
    among = train_batch([(1, coordinates("a")), (3, coordinates("b"))], 2, config, 77)
    assert torch.equal(alone.rgb[0], among.rgb[1]) and torch.equal(alone.label[0], among.label[1])
    others = [
        drawn(settings([24, 32], "[0.75,1.0,1.5]", "seed=1"), 8),
        drawn(config, 8),
        drawn(config, 8, key="other"),
    ]
    for one, other in pairwise(others):
        assert not torch.equal(one.rgb, other.rgb)
    assert len({image.numpy().tobytes() for image in others[1].rgb}) >= 7, "epochs differ"


def test_images_are_evaluated_whole_those_of_one_size_together():
    config = settings([24, 32])
    row = np.zeros((16, 24), np.uint8)
    small = members(np.zeros((16, 24, 3), np.uint8), row, row, "small")
    batches = eval_batch([coordinates("a"), coordinates("b"), small, coordinates("c")], config, "real", 40)
    assert [(batch.first, batch.keys) for batch in batches] == [(40, ["a", "b"]), (42, ["small"]), (43, ["c"])]
    assert [tuple(batch.rgb.shape) for batch in batches] == [(2, 3, 40, 60), (1, 3, 16, 24), (1, 3, 40, 60)]
    assert torch.equal(batches[0].label[1], torch.arange(60, dtype=torch.uint8).expand(40, 60))
    assert batches[1].inside.tolist() == [[0, 0, 16, 24]]


# --- what the DFormer authors' weights expect ----------------------------------------------------------------------


def dformer_config(inputs="dformer-greys"):
    return config_of("dformer-tiny", "augment.crop=[32,64]", "augment.scales=[1.0]", f"model.inputs={inputs}",
                     "augment.flip=0.0")  # fmt: skip


def test_their_grey_levels_are_matplotlibs():
    """All 256 levels, and what imsave wrote of any depth."""
    expected = matplotlib.colormaps["Greys_r"](np.arange(256), bytes=True)[:, 0]
    np.testing.assert_array_equal(GREYS_R, expected)
    difference = GREYS_R - np.arange(256.0)
    assert difference.max() == 29 and difference.mean() == pytest.approx(16.6, abs=0.05)
    z = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    written = io.BytesIO()
    plt.imsave(written, z, cmap="Greys_r", format="png")
    with Image.open(written) as image:
        codes = np.asarray(image.convert("L"))
    np.testing.assert_allclose(prepared(z, "dformer-greys"), (codes / 255 - 0.48) / 0.28, atol=1e-5)


@pytest.mark.parametrize("inputs", ["dformer-greys", "dformer-linear"])
def test_the_authors_input_is_bgr_and_eight_bit_depth_between_nearest_and_farthest(inputs):
    rng = np.random.default_rng(0)
    rgb, label = rng.integers(0, 256, (32, 64, 3), dtype=np.uint8), np.zeros((32, 64), np.uint8)
    z = rng.integers(-2000, 3000, (32, 64)) / 1024
    z[0, 0], z[0, 1] = -2, 3  # nearest and farthest
    config = dformer_config(inputs)
    batch = train_batch([(0, members(rgb, z, label))], 1, config, 0)
    seen, depth = model_inputs(batch, config)
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        literal = (rgb[:, :, 2 - channel] / 255 - mean) / std
        np.testing.assert_allclose(seen[0, channel], literal, rtol=1e-5, atol=1e-5)
    share = (z + 2) / 5
    codes = np.floor(255 * share) if inputs == "dformer-linear" else GREYS_R[np.minimum(255, (256 * share).astype(int))]
    literal = (codes / 255 - 0.48) / 0.28
    np.testing.assert_allclose(depth[0, 0], literal, rtol=1e-5, atol=1e-5)
    assert depth[0, 0, 0, 0].item() == pytest.approx(-0.48 / 0.28), "near is dark"
    assert depth[0, 0, 0, 1].item() == pytest.approx(0.52 / 0.28), "far is bright"
    (whole,) = eval_batch([members(rgb, z, label)], config, "real", 0)
    np.testing.assert_allclose(whole.depth[0, 0], literal, rtol=1e-5, atol=1e-5)


def test_without_the_authors_weights_a_relative_sees_what_the_variants_see():
    sample, crop = coordinates(), f"augment.crop=[{32},{32}]"
    for name in ("dformer-tiny", "m4ch"):
        config = config_of(name, crop, "augment.scales=[1.0]", "augment.flip=0.0", num_classes=60)
        batch = train_batch([(0, sample)], 1, config, 0)
        rgb, depth = model_inputs(batch, config)
        assert torch.equal(depth[0, 0] * 16, batch.label[0].float())
        assert rgb[0, 0, 0, 31] > rgb[0, 0, 0, 0], "red first"


def test_missing_depth_stays_missing_and_does_not_set_the_codes():
    z = np.full((32, 64), 1.0)
    z[:, 32:], z[5, 5] = 2.0, np.nan
    blank = np.zeros((32, 64), np.uint8)
    for values in (z, np.where(np.isnan(z), np.nan, 1.0), np.full_like(z, np.nan)):
        sample = members(np.zeros((32, 64, 3), np.uint8), values, blank)
        (batch,) = eval_batch([sample], dformer_config(), "real", 0)
        depth = batch.depth[0, 0].numpy()
        np.testing.assert_array_equal(np.isnan(depth), np.isnan(values))
        codes = np.where(values == 2.0, 0.52 / 0.28, -0.48 / 0.28)  # an image of one depth is near
        np.testing.assert_allclose(depth[~np.isnan(values)], codes[~np.isnan(values)], rtol=1e-6)


# --- bad samples ---------------------------------------------------------------------------------------------------


def refused(sample, *fragments, field="real"):
    with pytest.raises(shards.ShardError) as caught:
        eval_batch([sample], config_of("m4ch"), field, 0)
    message = str(caught.value)
    assert "\n" not in message
    for fragment in ("some.tar, key sample, member", *fragments):
        assert fragment in message


def test_labels_and_depth_that_do_not_fit_are_named():
    rgb, flat = np.zeros((16, 24, 3), np.uint8), np.zeros((16, 24))
    label = flat.astype(np.uint8)
    label[3, 4:7], label[0, 0] = 5, shards.VOID
    refused(members(rgb, flat, label), "seg.png", "labels must be 0 to 4 or 255 (void), got 5 in 3 pixels")
    label[3, 4:7] = 254
    refused(members(rgb, flat, label), "got 254 in 3 pixels")
    label[3, 4:7] = 4
    eval_batch([members(rgb, flat, label)], config_of("m4ch"), "real", 0)
    refused(members(rgb, np.zeros((24, 16)), label), "real.pdz", "of the RGB's size 16x24, got 24x16")
    refused(members(rgb, flat, label[:8]), "seg.png", "of the RGB's size 16x24", "got uint8 8x24")
    refused(members(rgb, flat, np.zeros((16, 24, 3), np.uint8)), "seg.png", "got uint8 16x24x3")
