"""Tiny sparse-query networks with random weights, and folders of teachers made of them."""

import torch

from pipeline.teachers.sparse_teacher import build, save
from pipeline.teachers.spd_v13 import SpdV13Config
from pipeline.teachers.spd_v15 import SpdV15Config

MEAN_M, STD_M = 3.25, 1.5
CONFIGS = {
    "spd-v15": SpdV15Config(
        encoder_width=24, encoder_heads=3, encoder_depth=4, taps=(0, 1, 2, 3), position_px=56, width=16, heads=4,
        layer_scale=1.0,
    ),
    "spd-v13": SpdV13Config(
        dims=(8, 8, 12, 16), depths=(1, 1, 1, 1), neck=(8, 12, 16, 20), width=16, heads=2, encoder_heads=4,
        encoder_layers=1, local_layers=1, routed=12,
    ),
}  # fmt: skip
DESIGNS = tuple(CONFIGS)


def tiny(name):
    torch.manual_seed(0)
    network = build(CONFIGS[name])
    last = network.head[-1] if name == "spd-v15" else network.final.head[-1]
    torch.nn.init.normal_(last.weight, std=0.2)  # so that depth differs between places
    return network


def folder_of(name, out):
    save(tiny(name), out, short_side_px=64, mean=MEAN_M, std=STD_M, facts={"run": "x"})
    return out
