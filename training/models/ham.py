"""LightHam, DFormer's segmentation head: three maps, concatenated and cleaned by a matrix factorisation.

Source: Geng et al., "Is Attention Better Than Matrix Decomposition?" (ICLR 2021), in the light form that SegNeXt
introduced and DFormer took over; parameter names are those of DFormer's `decode_head`.

    x = ReLU(BN(conv(maps at strides 8, 16 and 32, resized bilinearly to stride 8 and concatenated)))
    x = ReLU(x + BN(conv(NMF(ReLU(conv(x) + bias)))))
    logits = classifier(Dropout2d(ReLU(BN(conv(x)))))

All convolutions are 1x1; BatchNorm has eps 1e-3 and momentum 0.1; convolutions start Kaiming normal (fan in).

NMF writes the pixels X (channels D x cells N), which are not negative, as bases B (D x rank) times coefficients C^T
(rank x N), from random bases and C = softmax over the rank of X^T B, by multiplicative updates (6 in training, 7 in
evaluation, then one more of the coefficients):

    C <- C * X^T B / (C B^T B + eps);   B <- B * X C / (B C^T C + eps);   eps = 1e-6

It runs in float32 under autocast too. Gradients pass through all updates, as in SegNeXt's and DFormer's code, where the
`no_grad` of the paper's one-step gradient is commented out; the bases drawn have none.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRAIN_STEPS, EVAL_STEPS = 6, 7
EPS = 1e-6
BASES_SEED = 0


class LightHam(nn.Module):
    """Maps (batch, channels[i], rows_i, columns_i), finest first, to logits (batch, classes, rows_0, columns_0).

    The public head draws its bases anew in every forward pass, in evaluation too. Ours does so in training alone, from
    torch's global generator, for each image. In evaluation the bases are the same for every image and pass, drawn once
    from a fixed seed: the logits are deterministic, do not depend on the batch around an image, and the global
    generator is not touched.
    """

    def __init__(
        self, channels: Sequence[int], num_classes: int, width: int = 512, rank: int = 64, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.squeeze = ConvNorm(sum(channels), width)
        self.hamburger = Hamburger(width, rank)
        self.align = ConvNorm(width, width)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(width, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        if tuple(map_.shape[1] for map_ in features) != self.channels:
            raise ValueError(
                f"features must be maps of {self.channels} channels, got {[tuple(map_.shape) for map_ in features]}"
            )
        finest = features[0].shape[2:]
        coarser = [F.interpolate(map_, finest, mode="bilinear", align_corners=False) for map_ in features[1:]]
        x = F.relu(self.squeeze(torch.cat([features[0], *coarser], 1)))
        x = F.relu(self.align(self.hamburger(x)))
        return self.conv_seg(self.dropout(x))


class ConvNorm(nn.Module):
    """1x1 convolution without bias, BatchNorm."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3, momentum=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class ConvBias(nn.Module):
    """1x1 convolution with bias, under the name that the public head gives it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Hamburger(nn.Module):
    eval_bases: Tensor

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.width, self.rank = width, rank
        self.ham_in = ConvBias(width)
        self.ham_out = ConvNorm(width, width)
        # Always drawn on the CPU: another device's generator gives other numbers.
        drawn = torch.rand(width, rank, generator=torch.Generator("cpu").manual_seed(BASES_SEED), device="cpu")
        bases = F.normalize(drawn, dim=0).to(torch.get_default_device())
        self.register_buffer("eval_bases", bases, persistent=False)

    def bases(self, x: Tensor) -> Tensor:
        """(batch, channels, rank), not negative, of length 1 over the channels."""
        if not self.training:
            return self.eval_bases.to(x.dtype).expand(len(x), -1, -1)
        return F.normalize(torch.rand(len(x), self.width, self.rank, device=x.device, dtype=x.dtype), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        pixels = F.relu(self.ham_in(x)).flatten(2)
        # the meta device, on which operations are counted, has no autocast
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            pixels = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
            steps = TRAIN_STEPS if self.training else EVAL_STEPS
            cleaned = factorised(pixels, self.bases(pixels), steps)
        return F.relu(x + self.ham_out(cleaned.unflatten(2, x.shape[2:]).to(x.dtype)))


def factorised(x: Tensor, bases: Tensor, steps: int) -> Tensor:
    """NMF of x (batch, channels, cells), not negative, from bases (batch, channels, rank): B C^T, shaped like x."""
    coefficients = (x.mT @ bases).softmax(-1)
    for _ in range(steps):
        coefficients = _updated_coefficients(x, bases, coefficients)
        bases = bases * (x @ coefficients) / (bases @ (coefficients.mT @ coefficients) + EPS)
    return bases @ _updated_coefficients(x, bases, coefficients).mT


def _updated_coefficients(x: Tensor, bases: Tensor, coefficients: Tensor) -> Tensor:
    return coefficients * (x.mT @ bases) / (coefficients @ (bases.mT @ bases) + EPS)
