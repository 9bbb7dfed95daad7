"""The loader's promises: exact epochs, one order, one geometry."""

import numpy as np
import pytest
import torch

from pipeline import shards
from training import augment
from training.config import AugmentConfig, resolve
from training.data import DataError, EvalBatches, Share, TrainBatches, eval_loader, open_shards, shuffled, train_loader


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 97, 1000])
def test_order_is_a_permutation(count):
    for epoch in range(3):
        order = shuffled(np.arange(count), count, 0, epoch)
        assert sorted(order) == list(range(count))


def test_order_depends_on_seed_and_epoch_and_mixes_well():
    orders = [shuffled(np.arange(1000), 1000, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.12
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.12
    assert (orders[0] == orders[1]).mean() < 0.02
    assert (orders[0] == orders[2]).mean() < 0.02
    np.testing.assert_array_equal(shuffled(np.array([17, 3]), 1000, 0, 0), orders[0][[17, 3]])


def config(*settings):
    return resolve("tiny", "m4ch", ["data.depth=raw", "optim.batch_size=32", "model.image_size=40", *settings], 6)


def test_every_epoch_sees_every_sample_once(rooms):
    split = open_shards(rooms, "train", "raw")
    batches = TrainBatches(split, config(), Share.of(config()))
    stream = [key for step in range(3 * 150 // 32 + 1) for key in batches[step].keys]
    everything = sorted(split.key(i) for i in range(150))
    for epoch in range(3):
        assert sorted(stream[150 * epoch : 150 * (epoch + 1)]) == everything
    assert stream[:150] != stream[150:300]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_stream_does_not_depend_on_workers_or_on_where_it_starts(rooms, workers):
    split = open_shards(rooms, "train", "raw")
    settings = config("augment.rand_augment_ops=2")
    reference = TrainBatches(split, settings, Share.of(settings))
    wanted = config("augment.rand_augment_ops=2", f"runtime.workers={workers}")
    for step, batch in zip(range(3, 7), train_loader(split, wanted, Share.of(wanted), 3, 7), strict=True):
        assert batch.keys == reference[step].keys
        torch.testing.assert_close(batch.rgb, reference[step].rgb, rtol=0, atol=0)
        torch.testing.assert_close(batch.depth, reference[step].depth, rtol=0, atol=0, equal_nan=True)


def test_making_a_loader_leaves_the_global_generator_alone(rooms):
    split = open_shards(rooms, "train", "raw")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(train_loader(split, config("runtime.workers=0"), Share.of(config()), 0, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_counts_every_sample_once(rooms):
    split = open_shards(rooms, "val", "raw")
    keys = [key for batch in eval_loader(split, config(), "raw", 32) for key in batch.keys]
    assert keys == [split.key(i) for i in range(70)]
    assert len(EvalBatches(split, config(), "raw", 32)[2].keys) == 6


def test_missing_fields_are_named(rooms):
    with pytest.raises(DataError, match="no 'pseudo' depth, it has exact, real, raw"):
        open_shards(rooms, "train", "pseudo")
    with pytest.raises(shards.ShardError, match="does not exist"):
        open_shards(rooms / "no", "train", "raw")


# --- augmentation --------------------------------------------------------------------------------------------------


def coordinate_image(height=90, width=120):
    """RGB whose red is the column and green the row; depth that says the same."""
    rows, columns = np.mgrid[:height, :width]
    rgb = np.stack([columns * 2, rows * 2, np.full_like(rows, 128)], 2).astype(np.uint8)
    return rgb, (columns * 2 + rows * 2).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_rgb_and_depth_move_together(seed):
    rgb, depth = coordinate_image()
    rng = augment.generator(seed)
    joint = augment.join(rgb, depth)
    chosen = AugmentConfig(crop_scale=(0.2, 1.0))
    top, left, height, width = augment.random_crop(90, 120, chosen, rng)
    joint = augment.resize(joint[:, top : top + height, left : left + width], (48, 48))
    for operation in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        magnitude = augment._magnitude(operation, 9, 48, 48) * rng.choice([-1, 1])
        moved, z = augment.separate(augment._move(joint, operation, magnitude))
        seen = ~z[0].isnan()
        assert seen.float().mean() > 0.4
        torch.testing.assert_close((moved[0] + moved[1].float())[seen], z[0][seen], rtol=0, atol=1.01)
        assert (moved[2][seen] == 128).all()
        assert (moved[2][~seen] == 0).all(), "what comes in from outside is black and invalid"


def test_flip_moves_both():
    rgb, depth = coordinate_image()
    always = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(4 / 3, 4 / 3), flip=1.0)
    view, z = augment.train_view(augment.join(rgb, depth), 48, always, augment.generator(0))
    assert view[0, 20, 0] > view[0, 20, -1]
    torch.testing.assert_close(view[0] + view[1].float(), z[0], rtol=0, atol=1.01)


def test_photometry_leaves_depth_alone():
    rng = np.random.default_rng(0)
    rgb = rng.integers(30, 255, (48, 48, 3), dtype=np.uint8)
    joint = augment.join(rgb, np.zeros((48, 48), np.float32))
    changed = 0
    for operation in augment._OPERATIONS:
        if operation not in augment._GEOMETRIC:
            rgb_only = augment._recolour(joint[:3].to(torch.uint8), operation, augment._magnitude(operation, 9, 48, 48))
            assert rgb_only.shape == (3, 48, 48)
            changed += not torch.equal(rgb_only.float(), joint[:3])
    assert changed >= 6


def ours_of(name: str) -> str:
    return name.lower().replace("shear", "shear_").replace("translate", "translate_")


def test_randaugment_covers_torchvisions_space():
    from torchvision.transforms.v2 import RandAugment

    theirs = RandAugment(num_ops=2, magnitude=9)
    names = {ours_of(name) for name in theirs._AUGMENTATION_SPACE}
    assert names == set(augment._OPERATIONS)
    for name, (magnitudes, signed) in theirs._AUGMENTATION_SPACE.items():
        ours = ours_of(name)
        values = magnitudes(31, 64, 80)
        if values is None:
            continue
        for number in (0, 9, 30):
            scale = 255.0 if name == "Solarize" else 1.0
            expected = float(values[number]) * (scale if float(values[0]) <= 1.0 else 1.0)
            assert augment._magnitude(ours, number, 80, 64) == pytest.approx(expected, rel=1e-5), (name, number)
        assert signed == (ours in augment._SIGNED), name


def test_valid_pixels_are_averaged_alone():
    rgb = np.zeros((40, 40, 3), np.uint8)
    depth = np.full((40, 40), 2.0, np.float32)
    depth[:, :10] = np.nan
    _, z = augment.eval_view(augment.join(rgb, depth), 20, 1.0)
    assert z[0, :, :4].isnan().all()
    torch.testing.assert_close(z[0, :, 6:], torch.full((20, 14), 2.0))


def test_mixing_mixes_depth_and_label_with_the_same_share():
    rgb = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 16, 16)
    depth = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 16, 16)
    target = torch.eye(8)
    for settings in ({"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}):
        chosen = AugmentConfig(mix_group=4, **settings)
        mixed_rgb, mixed_depth, mixed_target = augment.mix(rgb, depth, target, chosen, 0, 5)
        expected = mixed_target @ torch.arange(8.0)
        torch.testing.assert_close(mixed_rgb.mean((1, 2, 3)), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mixed_depth.mean((1, 2, 3)), expected, rtol=1e-4, atol=1e-4)
        assert ((mixed_target > 0).sum(1) == 2).all()
        assert (mixed_target[:4, 4:] == 0).all(), "groups do not mix with each other"


def test_mixing_is_a_function_of_the_group_alone():
    rgb, depth, target = torch.randn(8, 3, 8, 8), torch.randn(8, 1, 8, 8), torch.eye(8)
    chosen = AugmentConfig(mix_group=4, mixup_alpha=0.8, cutmix_alpha=1.0)
    both = augment.mix(rgb, depth, target, chosen, 0, 6)
    second = augment.mix(rgb[4:], depth[4:], target[4:], chosen, 0, 7)
    for whole, part in zip(both, second, strict=True):
        torch.testing.assert_close(whole[4:], part, rtol=0, atol=0)


def test_mixup_where_depth_is_missing_takes_the_partners():
    depth = torch.stack([torch.full((1, 4, 4), torch.nan), torch.full((1, 4, 4), 2.0)])
    chosen = AugmentConfig(mix_group=2, mixup_alpha=0.8)
    _, mixed, _ = augment.mix(torch.zeros(2, 3, 4, 4), depth, torch.eye(2), chosen, 0, 0)
    torch.testing.assert_close(mixed, torch.full((2, 1, 4, 4), 2.0))
