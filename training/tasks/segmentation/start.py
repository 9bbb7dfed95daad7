"""What fine-tuning begins with: a run or an export of ours, any plain ViT, or the DFormer authors' weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training import weights
from training.config import ConfigError
from training.models import pretrained
from training.models.ham import LightHam
from training.models.pretrained import Report, ReportRow, Weights
from training.models.registry import MONIKERS
from training.models.relatives.checkpoints import load_authors
from training.models.relatives.dformer import DFormer
from training.models.relatives.dformerv2 import DFormerV2
from training.models.segmenter import Segmenter
from training.models.vit import VisionTransformer, VitConfig

HEADS = ("pyramid", "decode head", "classifier")  # of a report's rows those that no backbone has
AUTHORS = "dformer-greys"  # the input convention of their weights


@dataclass(frozen=True)
class Start:
    """`origin` is what is known of it, for run.json. Without `source` every weight starts fresh.

    `found` are its weights, where they have been read; else `load` reads them.
    """

    source: str | None
    model: dict[str, Any]  # the backbone's config as far as the source tells it
    found: Weights | None
    origin: dict[str, Any] | None
    allow_missing: Sequence[str] = ()  # patterns of weights, for files of the DFormer authors
    allow_unexpected: Sequence[str] = ()

    @classmethod
    def read(cls, source: str | None, moniker: str | None) -> "Start":
        """Find out what `--init` names; ConfigError or ModelError where it and `--model` do not fit."""
        if source is None:
            if moniker is None:
                raise ConfigError("--model must be given where there is no --init to start from")
            return cls(None, {"name": moniker}, None, None)
        if moniker is not None and moniker not in MONIKERS:
            return cls(source, {"name": moniker, "inputs": AUTHORS}, None, None)
        model, found = weights.start(source, moniker)
        return cls(source, model, found, weights.origin(found))

    def load(self, model: Segmenter) -> Report:
        """Put the weights into the model's backbone (and head, of the authors' segmentation checkpoints)."""
        assert self.source is not None
        backbone = model.backbone
        if not isinstance(backbone, VisionTransformer):
            head = model.decode_head
            assert isinstance(head, LightHam) and isinstance(backbone, DFormer | DFormerV2)
            return load_authors(backbone, head, self.source, self.allow_missing, self.allow_unexpected)
        found = self.found or weights.read(self.source)
        # At the source's own grid: the position embedding is resampled once.
        config = backbone.config.model_copy(update={"image_size": _grid_of(found, backbone.config)})
        plain = config.build()
        report = pretrained.load(plain, found, self.source)
        plain.regrid(backbone.grid)
        backbone.load_state_dict({k: v for k, v in plain.state_dict().items() if not k.startswith("head.")})
        rows = [_regridded(row, plain, backbone) for row in report.rows if row.what != "head"]
        for what, part in (("pyramid", model.pyramid), ("decode head", model.decode_head)):
            if part is not None:
                tensors = list(part.parameters())
                rows.append(ReportRow(what, "fresh", len(tensors), sum(p.numel() for p in tensors)))
        return Report(report.source, report.sha256, tuple(rows), report.note)


def _regridded(row: ReportRow, plain: VisionTransformer, backbone: VisionTransformer) -> ReportRow:
    before, now = plain.config.grid, backbone.grid
    if row.what != "position embedding" or before == now:
        return row
    detail = f"{before[0]}x{before[1]} to {now[0]}x{now[1]}"
    return ReportRow(
        row.what, "adapted", row.tensors, backbone.pos_embed.numel(), ", ".join(filter(None, (row.detail, detail)))
    )


def _grid_of(found: Weights, config: VitConfig) -> int:
    """The image size whose grid a file's position embedding is on; the config's where it is not known or not square."""
    table = found.state.get("pos_embed")
    side = (
        math.isqrt(max(0, table.shape[1] - 1)) if found.config is None and table is not None and table.ndim == 3 else 0
    )
    known = table is not None and side > 0 and side**2 == table.shape[1] - 1
    return side * config.patch_size if known else config.image_size
