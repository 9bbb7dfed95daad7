"""Augmentation: one geometry for every plane, torchvision's operations, mixing on all channels."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import RandAugment

from pipeline import depth_codec, shards
from training.augment import affine, generator, geometry, rand_augment
from training.augment.mix import mix
from training.config import AugmentConfig

THEIRS = RandAugment(num_ops=2, magnitude=9)
NAMES = {
    name.lower().replace("shear", "shear_").replace("translate", "translate_"): name
    for name in THEIRS._AUGMENTATION_SPACE
}


# --- RandAugment against torchvision -------------------------------------------------------------------------------


def pictures() -> list[torch.Tensor]:
    """Photographs, noise, narrow ranges and one colour; odd and even sizes."""
    from sklearn.datasets import load_sample_images

    found = []
    rng = np.random.default_rng(0)
    for height, width in ((64, 80), (65, 81), (33, 50), (7, 9)):
        for photo in load_sample_images().images:
            found.append(photo[200 : 200 + height, 250 : 250 + width].copy())
        found.append(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        found.append(rng.integers(100, 104, (height, width, 3), dtype=np.uint8))
        found.append(np.full((height, width, 3), 77, np.uint8))
    return [torch.from_numpy(one).permute(2, 0, 1).contiguous() for one in found]


def ours(rgb, operation, strength):
    draws = torch.tensor([[[rand_augment.OPERATIONS.index(operation), strength]]])
    return rand_augment.apply(rgb[None].clone(), [], draws)[0][0]


def theirs(rgb, operation, magnitude):
    return THEIRS._apply_image_or_video_transform(rgb, NAMES[operation], magnitude, THEIRS.interpolation, THEIRS._fill)


def cases(operation, height, width):
    """(our strength, torchvision's magnitude) at every bin and sign."""
    magnitudes, signed = THEIRS._AUGMENTATION_SPACE[NAMES[operation]]
    table = magnitudes(31, height, width)
    for number in range(31 if table is not None else 1):
        strength = rand_augment.strengths(number, height, width)[rand_augment.OPERATIONS.index(operation)]
        for sign in (1, -1) if signed else (1,):
            yield float(strength) * sign, float(table[number]) * sign if table is not None else 0.0


@pytest.mark.parametrize("operation", [name for name in rand_augment.OPERATIONS if name not in rand_augment.GEOMETRIC])
def test_photometry_is_torchvisions_within_one_level(operation):
    for picture in pictures():
        for strength, magnitude in cases(operation, *picture.shape[1:]):
            difference = ours(picture, operation, strength).int() - theirs(picture, operation, magnitude).int()
            assert difference.abs().max() <= 1, (operation, magnitude)


@pytest.mark.parametrize("operation", rand_augment.GEOMETRIC)
def test_geometry_is_torchvisions_but_for_ties(operation):
    differing = pixels = 0
    for picture in pictures():
        height, width = picture.shape[1:]
        for strength, magnitude in cases(operation, height, width):
            differs = (ours(picture, operation, strength) != theirs(picture, operation, magnitude)).any(0)
            a, b, c, d, e, f = affine.matrix(operation, strength, height, width)
            down, right = np.mgrid[:height, :width].astype(np.float64)
            halves = [abs((at % 1) - 0.5) for at in (a * right + b * down + c, d * right + e * down + f)]
            assert (np.minimum(*halves)[differs.numpy()] < 1e-4).all(), (operation, magnitude, "not a tie")
            differing, pixels = differing + int(differs.sum()), pixels + height * width
    assert differing <= 0.002 * pixels, f"{differing} of {pixels}"


def test_randaugment_covers_torchvisions_space():
    assert set(NAMES) == set(rand_augment.OPERATIONS)
    for operation, name in NAMES.items():
        assert THEIRS._AUGMENTATION_SPACE[name][1] == (operation in rand_augment.SIGNED), name


def test_draws_are_uniform_and_signed():
    draws = rand_augment.draw(np.random.default_rng(0).random((14_000, 2, 2)), 9, 224)
    counts = np.bincount(draws[..., 0].flatten().long(), minlength=14)
    assert (abs(counts - 2000) < 250).all()
    for number, operation in enumerate(rand_augment.OPERATIONS):
        found = draws[..., 1][draws[..., 0] == number]
        strength = rand_augment.strengths(9, 224, 224)[number]
        assert set(found.tolist()) == (
            {float(strength), -float(strength)} if operation in rand_augment.SIGNED else {strength}
        )
        if operation in rand_augment.SIGNED:
            assert 0.45 < (found > 0).float().mean() < 0.55


def test_an_image_does_not_depend_on_its_batch():
    rng = np.random.default_rng(0)
    draws = rand_augment.draw(rng.random((40, 2, 2)), 9, 33)
    rgb, z = torch.from_numpy(rng.integers(0, 256, (40, 3, 33, 33), dtype=np.uint8)), torch.randn(40, 1, 33, 33)
    whole = rand_augment.apply(rgb.clone(), [z.clone()], draws)
    for start in range(0, 40, 7):
        some = slice(start, start + 7)
        part = rand_augment.apply(rgb[some].clone(), [z[some].clone()], draws[some])
        assert torch.equal(part[0], whole[0][some])
        torch.testing.assert_close(part[1][0], whole[1][0][some], rtol=0, atol=0, equal_nan=True)


# --- one geometry --------------------------------------------------------------------------------------------------


def coordinate_planes(height=90, width=120):
    """RGB, two depths and labels that all say where a pixel comes from; the second depth has a hole."""
    rows, columns = np.mgrid[:height, :width]
    rgb = np.stack([columns * 2, rows * 2, np.full_like(rows, 128)]).astype(np.uint8)
    depth = (columns * 2 + rows * 2).astype(np.float32)[None]
    holed = depth.copy()
    holed[:, 30:50, 40:70] = np.nan
    labels = (columns // 2 + rows // 2).astype(np.uint8)[None]
    return [torch.from_numpy(plane) for plane in (rgb, depth, holed, labels)]


@pytest.mark.parametrize("operation", [None, *rand_augment.GEOMETRIC])
@pytest.mark.parametrize("seed", range(6))
def test_all_planes_move_together(seed, operation):
    rng = generator("planes", seed)
    chosen = AugmentConfig(crop_scale=(0.2, 1.0))
    box = geometry.random_box(90, 120, chosen, rng.random(geometry.CROP_NUMBERS).tolist(), flip=bool(seed % 2))
    planes = zip(coordinate_planes(), ("rgb", "depth", "depth", "labels"), strict=True)
    rgb, *others = [plane[None] for plane in geometry.seen(list(planes), box, (48, 48))]
    if operation:
        strength = rand_augment.strengths(9, 48, 48)[rand_augment.OPERATIONS.index(operation)] * (-1) ** (seed // 2)
        draws = torch.tensor([[[rand_augment.OPERATIONS.index(operation), strength]]])
        rgb, others = rand_augment.apply(rgb, others, draws)
    depth, holed, labels = (plane[0, 0] for plane in others)
    seen = ~depth.isnan()
    assert seen.float().mean() > 0.4
    said = (rgb[0, 0].float() + rgb[0, 1].float())[seen]
    torch.testing.assert_close(said, depth[seen], rtol=0, atol=1.01)
    torch.testing.assert_close(labels.float()[seen], depth[seen] / 4, rtol=0, atol=2.01)
    assert (rgb[0, 2][seen] == 128).all()
    assert (rgb[0][:, ~seen] == 0).all() and (labels[~seen] == rand_augment.VOID).all(), "what comes in from outside"
    inside = seen & ~holed.isnan()
    # near the hole fewer pixels are averaged: the mean lies up to the reach of the filter away
    torch.testing.assert_close(holed[inside], depth[inside], rtol=0, atol=6.0)
    assert ((holed[inside] - depth[inside]).abs() > 1e-3).float().mean() < 0.15


def test_flip_exchanges_left_and_right_in_all_planes():
    planes = list(zip(coordinate_planes(), ("rgb", "depth", "depth", "labels"), strict=True))
    there = geometry.seen(planes, geometry.Box(3, 5, 80, 100), (48, 48))
    back = geometry.seen(planes, geometry.Box(3, 5, 80, 100, flip=True), (48, 48))
    assert there[0][0, 20, 0] < there[0][0, 20, -1]
    for one, other, tolerance in zip(there, back, (1, 1e-4, 1e-4, 1), strict=True):
        torch.testing.assert_close(other.flip(2).float(), one.float(), rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("corner", [(0, 0), (7, 11), (50, 60)])
def test_a_window_of_depth_is_what_slicing_gives(corner, flip):
    z = np.random.default_rng(0).normal(size=(90, 121)).astype(np.float32)
    z[20:40, 10:70] = np.nan
    data = depth_codec.encode(z, 2**-8)
    box = geometry.Box(*corner, 40, 61, flip)
    whole = geometry.crop(torch.from_numpy(shards.decode_depth(data))[None], box)[0].numpy()
    np.testing.assert_array_equal(shards.decode_depth(data, box.window), whole)


def test_boxes_follow_the_recipe():
    numbers = np.random.default_rng(0).random((3000, geometry.CROP_NUMBERS))
    chosen = AugmentConfig(crop_scale=(0.08, 1.0))
    boxes = [geometry.random_box(256, 341, chosen, row.tolist(), False) for row in numbers]
    for box in boxes:
        assert box.top >= 0 and box.left >= 0 and box.top + box.height <= 256 and box.left + box.width <= 341
        assert 0.73 < box.width / box.height < 1.37
    area = np.array([box.height * box.width for box in boxes]) / (256 * 341)
    assert 0.07 < area.min() < 0.1
    assert 0.40 < area.mean() < 0.47  # below 0.54, as large boxes do not fit and are drawn anew
    narrow = geometry.random_box(30, 400, AugmentConfig(crop_scale=(1.0, 1.0)), [0.5] * geometry.CROP_NUMBERS, False)
    assert narrow == (0, 180, 30, 40, False), "the centre, where nothing fits"


def test_evaluation_is_resize_and_centre_crop():
    import torchvision.transforms.v2.functional as TF

    rgb = torch.randint(0, 256, (3, 90, 121), dtype=torch.uint8)
    expected = TF.center_crop(TF.resize(rgb, [64], antialias=True), [56, 56])
    found = geometry.centre(rgb, "rgb", 56, 0.875)
    assert found.shape == (3, 56, 56)
    assert (found.int() - expected.int()).abs().float().mean() < 20, "half a pixel apart at most"
    straight = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)
    assert torch.equal(geometry.centre(straight, "rgb", 60, 1.0), TF.center_crop(TF.resize(straight, [60]), [60, 60]))


def test_valid_pixels_are_averaged_alone():
    depth = torch.full((1, 40, 40), 2.0)
    depth[:, :, :10] = torch.nan
    z = geometry.centre(depth, "depth", 20, 1.0)
    assert z[0, :, :4].isnan().all()
    torch.testing.assert_close(z[0, :, 6:], torch.full((20, 14), 2.0))


# --- mixing --------------------------------------------------------------------------------------------------------


def test_mixing_mixes_depth_and_label_with_the_same_share():
    rgb = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 16, 16)
    depth = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 16, 16)
    target = torch.eye(8)
    for settings in ({"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}):
        chosen = AugmentConfig(mix_group=4, **settings)
        mixed_rgb, mixed_depth, mixed_target = mix(rgb, depth, target, chosen, 0, 5)
        expected = mixed_target @ torch.arange(8.0)
        torch.testing.assert_close(mixed_rgb.mean((1, 2, 3)), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mixed_depth.mean((1, 2, 3)), expected, rtol=1e-4, atol=1e-4)
        assert ((mixed_target > 0).sum(1) == 2).all()
        assert (mixed_target[:4, 4:] == 0).all(), "groups do not mix with each other"


def test_mixing_is_a_function_of_the_group_alone():
    rgb, depth, target = torch.randn(8, 3, 8, 8), torch.randn(8, 1, 8, 8), torch.eye(8)
    chosen = AugmentConfig(mix_group=4, mixup_alpha=0.8, cutmix_alpha=1.0)
    both = mix(rgb, depth, target, chosen, 0, 6)
    second = mix(rgb[4:], depth[4:], target[4:], chosen, 0, 7)
    for whole, part in zip(both, second, strict=True):
        torch.testing.assert_close(whole[4:], part, rtol=0, atol=0)


def test_mixup_where_depth_is_missing_takes_the_partners():
    depth = torch.stack([torch.full((1, 4, 4), torch.nan), torch.full((1, 4, 4), 2.0)])
    chosen = AugmentConfig(mix_group=2, mixup_alpha=0.8)
    _, mixed, _ = mix(torch.zeros(2, 3, 4, 4), depth, torch.eye(2), chosen, 0, 0)
    torch.testing.assert_close(mixed, torch.full((2, 1, 4, 4), 2.0))
    _, missing, _ = mix(torch.zeros(2, 3, 4, 4), depth[:1].repeat(2, 1, 1, 1), torch.eye(2), chosen, 0, 0)
    assert missing.isnan().all()
