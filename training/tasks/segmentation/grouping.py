"""The authors' optimizer grouping, which freezes parameters without a word; for comparison only.

DFormer's code walks the modules and takes the weights and biases of linear layers, convolutions and stock norms. What
is none of these (LayerScale, class token, position embedding, the bias's α, norms of its own class) comes into no group
and so is never updated. In a torchvision ViT, which the thesis used, QKV is a bare parameter as well, so it stays
frozen here too, although ours is a linear layer.
"""

from torch import nn

from training.models.attention import Attention

_TAKEN = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm,
)  # fmt: skip


def freeze(model: nn.Module) -> list[str]:
    """Take the gradient from what the authors' grouping leaves out; returns the names, in the model's order."""
    taken = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _TAKEN)
        for parameter in (module.weight, getattr(module, "bias", None))
    }
    taken -= {id(p) for module in model.modules() if isinstance(module, Attention) for p in module.qkv.parameters()}
    frozen = []
    for name, parameter in model.named_parameters():
        if id(parameter) not in taken and parameter.requires_grad:
            parameter.requires_grad_(False)
            frozen.append(name)
    return frozen
