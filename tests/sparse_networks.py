"""Tiny sparse-query networks with random weights, and folders of teachers made of them."""

import torch

from pipeline.teachers.sparse_teacher import build, save
from pipeline.teachers.spd_v15 import SpdV15Config

MEAN_M, STD_M = 3.25, 1.5
CONFIGS = {
    "spd-v15": SpdV15Config(
        encoder_width=24, encoder_heads=3, encoder_depth=4, taps=(0, 1, 2, 3), position_px=56, width=16, heads=4,
        layer_scale=1.0,
    ),
}  # fmt: skip
DESIGNS = tuple(CONFIGS)


def tiny(name):
    torch.manual_seed(0)
    network = build(CONFIGS[name])
    with torch.no_grad():
        list(network.head.parameters())[-2].mul_(4)  # so that depth differs between places
    return network


def folder_of(name, out):
    save(tiny(name), out, short_side_px=64, mean=MEAN_M, std=STD_M, facts={"run": "x"})
    return out
