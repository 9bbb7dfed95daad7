"""What a network of metric depth is trained by."""

import torch
from torch import Tensor

from pipeline.teachers.sparse import in_full

SHARE = 0.5  # of the squared mean error that is forgiven; 1 forgives any scale
_LEAST = 1e-8  # below the root, whose gradient at 0 would be infinite; bf16 would lose it


def silog(estimated: Tensor, true: Tensor, share: float = SHARE) -> Tensor:
    """SILog (Eigen 2014): sqrt(mean d^2 - share (mean d)^2 + 1e-8), d = log estimated - log true: (batch,).

    Both in metres, (batch, ...), NaN in `true` = unknown, left out; an image that is all unknown has loss 0. The
    documents take the root over a whole batch, which is no sum over images: it would depend on how a batch is cut into
    micro-batches and ranks. Here each image has its own, as large as any other.
    """
    with in_full(estimated):
        valid = true.isfinite()
        count = valid.flatten(1).sum(1)
        ones = torch.ones((), device=true.device)
        error = torch.where(valid, estimated.float(), ones).log() - torch.where(valid, true.float(), ones).log()
        error = error.flatten(1)
        mean = error.sum(1) / count.clamp_min(1)
        centred = torch.where(valid.flatten(1), error - mean[:, None], 0)
        # The same as the formula, and never below 0 by rounding.
        variance = centred.square().sum(1) / count.clamp_min(1)
        return torch.where(count > 0, (variance + (1 - share) * mean.square() + _LEAST).sqrt(), 0)
