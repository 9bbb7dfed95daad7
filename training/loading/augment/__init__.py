"""One geometry for RGB and depth, photometry on RGB only, CutMix and MixUp on four channels.

`geometry`: crop, flip, resize; `rand_augment` with its `photometry` and `affine` operations, batched, on any device;
`mix`: CutMix and MixUp; `normalise`: pixels as models take them; `config`: how strong all of it is.
"""
