"""Procedural RGB-D rooms as a source: `exact`, `real` (sensor, filled), `raw` (sensor) depth, class and labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from PIL import Image

from pipeline import scenes
from pipeline.depth_field import FILLED, MEASURED, RENDERED, DepthField
from pipeline.shards import png_bytes
from pipeline.sources import Photograph, SourceError
from pipeline.sources.ledger import Ledger, Listed

_VAL_STREAM = 1_000_003  # val scenes come from seed + this, so that no split ever shares a scene


class ToyRooms:
    """`samples` training and `val_samples` validation scenes of `pipeline.scenes`, by seed."""

    name = "toyrooms"
    splits: Sequence[str] = ("train", "val")
    class_names: Sequence[str] = scenes.CLASS_NAMES
    seg_names: Sequence[str] = scenes.SEG_NAMES
    depth_fields: Mapping[str, DepthField] = {"exact": RENDERED, "real": FILLED, "raw": MEASURED}
    samples_per_unit = 1
    listing_in_config = True  # nothing is read: seeds and counts decide everything
    expected: Mapping[str, int] = {}
    notes: Sequence[str] = ()

    def __init__(self, samples: int, val_samples: int, seed: int, scene: scenes.SceneConfig) -> None:
        if samples < 1 or val_samples < 1:
            raise SourceError(f"--samples and --val-samples must be at least 1, got {samples} and {val_samples}")
        self.num_samples = {"train": samples, "val": val_samples}
        self.seed, self.scene = seed, scene

    def listing(self, ledger: Ledger) -> Iterator[Listed]:
        ledger.seen += sum(self.num_samples.values())
        for split, count in self.num_samples.items():
            for index in range(count):
                yield Listed(split, f"{index:08d}", -1)

    def samples(self, unit: str) -> Sequence[str]:
        return [unit]

    def key(self, split: str, item: str) -> str:
        return f"room-{item}"

    def load(self, split: str, item: str) -> Photograph:
        seed = self.seed + (_VAL_STREAM if split == "val" else 0)
        scene = scenes.render(seed, int(item), self.scene)
        return Photograph(
            image=Image.fromarray(scene.rgb),
            rgb_bytes=png_bytes(scene.rgb),
            rgb_extension="rgb.png",
            facts={"source": f"toyrooms seed {seed} scene {int(item)}"},
            depth={"exact": scene.exact_m, "real": scenes.fill(scene.sensor_m), "raw": scene.sensor_m},
            cls=scene.label,
            seg=scene.seg,
        )

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "seed": self.seed, **self.num_samples, **asdict(self.scene)}
