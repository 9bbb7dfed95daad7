"""From a loader's batch to what a model takes, on the model's device."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import ONLINE
from training.loading.augment import rand_augment
from training.loading.augment.mix import mix
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.tasks.classification.batch import ImageBatch
from training.tasks.classification.config import Config


def model_inputs(batch: ImageBatch, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """What is left to do on the device: RandAugment where the batch brings its draws, normalise, mix.

    Normalised RGB (batch, 3, h, w), z (batch, 1, h, w) with NaN, soft targets (batch, classes); the batch stays as it
    is. Depth that was not read (data.depth=online) stays NaN: the teacher looks at the mixed RGB.
    """
    rgb, depth = batch.rgb, batch.depth
    if batch.draws is not None:
        read = config.data.depth != ONLINE
        rgb = rgb.clone(memory_format=torch.contiguous_format)
        rgb, moved = rand_augment.apply(rgb, [depth.clone()] if read else [], batch.draws)
        depth = moved[0] if read else depth
    rgb = normalise(rgb, RGB_MEAN, RGB_STD)
    target = F.one_hot(batch.label, config.model.num_classes).to(rgb.dtype)
    if config.augment.mixes:
        group = batch.first // config.augment.mix_group
        rgb, depth, target = mix(rgb, depth, target, config.augment, config.seed, group)
    return rgb, depth, target
