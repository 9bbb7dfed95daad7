"""Augmentation: one geometry for every plane, torchvision's operations, mixing on all channels."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from pipeline import depth_codec, shards
from training.loading.augment import affine, geometry, rand_augment
from training.loading.augment.config import AugmentConfig
from training.loading.augment.mix import mix
from training.random_numbers import generator
from training.tasks.classification import samples
from training.tasks.classification.batch import Batch
from training.tasks.classification.config import resolve

THEIRS = v2.RandAugment(num_ops=2, magnitude=9)
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


HEIGHT, WIDTH, HOLE = 91, 120, (slice(30, 52), slice(40, 73))
SAYS = {"exact": 0, "raw": 1}  # the depth that says what this channel of RGB says: the column, the row
MOVES = {rand_augment.OPERATIONS.index(operation) for operation in ("identity", *rand_augment.GEOMETRIC)}


@functools.cache
def coordinates() -> dict[str, tuple[str, bytes]]:
    """Members that say where each pixel comes from: RGB (2 column, 2 row, 255 outside a hole), depth with that hole."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[HOLE] = False
    members = {"cls": ("cls", b"3")}
    members["rgb"] = ("rgb.png", shards.png_bytes(np.stack([2 * columns, 2 * rows, 255 * valid], -1).astype(np.uint8)))
    for name, said in (("exact", columns), ("raw", rows)):
        z = np.where(valid, 2 * said, np.nan).astype(np.float32)
        members[name] = (f"{name}.{depth_codec.EXTENSION}", depth_codec.encode(z, 2**-6))
    return members


def seen_by_training(
    depth_field: str, settings: Sequence[str], keys: Iterable[str], leave_draws: bool = False
) -> Batch:
    config = resolve("tiny", "m4ch", [f"data.depth={depth_field}", *settings], 6)
    members = [(0, shards.Members(key, "a.tar", coordinates())) for key in keys]
    return samples.train_batch(members, len(members), config, 0, leave_draws)


def assert_rgb_and_depth_agree(batch: Batch, channel: int) -> None:
    """Within rounding: half a pixel apart is already too far."""
    rgb, z = batch.rgb.float(), batch.depth[:, 0]
    said, share = rgb[:, channel], rgb[:, 2] / 255
    assert (z.isnan() == (share < 0.5))[(share - 0.5).abs() > 0.01].all(), "the hole, and what comes in from outside"
    whole = share == 1
    assert whole.float().mean() > 0.4
    torch.testing.assert_close(z[whole], said[whole], rtol=0, atol=1.0)
    assert (z[whole] - said[whole]).abs().mean() < 0.6, "ties round up: half at most"
    at_hole = ~z.isnan() & ~whole  # fewer pixels are averaged: up to the reach of the filter away
    torch.testing.assert_close(z[at_hole], said[at_hole], rtol=0, atol=8.0)


@pytest.mark.parametrize("depth_field", SAYS)
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("scale", [(0.05, 0.3), (0.2, 1.0), (1.0, 1.0)])
def test_training_sees_rgb_and_depth_through_one_box(depth_field, flip, scale):
    settings = [f"augment.flip={flip}", f"augment.crop_scale={list(scale)}"]
    batch = seen_by_training(depth_field, settings, map(str, range(24)))
    assert_rgb_and_depth_agree(batch, SAYS[depth_field])
    columns = batch.rgb[:, 0].int()
    assert ((columns[..., -1] > columns[..., 0]) == (flip == 0)).all()
    if scale != (1.0, 1.0):
        assert len({(one[0, 0].item(), one[-1, -1].item()) for one in columns}) > 12, "boxes differ"


@pytest.mark.parametrize("depth_field", SAYS)
@pytest.mark.parametrize("number", [1, 2])
def test_randaugment_moves_depth_with_rgb(depth_field, number):
    """The samples whose draws recolour nothing, which would change what RGB says."""
    settings = ["augment.crop_scale=[0.3, 1.0]", f"augment.rand_augment_ops={number}"]
    drawn = seen_by_training(depth_field, settings, map(str, range(200 * number)), leave_draws=True)
    operations = drawn.draws[..., 0].int().tolist()
    keys = [key for key, row in zip(drawn.keys, operations, strict=True) if MOVES.issuperset(row)]
    assert {operation for row in operations if MOVES.issuperset(row) for operation in row} == MOVES
    moved = seen_by_training(depth_field, settings, keys)
    still = seen_by_training(depth_field, settings[:1], keys)
    assert (moved.rgb != still.rgb).flatten(1).any(1).float().mean() > 0.7
    assert_rgb_and_depth_agree(moved, SAYS[depth_field])


@pytest.mark.parametrize("depth_field", SAYS)
@pytest.mark.parametrize("share", [0.6, 0.875, 1.0])
@pytest.mark.parametrize("size", [24, 48, 96])
def test_evaluation_sees_rgb_and_depth_alike(depth_field, share, size):
    settings = [f"data.depth={depth_field}", f"augment.eval_crop={share}", f"model.image_size={size}"]
    config = resolve("tiny", "m4ch", settings, 6)
    members = [shards.Members("a", "a.tar", coordinates())]
    batch = samples.eval_batch(members, 1, config, depth_field, 0)
    assert_rgb_and_depth_agree(batch, SAYS[depth_field])
    middle = batch.rgb[0, 0].float().mean().item(), batch.rgb[0, 1].float().mean().item()
    half_a_pixel = HEIGHT * share / size
    assert middle == pytest.approx((WIDTH - 1, HEIGHT - 1), abs=half_a_pixel + 1), "the centre"


@pytest.mark.parametrize("operation", [None, *rand_augment.GEOMETRIC])
@pytest.mark.parametrize("seed", range(4))
def test_labels_move_with_rgb(seed, operation):
    """No training reads labels: their plane by hand, through one box."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    picture = torch.from_numpy(np.stack([2 * columns, 2 * rows, np.full_like(rows, 128)]).astype(np.uint8))
    truth = torch.from_numpy((columns // 2 + rows // 2).astype(np.uint8)[None])
    rng, chosen = generator("planes", seed), AugmentConfig(crop_scale=(0.2, 1.0))
    box = geometry.random_box(HEIGHT, WIDTH, chosen, rng.random(geometry.CROP_NUMBERS).tolist(), flip=bool(seed % 2))
    rgb = geometry.resize(geometry.crop(picture, box), "rgb", (48, 48))[None]
    labels = geometry.resize(geometry.crop(truth, box), "labels", (48, 48))[None]
    if operation:
        number = rand_augment.OPERATIONS.index(operation)
        draws = torch.tensor([[[number, rand_augment.strengths(9, 48, 48)[number] * (-1) ** (seed // 2)]]])
        rgb, [labels] = rand_augment.apply(rgb, [labels], draws)
    inside = labels[0, 0] != rand_augment.VOID
    assert inside.float().mean() > 0.4
    said = (rgb[0, 0].float() + rgb[0, 1].float()) / 4
    torch.testing.assert_close(labels[0, 0].float()[inside], said[inside], rtol=0, atol=2.01)
    assert (rgb[0, 2][inside] == 128).all()
    assert (rgb[0][:, ~inside] == 0).all(), "what comes in from outside"


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
    for extreme in ((100.0, 100.0), (0.01, 0.01)):
        chosen = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=extreme)
        for side in (1, 30):
            box = geometry.random_box(side, side, chosen, [0.5] * geometry.CROP_NUMBERS, False)
            assert 0 < box.height <= side and 0 < box.width <= side, "never empty"


def test_a_box_is_of_the_first_numbers_that_fit():
    """A share of the area, even between the bounds; a ratio, even between their logarithms; then its corner."""
    chosen, rest = AugmentConfig(crop_scale=(0.2, 0.3), crop_ratio=(0.5, 2.0)), [0.0] * (geometry.CROP_NUMBERS - 4)
    box = geometry.random_box(1000, 1000, chosen, [0.5, 0.5, *rest, 0.9999, 0.0], False)
    assert box == (500, 0, 500, 500, False), "a quarter, square, at the lowest row there is"
    box = geometry.random_box(1000, 1000, chosen, [0.0, 0.25, *rest, 0.0, 0.9999], True)
    height, width = round((200_000 * 2**0.5) ** 0.5), round((200_000 / 2**0.5) ** 0.5)
    assert box == (0, 1000 - width, height, width, True)


ODD_SIZES = [
    (90, 121), (57, 57), (333, 500), (375, 499), (61, 200), (224, 224), (99, 100), (255, 257), (31, 45), (17, 90),
    (400, 401), (227, 300),
]  # fmt: skip


@pytest.mark.parametrize(("size", "share"), [(56, 0.875), (224, 0.875), (60, 1.0), (60, 0.875)])
@pytest.mark.parametrize("shape", ODD_SIZES + [(width, height) for height, width in ODD_SIZES if height != width])
def test_evaluation_is_torchvisions_resize_and_centre_crop(shape, size, share):
    """To the last bit, however the pixels lie in memory, and so whichever decoder they come from."""
    resize = v2.Resize(round(size / share), interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
    pixels = np.random.default_rng(shape[0]).integers(0, 256, (*shape, 3), dtype=np.uint8)
    interleaved = torch.from_numpy(pixels).permute(2, 0, 1)
    planar = interleaved.contiguous()
    expected = v2.CenterCrop(size)(resize(planar))
    for rgb in (interleaved, planar):
        assert torch.equal(geometry.centre(rgb, "rgb", size, share), expected)


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
