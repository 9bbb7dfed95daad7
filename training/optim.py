"""AdamW over every trainable parameter, in exactly one group each, and the learning rate of a step."""

import math

import torch
from torch import nn

from training.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Two groups, with and without decay. 1-D parameters (biases, norms, scalars) decay only with `decay_1d`."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    # Position embedding and class token are (1, tokens, width): by their shape they decay, as in torchvision.
    decayed = [p for p in trainable if p.ndim > 1 or config.decay_1d]
    plain = [p for p in trainable if not (p.ndim > 1 or config.decay_1d)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas)
    covered = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(covered) == sorted(id(p) for p in trainable), "a trainable parameter is in no group, or in two"
    return optimizer


def learning_rate(config: OptimConfig, epoch: float) -> float:
    """Linear from warmup_factor * lr over warmup_epochs, then cosine to min_lr at `epochs`.

    `epoch` is fractional; with `schedule = "epoch"` its whole part counts.
    """
    if config.schedule == "epoch":
        epoch = math.floor(epoch)
    if epoch < config.warmup_epochs:
        return config.lr * (config.warmup_factor + (1 - config.warmup_factor) * epoch / config.warmup_epochs)
    progress = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
