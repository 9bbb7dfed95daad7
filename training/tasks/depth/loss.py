"""What a teacher of relative inverse depth is trained by."""

import torch
from torch import Tensor


def ssi_loss(estimated: Tensor, inverse_depth: Tensor) -> Tensor:
    """Scale-and-shift-invariant L1 plus gradient matching at 4 scales (MiDaS, Ranftl 2020, eqs. 5, 6 and 11): (batch,).

    Both maps (batch, height, width) are brought to mean 0 and mean absolute deviation 1 (the mean for MiDaS' median:
    these maps are clean, and it costs no sort). NaN in `inverse_depth` = unknown, left out; an image that is all
    unknown has loss 0.
    """
    valid = inverse_depth.isfinite()
    target = _normalised(torch.where(valid, inverse_depth, 0), valid)
    error = torch.where(valid, _normalised(estimated, valid) - target, 0)
    loss = error.abs().sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)
    for scale in range(4):
        step = error[:, :: 2**scale, :: 2**scale]
        known = valid[:, :: 2**scale, :: 2**scale]
        both_x, both_y = known[:, :, 1:] & known[:, :, :-1], known[:, 1:] & known[:, :-1]
        gradient = (step.diff(dim=2).abs() * both_x).sum((1, 2)) + (step.diff(dim=1).abs() * both_y).sum((1, 2))
        loss = loss + 0.5 * gradient / known.sum((1, 2)).clamp_min(1)
    return loss


def _normalised(depth: Tensor, valid: Tensor) -> Tensor:
    count = valid.sum((1, 2), keepdim=True).clamp_min(1)
    centred = depth - (depth * valid).sum((1, 2), keepdim=True) / count
    return centred / ((centred.abs() * valid).sum((1, 2), keepdim=True) / count).clamp_min(1e-4)
