"""One geometry for RGB and depth, photometry on RGB only, CutMix and MixUp on four channels.

Every random number of a sample follows from (seed, epoch, key), those of a mixing group from (seed, group): nothing
depends on workers, batch or history. Inside, an image is one float tensor `joint` of five planes, RGB in 0..255, z with
0 at invalid pixels, and validity 0..1, so that whatever moves one moves all.

RandAugment: torchvision's 14 operations, magnitudes and bins (arXiv 1909.13719); torchvision's own class refuses a
second image.
"""

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from numpy.typing import NDArray
from torch import Tensor

import data_manifests
from training.config import AugmentConfig, Config

if TYPE_CHECKING:
    from training.data import Batch

_RGB = data_manifests.load("imagenet1k")
RGB_MEAN, RGB_STD = tuple(_RGB["rgb_mean"]), tuple(_RGB["rgb_std"])
_BINS = 31
_GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_SIGNED = {*_GEOMETRIC, "brightness", "color", "contrast", "sharpness"}
_OPERATIONS: tuple[str, ...] = (
    "identity",
    *_GEOMETRIC,
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
)
_OPERATIONS += ("autocontrast", "equalize")


def generator(*parts: object) -> np.random.Generator:
    """Random numbers that are a pure function of `parts`."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, np.uint64)))


def join(rgb: NDArray[np.uint8], depth: NDArray[np.float32]) -> Tensor:
    """(height, width, 3) and (height, width) z with NaN to the five planes (5, height, width)."""
    z = torch.from_numpy(depth)
    valid = ~z.isnan()
    planes = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)
    return torch.cat([planes, torch.where(valid, z, 0.0)[None], valid.float()[None]])


def separate(joint: Tensor) -> tuple[Tensor, Tensor]:
    """(5, h, w) to uint8 (3, h, w) and z (1, h, w), NaN where less than half of what was averaged was valid."""
    rgb = joint[:3].round().clamp(0, 255).to(torch.uint8)
    return rgb, torch.where(joint[4:] >= 0.5, joint[3:4] / joint[4:].clamp_min(0.5), torch.nan)


def train_view(joint: Tensor, size: int, config: AugmentConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A random crop, flip and RandAugment: uint8 (3, size, size) and z (1, size, size)."""
    top, left, height, width = random_crop(joint.shape[1], joint.shape[2], config, rng)
    joint = resize(joint[:, top : top + height, left : left + width], (size, size))
    if rng.random() < config.flip:
        joint = joint.flip(2)
    for _ in range(config.rand_augment_ops):
        joint = rand_augment_once(joint, config.rand_augment_magnitude, rng)
    return separate(joint)


def eval_view(joint: Tensor, size: int, eval_crop: float) -> tuple[Tensor, Tensor]:
    """Resize the short side to size / eval_crop, centre crop."""
    height, width = joint.shape[1:]
    scale = round(size / eval_crop) / min(height, width)
    joint = resize(joint, (max(size, round(height * scale)), max(size, round(width * scale))))
    top, left = (joint.shape[1] - size) // 2, (joint.shape[2] - size) // 2
    return separate(joint[:, top : top + size, left : left + size])


def resize(joint: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear; z is averaged over valid pixels only (its plane is 0 where validity is 0)."""
    if tuple(joint.shape[1:]) == size:
        return joint
    return F.interpolate(joint[None], size, mode="bilinear", antialias=True)[0]


def random_crop(height: int, width: int, config: AugmentConfig, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """RandomResizedCrop's box: top, left, height, width."""
    low, high = math.log(config.crop_ratio[0]), math.log(config.crop_ratio[1])
    for _ in range(10):
        area = height * width * rng.uniform(*config.crop_scale)
        ratio = math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    ratio = min(max(width / height, config.crop_ratio[0]), config.crop_ratio[1])
    h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
    return (height - h) // 2, (width - w) // 2, h, w


def rand_augment_once(joint: Tensor, magnitude_bin: int, rng: np.random.Generator) -> Tensor:
    """One uniformly drawn operation at the given bin, its sign drawn too where it has one."""
    operation = _OPERATIONS[int(rng.integers(len(_OPERATIONS)))]
    magnitude = _magnitude(operation, magnitude_bin, joint.shape[2], joint.shape[1])
    if operation in _SIGNED and rng.random() < 0.5:
        magnitude = -magnitude
    if operation in _GEOMETRIC:
        return _move(joint, operation, magnitude)
    rgb = joint[:3].round().clamp(0, 255).to(torch.uint8)
    return torch.cat([_recolour(rgb, operation, magnitude).float(), joint[3:]])


def _magnitude(operation: str, magnitude_bin: int, width: int, height: int) -> float:
    share = magnitude_bin / (_BINS - 1)
    match operation:
        case "shear_x" | "shear_y":
            return 0.3 * share
        case "translate_x":
            return 150.0 / 331.0 * width * share
        case "translate_y":
            return 150.0 / 331.0 * height * share
        case "rotate":
            return 30.0 * share
        case "posterize":
            return float(8 - round(4 * share))
        case "solarize":
            return 255.0 * (1 - share)
    return 0.9 * share


def _move(joint: Tensor, operation: str, magnitude: float) -> Tensor:
    """Nearest neighbour, as torchvision's default; what comes in from outside is black and invalid."""
    if operation == "rotate":
        return TF.rotate(joint, magnitude)
    shear = [0.0, 0.0]
    translate = [0, 0]
    if operation.startswith("shear"):
        shear[operation == "shear_y"] = math.degrees(math.atan(magnitude))
    else:
        translate[operation == "translate_y"] = int(magnitude)
    # torchvision shears about the top left corner here, as AutoAugment's original does.
    centre = [0.0, 0.0] if operation.startswith("shear") else None
    return TF.affine(joint, 0.0, translate, 1.0, shear, center=centre)


def _recolour(rgb: Tensor, operation: str, magnitude: float) -> Tensor:
    match operation:
        case "brightness":
            return TF.adjust_brightness(rgb, 1 + magnitude)
        case "color":
            return TF.adjust_saturation(rgb, 1 + magnitude)
        case "contrast":
            return TF.adjust_contrast(rgb, 1 + magnitude)
        case "sharpness":
            return TF.adjust_sharpness(rgb, 1 + magnitude)
        case "posterize":
            return TF.posterize(rgb, int(magnitude))
        case "solarize":
            return TF.solarize(rgb, magnitude)
        case "autocontrast":
            return TF.autocontrast(rgb)
        case "equalize":
            return TF.equalize(rgb)
    return rgb


def normalise(rgb: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (batch, 3, h, w) to zero mean and unit variance of the data set."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=rgb.device).view(3, 1, 1)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=rgb.device).view(3, 1, 1)
    return rgb.float() * scale - shift


def model_inputs(batch: "Batch", config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """What is left to do on the device: normalised RGB, z with NaN, and soft targets (batch, classes)."""
    rgb, depth = normalise(batch.rgb, RGB_MEAN, RGB_STD), batch.depth
    target = F.one_hot(batch.label, config.model.num_classes).to(rgb.dtype)
    if config.augment.mixes:
        group = batch.first // config.augment.mix_group
        rgb, depth, target = mix(rgb, depth, target, config.augment, config.seed, group)
    return rgb, depth, target


def mix(
    rgb: Tensor, depth: Tensor, target: Tensor, config: AugmentConfig, seed: int, first_group: int
) -> tuple[Tensor, Tensor, Tensor]:
    """CutMix or MixUp inside each group of `mix_group` consecutive samples, on RGB, depth and soft target together.

    Each sample's partner is its neighbour in the group's own rotation; λ, box and method are drawn per group.
    """
    groups = zip(*(tensor.split(config.mix_group) for tensor in (rgb, depth, target)), strict=True)
    mixed = [
        _mix_group(rgb, depth, target, config, generator(seed, "mix", first_group + number))
        for number, (rgb, depth, target) in enumerate(groups)
    ]
    rgb, depth, target = (torch.cat(parts) for parts in zip(*mixed, strict=True))
    return rgb, depth, target


def _mix_group(
    rgb: Tensor, depth: Tensor, target: Tensor, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    use_cutmix = rng.random() < 0.5 if config.mixup_alpha > 0 and config.cutmix_alpha > 0 else config.cutmix_alpha > 0
    alpha = config.cutmix_alpha if use_cutmix else config.mixup_alpha
    share = float(rng.beta(alpha, alpha))
    partner = [tensor.roll(1, 0) for tensor in (rgb, depth, target)]
    if not use_cutmix:
        valid = share * (~depth.isnan()).float() + (1 - share) * (~partner[1].isnan()).float()
        total = share * depth.nan_to_num(0.0) + (1 - share) * partner[1].nan_to_num(0.0)
        depth = torch.where(valid > 0, total / valid.clamp_min(1e-6), torch.nan)
        return share * rgb + (1 - share) * partner[0], depth, share * target + (1 - share) * partner[2]
    height, width = rgb.shape[2:]
    cut = math.sqrt(1 - share)
    cy, cx = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(0, cy - int(height * cut) // 2), min(height, cy + int(height * cut) // 2)
    left, right = max(0, cx - int(width * cut) // 2), min(width, cx + int(width * cut) // 2)
    box = (..., slice(top, bottom), slice(left, right))
    rgb, depth = rgb.clone(), depth.clone()
    rgb[box], depth[box] = partner[0][box], partner[1][box]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return rgb, depth, share * target + (1 - share) * partner[2]
