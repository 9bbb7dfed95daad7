"""Small DFormer models that several tests build, and where the published layouts are."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from training.models.relatives.dformer import DFormerTinyConfig
from training.models.relatives.dformerv2 import DFormerV2SmallConfig

TINY = {"dims": (8, 8, 12, 16), "depths": (1, 2, 1, 2), "heads": (1, 2, 3, 2), "mlp_ratios": (2, 1, 2, 1)}
DFORMER = DFormerTinyConfig(**TINY, windows=(0, 3, 7, 2), drop_path=0.0)
DFORMERV2 = DFormerV2SmallConfig(**TINY, drop_path=0.0)
BOTH = pytest.mark.parametrize("config", [DFORMER, DFORMERV2], ids=["dformer", "dformerv2"])
PUBLISHED = [(DFormerTinyConfig, "dformer-tiny"), (DFormerV2SmallConfig, "dformerv2-small")]


def redrawn(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Every parameter and running statistic anew, what scales about 1, the rest about 0: nothing is zero or near it."""
    generator = torch.Generator().manual_seed(0)
    model.to(dtype).eval()
    with torch.no_grad():
        norms = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)}
        for name, value in model.named_parameters():
            around = float("layer_scale" in name or name in norms or name.endswith("Geo.weight"))
            value.copy_(around + 0.2 * torch.randn(value.shape, generator=generator, dtype=dtype))
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(0.2 * torch.randn(value.shape, generator=generator, dtype=dtype))
            elif name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator, dtype=dtype))
    return model


def layout(name: str) -> dict[str, dict[str, list[int]]]:
    folder = os.environ.get("PSEUDODEPTH_LAYOUTS")
    if not folder:
        pytest.skip("PSEUDODEPTH_LAYOUTS names no folder with the layouts of the authors' checkpoints")
    return json.loads((Path(folder) / f"{name}.json").read_text("utf-8"))
