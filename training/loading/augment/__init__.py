"""One geometry for RGB and depth, photometry on RGB only, CutMix and MixUp on four channels.

`random_numbers`: what every draw follows from; `geometry`: crop, flip, resize; `rand_augment` with its `photometry` and
`affine` operations, batched, on any device; `mix`: CutMix and MixUp; `inputs`: what is left to do on the device.
"""

from training.loading.augment.inputs import RGB_MEAN, RGB_STD, model_inputs, normalise
from training.loading.augment.random_numbers import generator

__all__ = ["RGB_MEAN", "RGB_STD", "generator", "model_inputs", "normalise"]
