"""Fine-tuning as tests build it: small configurations, samples in memory, the words of a command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tiny_relatives import TINY

from pipeline import depth_codec, shards
from training.tasks.segmentation.config import FinetuneConfig, resolve

VITS = ("m3ch", "mlin", "mmlp", "m4ch", "mdf1", "mgem")
RELATIVES = {
    "dformer-tiny": {**TINY, "windows": (0, 3, 7, 2), "drop_path": 0.1},
    "dformerv2-small": {**TINY, "drop_path": 0.1},
}
SIZE = ("model.image_size=32", "model.width=24", "model.depth=2", "model.heads=3")
SMALL_HEAD = ("head.channels=8", "head.width=8", "head.rank=4")

# Two epochs of five steps on the rooms of the fixture, from the session's pre-trained run or fresh.
FAST = ("augment.crop=[48,48]", "optim.epochs=2", "optim.steps_per_epoch=5", "optim.batch_size=8", "select.every=1",
        "optim.ema_decay=0.9", "runtime.workers=1", "runtime.log_every=2", "runtime.checkpoint_every=3",
        'runtime.loggers=[]')  # fmt: skip


def config_of(name: str, *settings: str, num_classes: int = 5, head: str | None = None, **more: Any) -> FinetuneConfig:
    """A variant or a relative, small."""
    model = {"name": name, **RELATIVES.get(name, {})}
    chosen = (*SMALL_HEAD, "runtime.workers=0", "runtime.device=cpu", *settings)
    if name in RELATIVES:
        return resolve("dformer-nyu", model, chosen, num_classes=num_classes, head=head, **more)
    return resolve("tiny", model, (*SIZE, *chosen), num_classes=num_classes, head=head, **more)


def members(rgb: np.ndarray, z: np.ndarray, label: np.ndarray, key: str = "sample", field: str = "real"):
    """A sample as it lies in a shard; z to 1/1024."""
    return shards.Members(key, "some.tar", {
        "rgb": ("rgb.png", shards.png_bytes(rgb)),
        field: (f"{field}.pdz", depth_codec.encode(z.astype(np.float32), 2**-10)),
        "seg": ("seg.png", shards.png_bytes(label)),
    })  # fmt: skip


def words(
    rooms: object, out: Path, init: object = None, settings: Sequence[str] = FAST, preset: str = "tiny"
) -> list[str]:
    begun = [] if init is None else ["--init", str(init)]
    line = ["finetune", "--preset", preset, "--data", str(rooms), "--out", str(out), *begun]
    return line + [word for setting in settings for word in ("--set", setting)]
