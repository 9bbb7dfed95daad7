"""`train dump --causal`: what changes where something is done to depth. Several forward passes an image.

| intervention       | what is done                                                                                    |
|--------------------|-------------------------------------------------------------------------------------------------|
| swap               | depth of another image, RGB as it is                                                            |
| zero, mean         | z = 0, the data set's mean, everywhere; the image's own mean everywhere                         |
| real or pseudo     | the other depth of the same image, where the shards have one                                    |
| ablate-all, -<l>   | no depth bias in any block, in block l (mlin, mmlp)                                             |
| erase_scores-all,  | S_h - β_h |Δ| in every block, in block l; β_h the head's gauge-fixed slope over the dump        |
|   -<l>             |                                                                                                 |
| erase_depth-<l>    | block l's output less all that is linear in z (`dumps.erasure`); a probe is refitted at the end |

Blocks are counted from 1. With the swap, scores move by S' - S where |Δ| moves by Δ' - Δ and RGB not at all: their
regression is free of what RGB, position and depth have in common. Swaps are off the distribution that a model knows.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.dumping.observe import Views
from training.dumps.arrays import unpacked
from training.dumps.erasure import Erasure, erasure
from training.dumps.pairs import at_distance, filled, num_distances
from training.dumps.schema import DumpInfo
from training.dumps.scores import ROWS
from training.dumps.statistics import Statistics
from training.dumps.store import DumpWriter
from training.dumps.tokens import ProbeMoments
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.models.attention import Taps
from training.models.patch_depth import patch_depth, signed_difference
from training.models.vit import VisionTransformer


def interventions_of(info: DumpInfo, matched: str | None) -> list[str]:
    """Names, in the order of the store."""
    layers = [str(layer) for layer in info.attention_layers]
    names = ["swap", "zero", "mean"] + ([matched] if matched else [])
    kinds = (["ablate"] if info.has_bias else []) + ["erase_scores"]
    for kind in kinds:
        names += [f"{kind}-{which}" for which in ("all", *layers)]
    return names + [f"erase_depth-{layer}" for layer in layers]


def intervene(
    model: VisionTransformer,
    info: DumpInfo,
    tools: "Tools",
    batches: Iterator[Views],
    writer: DumpWriter,
    advance: Callable[[int], None],
) -> None:
    """Run every intervention on every batch and write the causal tier."""
    width = info.stream("tokens").width
    refits = ProbeMoments("tokens", len(tools.erasures) + 1, info.num_patches, width, tools.slopes.new_zeros(0))
    head_rows = np.zeros((info.num_groups, info.num_attention_layers, info.num_heads))
    head_pairs = np.zeros(info.num_groups)
    distance_pairs = np.zeros((info.num_groups, num_distances(info.grid)))
    distance = np.zeros((info.num_groups, info.num_attention_layers, distance_pairs.shape[1]))
    first = 0
    for views in batches:
        batch = views.batch
        # Partners are in one group and fold. Places in the dump would not do: they may all be multiples of some number.
        places = np.arange(first, first + len(batch.keys)) % max(1, info.num_causal // 2)
        found = _Batch(model, info, views, tools, refits, places)
        writer.write("causal/base", first, found.correct(found.logits))  # no such array where there are no labels
        writer.write("causal/outcomes", first, np.stack([found.outcome(name) for name in info.interventions], 1))
        swap, groups = found.swap, places % info.num_groups
        writer.write("causal/swap/rows", first, swap.rows())
        writer.write("causal/swap/pairs", first, swap.pairs())
        np.add.at(head_rows, groups, swap.head_rows())
        np.add.at(head_pairs, groups, swap.pairs())
        np.add.at(distance, groups, swap.distance())
        np.add.at(distance_pairs, groups, swap.distance_pairs())
        first += len(places)
        advance(len(places))
    writer.write("causal/swap/head_rows", 0, head_rows)
    writer.write("causal/swap/head_pairs", 0, head_pairs)
    writer.write("causal/swap/distance", 0, distance)
    writer.write("causal/swap/distance_pairs", 0, distance_pairs)
    writer.write("causal/refit/moments", 0, refits.finalize()["statistics/probe/tokens/moments"])


@dataclass(frozen=True)
class Tools:
    """What the interventions take out, known from the dump's own statistics."""

    slopes: Tensor  # (attention layers, heads): gauge-fixed, of the scores that act
    erasures: list[Erasure]  # of each layer's output

    @classmethod
    def of(cls, model: VisionTransformer, info: DumpInfo, statistics: Statistics) -> "Tools":
        device = model.cls_token.device
        products = statistics.finished[f"statistics/{info.parts[-1]}/head_rows"].sum(0)[..., ROWS.index("c_delta")]
        squares = statistics.delta_squares
        slopes = products / squares if squares > 0 else np.zeros_like(products)
        moments = unpacked(statistics.finished["statistics/probe/tokens/moments"].sum(0))
        width = info.stream("tokens").width
        kept = [*range(width + 1), width + 2]  # without the other image's depth
        erasures = [erasure(layer[np.ix_(kept, kept)]) for layer in moments]
        return cls(torch.as_tensor(slopes, dtype=torch.float32, device=device), erasures)


class _Batch:
    """One batch of images without any change, and what each intervention makes of it."""

    def __init__(
        self,
        model: VisionTransformer,
        info: DumpInfo,
        views: Views,
        tools: Tools,
        refits: ProbeMoments,
        places: np.ndarray,
    ) -> None:
        self.model, self.info, self.views, self.tools = model, info, views, tools
        self.refits, self.places = refits, places
        self.rgb = normalise(views.batch.rgb, RGB_MEAN, RGB_STD)
        self.patches = self._patches(views.batch.depth)
        self.swap = _Swap(self.patches, self._patches(views.other), info.grid)
        refitted, before = self._refitted(len(tools.erasures)), _totals(info.num_prefix, self.swap.keep)
        self.logits = self._run(views.batch.depth, lambda name, tensor: before(name, refitted(name, tensor)))
        self.logits_swapped = self._run(views.other, _totals(info.num_prefix, self.swap.compare))

    def _patches(self, depth: Tensor) -> Tensor:
        size = self.info.image_size // self.info.grid[0]
        return patch_depth(depth.float(), size, self.info.patch_depth)

    def _run(self, depth: Tensor, taps: Taps | None = None) -> Tensor:
        # The explicit path always, so that rounding is the same with and without a change.
        return self.model(self.rgb, depth, taps or (lambda name, tensor: tensor))

    def correct(self, logits: Tensor) -> np.ndarray:
        return (logits.argmax(1) == self.views.batch.label).cpu().numpy()

    def outcome(self, name: str) -> np.ndarray:
        """(batch, len(info.outcomes))."""
        logits = self._changed(name)
        base, log = self.logits.double().log_softmax(1), logits.double().log_softmax(1)
        kl = (base.exp() * (base - log)).sum(1)
        mae = (logits - self.logits).abs().mean(1)
        changed = logits.argmax(1) != self.logits.argmax(1)
        found = {"correct": self.correct(logits)}
        found |= {key: each.cpu().numpy() for key, each in (("kl", kl), ("logit_mae", mae), ("changed", changed))}
        return np.stack([found[key] for key in self.info.outcomes], 1)

    def _changed(self, name: str) -> Tensor:
        depth, (kind, _, which) = self.views.batch.depth, name.partition("-")
        if kind == "swap":
            return self.logits_swapped
        if kind == "zero":
            return self._run(torch.zeros_like(depth))
        if kind == "mean":
            mean = depth.nanmean((1, 2, 3), keepdim=True).nan_to_num(0.0)
            return self._run(mean.expand_as(depth).contiguous())
        if kind in ("real", "pseudo"):
            assert self.views.matched is not None
            return self._run(self.views.matched)
        layers = range(self.info.first_attention_layer, self.info.num_layers) if which == "all" else [int(which) - 1]
        if kind == "ablate":
            places = {f"blocks.{layer}.attn.bias" for layer in layers}
            return self._run(depth, lambda at, value: torch.zeros_like(value) if at in places else value)
        if kind == "erase_scores":
            return self._run(depth, self._without_slopes(list(layers)))
        return self._without_depth(layers[0])

    def _without_slopes(self, layers: list[int]) -> Taps:
        prefix, first = self.info.num_prefix, self.info.first_attention_layer
        delta = F.pad(signed_difference(self.patches).abs(), (prefix, 0, prefix, 0))[:, None]

        def taps(name: str, tensor: Tensor) -> Tensor:
            _, layer, kind = name.split(".", 2)
            if kind != "attn.scores_pre_bias" or int(layer) not in layers:
                return tensor
            return tensor - self.tools.slopes[int(layer) - first][:, None, None] * delta

        return taps

    def _without_depth(self, layer: int) -> Tensor:
        """Erase at this layer; a probe's moments at the last block are added up under its number."""
        first, prefix = self.info.first_attention_layer, self.info.num_prefix
        erased = self.tools.erasures[layer - first]
        weights, direction = (torch.as_tensor(a).to(self.rgb) for a in (erased.weights, erased.direction))
        refitted = self._refitted(layer - first)

        def taps(name: str, tensor: Tensor) -> Tensor:
            if name == f"blocks.{layer}.resid_post":
                tensor = tensor.clone()
                patches = tensor[:, prefix:]
                patches -= (patches @ weights - erased.offset)[..., None] * direction
            return refitted(name, tensor)

        return self._run(self.views.batch.depth, taps)

    def _refitted(self, number: int) -> Taps:
        """Adds the last block's output to the moments under this number."""
        last = f"blocks.{self.info.num_layers - 1}.resid_post"

        def taps(name: str, tensor: Tensor) -> Tensor:
            if name == last:
                other = filled(self._patches(self.views.other))
                self.refits.update(number, tensor[:, self.info.num_prefix :], self.patches, other, self.places)
            return tensor

        return taps


class _Swap:
    """Scores of a pass against those of one with another image's depth, layer by layer: one pass's are held at most."""

    def __init__(self, depth: Tensor, other: Tensor, grid: tuple[int, int]) -> None:
        """From patch depths (batch, P)."""
        delta, instead = (signed_difference(filled(z)).abs() for z in (depth, other))
        self.off = 1 - torch.eye(delta.shape[1], device=delta.device)
        self.change = (
            _centred((instead - delta) * self.off, self.off).double().flatten(1)[..., None]
        )  # (batch, P * P, 1)
        self._rings = at_distance(grid, self.change)  # (P * P, R)
        self._before: deque[Tensor] = deque()
        self._rows: list[Tensor] = []  # of each layer: (batch, 1 + heads), the head mean first
        self._distance: list[Tensor] = []  # (batch, R)

    def keep(self, scores: Tensor) -> None:
        """A layer's of the pass with the image's own depth, (batch, heads, P, P)."""
        self._before.append(scores)

    def compare(self, scores: Tensor) -> None:
        """The same layer's of the other pass."""
        moved = _centred((scores - self._before.popleft()) * self.off, self.off).double().flatten(2)
        moved = torch.cat([moved.mean(1, keepdim=True), moved], 1)
        self._rows.append((moved @ self.change)[..., 0])
        self._distance.append((moved[:, 0] * self.change[..., 0]) @ self._rings)

    def rows(self) -> np.ndarray:
        """(batch, layers): Σ (S' - S)(Δ' - Δ) of the head mean."""
        return torch.stack(self._rows, 1)[:, :, 0].cpu().numpy()

    def head_rows(self) -> np.ndarray:
        """(batch, layers, heads): the same of each head."""
        return torch.stack(self._rows, 1)[:, :, 1:].cpu().numpy()

    def distance(self) -> np.ndarray:
        """(batch, layers, R): Σ (S' - S)(Δ' - Δ) of the head mean over pairs at a distance."""
        return torch.stack(self._distance, 1).cpu().numpy()

    def distance_pairs(self) -> np.ndarray:
        """(batch, R): Σ (Δ' - Δ)² over pairs at a distance."""
        return (self.change[..., 0] ** 2 @ self._rings).cpu().numpy()

    def pairs(self) -> np.ndarray:
        """(batch,): Σ (Δ' - Δ)²."""
        return (self.change**2).sum((1, 2)).cpu().numpy()


def _totals(prefix: int, use: Callable[[Tensor], None]) -> Taps:
    """Taps that hand over each layer's scores of patches, the bias included."""
    scores: list[Tensor] = []

    def taps(name: str, tensor: Tensor) -> Tensor:
        if name.endswith(("attn.scores_pre_bias", "attn.bias")):
            scores.append(tensor[:, :, prefix:, prefix:])
        elif name.endswith("attn.pattern"):
            use(scores[0] if len(scores) == 1 else scores[0] + scores[1])
            scores.clear()
        return tensor

    return taps


def _centred(values: Tensor, weight: Tensor) -> Tensor:
    return (values - (values * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)) * weight
