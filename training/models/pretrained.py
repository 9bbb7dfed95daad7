"""A model's weights from elsewhere: any public three-channel ViT starts any variant.

What fits is loaded. What nearly fits is adapted:

| weights              | adapted                                                                                      |
|----------------------|----------------------------------------------------------------------------------------------|
| position embedding   | to another grid, bicubic with antialias as timm does; the class token's row is kept          |
| patch embedding      | three channels to m4ch's four (`depth_init`), four to three by leaving depth out             |
| head without a bias  | a bias of zeros, which computes the same                                                     |
| class token (mdf1)   | plus its row of the position embedding, of which mdf1 has patches only                       |
| blocks (mdf1, mgem)  | the source's blocks from `fusion_blocks` on, into the plain blocks                           |

Everything else starts fresh: the head where the number of classes differs or `head_init` says so, fusion blocks, depth
embeddings, mgem's patch and position embedding (half the width), biases' parameters. Another width, depth, MLP, number
of heads or patch size, or another architecture, is refused; a model is loaded whole or left as it was.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.table import Table
from torch import Tensor

from training.models.layouts import is_plain, num_blocks, refuse_odd_tensors, refuse_other_architectures
from training.models.positions import resampled
from training.models.vit import ModelError, VisionTransformer, VitConfig, load_checked

How = Literal["loaded", "adapted", "fresh"]

_FC1, _PATCHES = "blocks.0.mlp.fc1.weight", "patch_embed.proj.weight"  # they tell the sizes

_LABELS = {
    "patch_embed": "patch embedding",
    "depth_embed": "depth embedding",
    "cls_token": "class token",
    "pos_embed": "position embedding",
    "fusion": "fusion blocks",
    "norm": "last norm",
}


@dataclass(frozen=True)
class Weights:
    """A state dict under our names. `config` is known of our own models, `heads` of ours and of timm's."""

    where: str  # for messages
    state: dict[str, Tensor]
    sha256: str  # of the file; of names and values for timm's
    config: VitConfig | None = None
    heads: int | None = None
    note: str = ""  # what a person should know
    run: Path | None = None  # the run folder, of a run's
    checkpoint: str = ""  # as it was asked for


@dataclass(frozen=True)
class ReportRow:
    what: str
    how: How
    tensors: int
    parameters: int
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """What became of each part of the model, and where it came from."""

    source: str
    sha256: str
    rows: tuple[ReportRow, ...]
    note: str = ""

    def table(self) -> Table:
        caption = f"sha256 {self.sha256[:16]}" + (f". {self.note}" if self.note else "")
        table = Table(title=f"weights from {self.source}", caption=caption, caption_justify="left")
        table.add_column("what")
        table.add_column("how")
        table.add_column("tensors", justify="right")
        table.add_column("parameters", justify="right")
        table.add_column("detail")
        for row in self.rows:
            table.add_row(row.what, row.how, str(row.tensors), f"{row.parameters:,}", row.detail)
        return table


def load(model: VisionTransformer, weights: Weights, source: str) -> Report:
    """Load weights that have been read into `model`; ModelError if unfit."""
    own = model.state_dict()
    if weights.config is not None:
        same = type(weights.config) is type(model.config)
    else:  # a plain ViT's weights may be anybody's; with a variant's own beside them they are that variant's
        same = weights.state.keys() == own.keys() and not all(map(is_plain, own))
    state = weights.state
    if not same:
        if weights.config is not None:
            if weights.config.num_blocks < weights.config.depth:
                raise ModelError(
                    f"{weights.where} is a {weights.config.name}, whose first blocks have two branches: "
                    f"it can start a {weights.config.name} alone"
                )
            state = {name: value for name, value in state.items() if is_plain(name)}
        refuse_other_architectures(state, weights.where)
    refuse_odd_tensors(state, weights.where)
    if state.keys() >= {_FC1, _PATCHES}:
        _refuse_other_sizes(model.config, state, weights, same)
    if same:
        _refuse_other_names(own, weights)
    else:
        _refuse_other_tokens(state, model.config.width, weights.where)
    fitted = {name: _fitted(name, value, state, model, same, weights.where) for name, value in own.items()}
    for name, (value, _, _) in fitted.items():
        if value.shape != own[name].shape:
            raise ModelError(
                f"{weights.where}: {name} must have shape {tuple(own[name].shape)}, got {tuple(value.shape)}: "
                "choose other weights"
            )
    load_checked(model, {name: value for name, (value, _, _) in fitted.items()}, weights.where)
    return Report(source, weights.sha256, _rows(fitted), weights.note)


def _refuse_other_names(own: dict[str, Tensor], weights: Weights) -> None:
    missing, unexpected = sorted(own.keys() - weights.state.keys()), sorted(weights.state.keys() - own.keys())
    if missing or unexpected:
        raise ModelError(
            f"{weights.where} does not fit the model: {len(missing)} weights missing, {len(unexpected)} unexpected "
            f"(first: {(missing or unexpected)[0]}): choose other weights"
        )


def _refuse_other_tokens(state: dict[str, Tensor], width: int, where: str) -> None:
    """Of what is added together every shape must fit, or it would be broadcast."""
    for name in ("cls_token", "pos_embed"):
        if state[name].shape[::2] != (1, width):
            raise ModelError(
                f"{where}: {name} must have shape (1, rows, {width}), got {tuple(state[name].shape)}: "
                "choose other weights"
            )


def _refuse_other_sizes(config: VitConfig, state: dict[str, Tensor], weights: Weights, same: bool) -> None:
    hidden, width = state[_FC1].shape
    sizes = [
        ("width", config.width, width),
        ("depth", config.depth, num_blocks(state) + (config.depth - config.num_blocks if same else 0)),
        ("mlp_ratio", config.mlp_ratio, hidden / width),
        ("patch_size", config.patch_size, state[_PATCHES].shape[-1]),
        ("heads", config.heads, config.heads if weights.heads is None else weights.heads),
    ]
    if same and weights.config is not None:
        theirs_unseen = weights.config.unseen_sizes
        sizes += [(name, ours, theirs_unseen[name]) for name, ours in config.unseen_sizes.items()]
    for name, ours, theirs in sizes:
        if ours != theirs:
            change = f" or --set model.{name}={theirs:g}" if theirs == int(theirs) else ""
            raise ModelError(
                f"{weights.where}: {name.replace('_', ' ')} must be {ours} as model.{name} is, got {theirs:g}: "
                f"choose other weights{change}"
            )


def _fitted(
    name: str, own: Tensor, state: dict[str, Tensor], model: VisionTransformer, same: bool, where: str
) -> tuple[Tensor, How, str]:
    """The value of one weight, how it came about, and what to say of it."""
    config = model.config
    has_head = "head.weight" in state and len(state["head.weight"]) == config.num_classes
    if name.startswith("head.") and (config.head_init == "fresh" or not has_head):
        had = f"one for {len(state['head.weight'])}" if "head.weight" in state else "none"
        return own, "fresh", f"for {config.num_classes} classes, the source has {had}"
    if name == "head.bias" and name not in state:
        return torch.zeros_like(own), "adapted", "zeros: the source's head has none"
    if name == "pos_embed" and (same or config.stem_width == config.width):
        return _positions(state[name], config, same, where)
    if same:
        return state[name].to(own.dtype), "loaded", ""
    first = config.depth - config.num_blocks
    if name.startswith("blocks."):
        index, rest = name.removeprefix("blocks.").split(".", 1)
        detail = f"from blocks {first} to {config.depth - 1}" if first else ""
        return state[f"blocks.{int(index) + first}.{rest}"].to(own.dtype), "loaded", detail
    if config.stem_width != config.width and name.startswith(("patch_embed.", "pos_embed")):
        return own, "fresh", f"a branch is {config.stem_width} wide"
    if name == _PATCHES:
        return _patches(state[name].to(own.dtype), own.shape[1], config)
    if name == "cls_token" and first:
        return (state[name] + state["pos_embed"][:, :1]).to(own.dtype), "adapted", "its position added"
    if is_plain(name):
        return state[name].to(own.dtype), "loaded", ""
    return own, "fresh", ""


def _patches(weight: Tensor, channels: int, config: VitConfig) -> tuple[Tensor, How, str]:
    """(width, source channels, patch, patch) -> (width, channels, patch, patch); depth is the fourth channel."""
    if weight.shape[1] == channels:
        return weight, "loaded", ""
    if weight.shape[1] == 4 and channels == 3:
        return weight[:, :3], "adapted", "without the depth channel"
    if weight.shape[1] == 3 and channels == 4:
        depth = config.depth_slice(weight)
        how = "mean" if bool(depth.any()) else "zero"
        return torch.cat([weight, depth], 1), "adapted", f"depth channel: {how}"
    return weight, "loaded", ""  # the shapes are compared later


def _positions(table: Tensor, config: VitConfig, same: bool, where: str) -> tuple[Tensor, How, str]:
    """(1, positions, width) for the model's grid, with the class token's row where the model has one."""
    patches = config.grid[0] * config.grid[1]
    has_class = config.num_positions > patches if same else True
    side = math.isqrt(table.shape[1] - has_class)
    if side == 0 or side**2 != table.shape[1] - has_class:
        raise ModelError(
            f"{where}: pos_embed must have shape (1, rows, width) with a row a patch of a square grid"
            f"{' and one for the class token' if has_class else ''}, got {tuple(table.shape)}: choose other weights"
        )
    table, detail = resampled(table.float(), (side, side), config.grid), []
    if (side, side) != config.grid:
        detail.append(f"{side}x{side} to {config.grid[0]}x{config.grid[1]}")
    if config.num_positions == patches and has_class:
        table = table[:, 1:]
        detail.append("without the class token's")
    return table, "adapted" if detail else "loaded", ", ".join(detail)


def _rows(fitted: dict[str, tuple[Tensor, How, str]]) -> tuple[ReportRow, ...]:
    """One row for each part, way and detail, in the model's order."""
    rows: dict[tuple[str, How, str], tuple[int, int]] = {}
    for name, (value, how, detail) in fitted.items():
        part = name.split(".")[0]
        key = (_LABELS.get(part, part), how, detail)
        tensors, parameters = rows.get(key, (0, 0))
        rows[key] = (tensors + 1, parameters + value.numel())
    return tuple(
        ReportRow(what, how, tensors, parameters, detail) for (what, how, detail), (tensors, parameters) in rows.items()
    )
