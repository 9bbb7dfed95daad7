"""The DFormer authors' checkpoints into our backbones and head, every weight of a file accounted for.

Two kinds exist. A segmentation checkpoint holds the backbone and `decode_head`. One of ImageNet pre-training holds the
backbone and what it was classified with; the head then starts fresh. By the authors' published code a file

- may hold what we leave out and report: an `aux_head`; of DFormer also `norm0` to `norm3`, which older code made and
  never read; of ImageNet the classifier (DFormer's is `pred`, DFormerv2's `proj`, `norm` and `head`) and the depth
  output of DFormer's last block, which that classifier reads;
- may lack what we start fresh: `num_batches_tracked`, and of ImageNet DFormerv2's `extra_norms`, which only
  segmentation has.

A classifier for another number of classes starts fresh too. Everything else that is missing, unexpected or of another
shape is refused, and so are constants (RoPE's angles, the decay) that differ from ours.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.models.ham import LightHam
from training.models.layouts import refuse_odd_tensors, unwrapped
from training.models.pretrained import How, Report, ReportRow
from training.models.relatives.dformer import DFormer
from training.models.relatives.dformerv2 import DFormerV2
from training.models.vit import ModelError, load_checked
from training.models.weight_files import content_of, sha256_of

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # an average is what its authors evaluated
_PREFIX = re.compile(r"^(module\.|_orig_mod\.|model\.|backbone\.|encoder\.)+")
_HEAD = "decode_head."
_COUNTER = ".num_batches_tracked"
_FIX = "choose other weights"
_BLOCK = re.compile(r"(?:stages\.([0-3])|layers\.([0-3])\.blocks)\.(0|[1-9][0-9]{0,3})\.")
_PARTS = {
    "downsample_layers": "downsampling",
    "downsample_layers_e": "depth downsampling",
    "patch_embed": "stem",
    "layers": "stages",
    "extra_norms": "norms of the maps",
}
_PUBLISHED: dict[tuple[str, tuple[int, ...], tuple[int, ...]], str] = {
    ("DFormer", (32, 64, 128, 256), (3, 3, 5, 2)): "DFormer-Tiny",
    ("DFormer", (64, 128, 256, 512), (2, 2, 4, 2)): "DFormer-Small",
    ("DFormer", (64, 128, 256, 512), (3, 3, 12, 2)): "DFormer-Base",
    ("DFormer", (96, 192, 288, 576), (3, 3, 12, 2)): "DFormer-Large",
    ("DFormerv2", (64, 128, 256, 512), (3, 4, 18, 4)): "DFormerv2-Small",
    ("DFormerv2", (80, 160, 320, 512), (4, 8, 25, 8)): "DFormerv2-Base",
    ("DFormerv2", (112, 224, 448, 640), (4, 8, 25, 8)): "DFormerv2-Large",
}


def load_authors(
    backbone: DFormer | DFormerV2,
    head: LightHam | None,
    path: Path | str,
    allow_missing: Collection[str] = (),
    allow_unexpected: Collection[str] = (),
) -> Report:
    """Load the file into both, or ModelError in one line and both as they were. Without `head` only the backbone.

    The two collections hold patterns such as `decode_head.align.*` for what may start fresh or be left out besides.
    """
    path = Path(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise ModelError(f"{path} must be a file of the DFormer authors' weights, got {got}: give its path")
    state = _read(path)
    _refuse_other_architectures(backbone, state, str(path))
    own = backbone.state_dict()
    if head is not None:
        own |= {_HEAD + name: value for name, value in head.state_dict().items()}
    plan = _Plan(str(path), own, state)
    plan.sort_out(_unread(backbone, head, plan.segmentation), allow_missing, allow_unexpected)
    fitted = plan.fitted()
    in_head = {name.removeprefix(_HEAD): value for name, value in fitted.items() if name.startswith(_HEAD)}
    load_checked(backbone, {name: value for name, value in fitted.items() if not name.startswith(_HEAD)}, str(path))
    if head is not None:
        load_checked(head, in_head, str(path))
    learnable = {name for name, _ in backbone.named_parameters()}
    learnable |= {_HEAD + name for name, _ in head.named_parameters()} if head is not None else set()
    return Report(str(path), sha256_of(path), plan.rows(learnable), plan.note())


def _read(path: Path) -> dict[str, Tensor]:
    """Names without prefixes to tensors; a training checkpoint's other contents are dropped."""
    content = content_of(path)
    inner: Any = content
    while inner is not None:
        content = inner
        known = [content[name] for name in _WRAPPERS if name in content] if isinstance(content, Mapping) else []
        inner = next((value for value in known if isinstance(value, Mapping)), None)
    named = unwrapped(content, str(path))
    state = {_PREFIX.sub("", name): value for name, value in named.items()}
    if len(state) < len(named):
        raise ModelError(f"{path} must name each weight once, got the same names under several prefixes: {_FIX}")
    return state


def _refuse_other_architectures(backbone: DFormer | DFormerV2, state: Mapping[str, Tensor], where: str) -> None:
    expected, got = _described(backbone.state_dict()), _described(state)
    if got != expected:
        raise ModelError(f"{where} must hold {expected}, got {got}: {_FIX}")


def _described(state: Mapping[str, Tensor]) -> str:
    """What the weights look like: the published model's name, or the family and its sizes."""
    if "downsample_layers.0.0.weight" in state:
        family = "DFormer"
        widths = [f"downsample_layers.{stage}.{1 if stage else 3}.bias" for stage in range(4)]
    elif "layers.0.blocks.0.Attention.q_proj.weight" in state:
        family = "DFormerv2"
        widths = [f"layers.{stage}.blocks.0.layer_norm1.bias" for stage in range(4)]
    elif state.keys() & {"blocks.0.attn.qkv.weight", "cls_token", "class_token"}:
        return "a plain Vision Transformer"
    else:
        return f"weights of another kind ({', '.join(list(state)[:3])}, ...)"
    dims = tuple(state[name].numel() if name in state else 0 for name in widths)
    depths = [0, 0, 0, 0]
    for match in filter(None, map(_BLOCK.match, state)):
        stage = int(match[1] or match[2])
        depths[stage] = max(depths[stage], 1 + int(match[3]))
    sizes = f"widths {'/'.join(map(str, dims))} and depths {'/'.join(map(str, depths))}"
    return f"{_PUBLISHED.get((family, dims, tuple(depths)), f'a {family}')} ({sizes})"


def _unread(backbone: DFormer | DFormerV2, head: LightHam | None, segmentation: bool) -> dict[str, str]:
    """Patterns of what a file may hold besides -> what it is."""
    unread = {r"aux_head\.": "an auxiliary head"}
    if head is None:
        unread[r"decode_head\."] = "its segmentation head"
    if isinstance(backbone, DFormer):
        unread[r"norm[0-3]\."] = "norms that its authors' code never reads"
        if not segmentation:
            last = rf"stages\.3\.{backbone.config.depths[3] - 1}\."
            unread[last + r"(attn\.proj_e|mlp_e2|layer_scale_[12]_e)"] = "the depth output of the last block"
            unread[r"pred\."] = "the classifier of its pre-training"
    elif not segmentation:
        unread[r"(proj|norm|head)\."] = "the classifier of its pre-training"
    return unread


@dataclass
class _Plan:
    """What becomes of every weight of the model and of the file."""

    where: str
    own: dict[str, Tensor]
    state: dict[str, Tensor]
    fresh: dict[str, str] = field(default_factory=dict)  # name -> why
    left_out: dict[str, list[str]] = field(default_factory=dict)  # what -> names

    @property
    def segmentation(self) -> bool:
        return any(name.startswith(_HEAD) for name in self.state)

    def sort_out(
        self, unread: dict[str, str], allow_missing: Collection[str], allow_unexpected: Collection[str]
    ) -> None:
        missing, unexpected = [], []
        heads_missing = not self.segmentation
        norms_missing = heads_missing and not any(name.startswith("extra_norms.") for name in self.state)
        for name in self.own.keys() - self.state.keys():
            if name.endswith(_COUNTER):
                self.fresh[name] = ""
            elif (heads_missing and name.startswith(_HEAD)) or (norms_missing and name.startswith("extra_norms.")):
                self.fresh[name] = "the source has none"
            elif any(fnmatchcase(name, pattern) for pattern in allow_missing):
                self.fresh[name] = "missing, as allowed"
            else:
                missing.append(name)
        for name in self.state.keys() - self.own.keys():
            words = next((words for pattern, words in unread.items() if re.match(pattern, name)), "")
            if not words and any(fnmatchcase(name, pattern) for pattern in allow_unexpected):
                words = "others, as allowed"
            if words:
                self.left_out.setdefault(words, []).append(name)
            else:
                unexpected.append(name)
        if missing or unexpected:
            raise ModelError(
                f"{self.where} does not fit the model: {len(missing)} weights missing, {len(unexpected)} unexpected "
                f"(first: {min(missing or unexpected)}): {_FIX}"
            )
        self._sort_out_classes()

    def _sort_out_classes(self) -> None:
        names = [f"{_HEAD}conv_seg.{kind}" for kind in ("weight", "bias")]
        if not all(name in self.own and name in self.state for name in names):
            return
        ours, theirs = self.own[names[0]].shape, self.state[names[0]].shape
        if len(theirs) == 4 and ours[1:] == theirs[1:] and ours[0] != theirs[0]:
            self.fresh |= dict.fromkeys(names, f"for {ours[0]} classes, the source has one for {theirs[0]}")

    def fitted(self) -> dict[str, Tensor]:
        taken = {name: value for name, value in self.state.items() if name in self.own and name not in self.fresh}
        for name, value in taken.items():
            if value.shape != (shape := self.own[name].shape):
                raise ModelError(
                    f"{self.where}: {name} must have shape {tuple(shape)}, got {tuple(value.shape)}: {_FIX}"
                )
        refuse_odd_tensors({name: value for name, value in taken.items() if not name.endswith(_COUNTER)}, self.where)
        for name, value in taken.items():
            if name.endswith((".Geo.angle", ".Geo.decay")) and not torch.allclose(
                value.to(self.own[name]), self.own[name], rtol=1e-4, atol=1e-6
            ):
                got = ", ".join(f"{number:.4g}" for number in value.flatten()[:4].tolist())
                want = ", ".join(f"{number:.4g}" for number in self.own[name].flatten()[:4].tolist())
                raise ModelError(f"{self.where}: {name} must be the constants {want}, ..., got {got}, ...: {_FIX}")
        return {name: taken[name].to(value.dtype) if name in taken else value for name, value in self.own.items()}

    def rows(self, learnable: set[str]) -> tuple[ReportRow, ...]:
        """One row for each part, way and detail, in the model's order; parameters are the learnable ones."""
        rows: dict[tuple[str, How, str], tuple[int, int]] = {}
        for name, value in self.own.items():
            if name.endswith(_COUNTER) and name in self.fresh:
                continue  # nothing reads it
            part = name.split(".")[0]
            what = "decode head" if name.startswith(_HEAD) else _PARTS.get(part, part)
            if name.startswith(f"{_HEAD}conv_seg"):
                what = "classifier"
            how: How = "fresh" if name in self.fresh else "loaded"
            key = (what, how, self.fresh.get(name, ""))
            tensors, parameters = rows.get(key, (0, 0))
            rows[key] = (tensors + 1, parameters + (value.numel() if name in learnable else 0))
        return tuple(
            ReportRow(what, how, tensors, parameters, why) for (what, how, why), (tensors, parameters) in rows.items()
        )

    def note(self) -> str:
        parts = [
            f"{words} ({len(names)} tensor{'s' if len(names) > 1 else ''}, {min(names)}{', ...' if names[1:] else ''})"
            for words, names in sorted(self.left_out.items())
        ]
        return f"Left out: {'; '.join(parts)}." if parts else ""
