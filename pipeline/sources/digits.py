"""Overlapping digits as a source: `exact`, `real` (sensor, filled), `raw` (sensor) depth, class and labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from PIL import Image

from pipeline import digits, scenes, shards
from pipeline.depth_field import FILLED, MEASURED, RENDERED, DepthField
from pipeline.sources import Photograph, SourceError
from pipeline.sources.ledger import Ledger, Listed

_VAL_STREAM = 1_000_003  # val images come from seed + this


class Digits:
    """`samples` training and `val_samples` validation images of `pipeline.digits`, by seed."""

    name = "digits"
    splits: Sequence[str] = ("train", "val")
    class_names: Sequence[str] = digits.CLASS_NAMES
    seg_names: Sequence[str] = digits.SEG_NAMES
    depth_fields: Mapping[str, DepthField] = {"exact": RENDERED, "real": FILLED, "raw": MEASURED}
    samples_per_unit = 1
    listing_in_config = True  # nothing is read: seeds and counts decide everything
    expected: Mapping[str, int] = {}
    notes: Sequence[str] = ()

    def __init__(self, samples: int, val_samples: int, seed: int, picture: digits.DigitsConfig) -> None:
        if samples < 1 or val_samples < 1:
            raise SourceError(f"--samples and --val-samples must be at least 1, got {samples} and {val_samples}")
        self.num_samples = {"train": samples, "val": val_samples}
        self.seed, self.picture = seed, picture

    def listing(self, ledger: Ledger) -> Iterator[Listed]:
        ledger.seen += sum(self.num_samples.values())
        for split, count in self.num_samples.items():
            for index in range(count):
                yield Listed(split, f"{index:08d}", -1)

    def samples(self, unit: str) -> Sequence[str]:
        return [unit]

    def key(self, split: str, item: str) -> str:
        return f"digits-{item}"

    def load(self, split: str, item: str) -> Photograph:
        seed = self.seed + (_VAL_STREAM if split == "val" else 0)
        stack = digits.render(seed, int(item), replace(self.picture, split=split))
        top, below = stack.digits
        return Photograph(
            image=Image.fromarray(stack.rgb),
            rgb_bytes=shards.png_bytes(stack.rgb),
            rgb_extension="rgb.png",
            facts={
                "source": f"digits seed {seed} image {int(item)}",
                "caption": f"{digits.CLASS_NAMES[top.label]} on {digits.CLASS_NAMES[below.label]}",
                "glyphs": [top.glyph, below.glyph],  # in scikit-learn's set, the one on top first
                "overlap": shards.runs_of(stack.overlap),
            },
            depth={"exact": stack.exact_m, "real": scenes.fill(stack.sensor_m), "raw": stack.sensor_m},
            cls=stack.label,
            seg=stack.seg,
        )

    def config(self) -> dict[str, Any]:
        picture = {name: value for name, value in asdict(self.picture).items() if name != "split"}
        return {"name": self.name, "seed": self.seed, **self.num_samples, **picture}
