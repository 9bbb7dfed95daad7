"""The Vision Transformer all variants share (torchvision's `vit_b_16` layout, timm's parameter names).

Pre-norm blocks, LayerNorm eps 1e-6, class token, learned position embedding N(0, 0.02), zero-initialised head. A fusion
technique is a subclass in `fusion/` that changes what goes in (`embed`), what stands before the blocks (`tokens`) or
what is added to the scores (`bias`).
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.errors import UserError
from training.models.attention import Attention, Taps
from training.models.backbone import Backbone, BackboneSettings
from training.models.drop_path import drop_path, rates
from training.models.positions import Grid, resampled
from training.models.score_bias import ScoreBias

_Model = TypeVar("_Model", bound=nn.Module)


class ModelError(UserError):
    """Weights and model do not belong together."""


class VitConfig(BackboneSettings):
    """Size of the transformer; defaults are ViT-B/16 at 224 px on ImageNet. Each variant's config adds `build`."""

    name: str
    image_size: int = Field(224, gt=0, le=16_384)
    patch_size: int = Field(16, gt=0, le=16_384)
    width: int = Field(768, gt=0, le=65_536)
    depth: int = Field(12, gt=0, le=1024)
    heads: int = Field(12, gt=0, le=65_536)
    mlp_ratio: int = Field(4, gt=0, le=64)
    num_classes: int = Field(1000, gt=0, le=10_000_000)
    drop_path: float = Field(0.0, ge=0, lt=1)  # of the last block; rises linearly from 0; two-branch blocks have none
    head_init: Literal["source", "fresh"] = "source"  # fresh: whatever head the weights of --init have, even as wide

    @model_validator(mode="after")
    def _divides(self) -> "VitConfig":
        if self.image_size % self.patch_size:
            raise ValueError(f"model.image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"model.width {self.width} must be a multiple of heads {self.heads}")
        return self

    @property
    def grid(self) -> Grid:
        side = self.image_size // self.patch_size
        return side, side

    @property
    def stride(self) -> int:
        return self.patch_size

    @property
    def num_maps(self) -> int:
        return 1

    @property
    def num_blocks(self) -> int:
        """Plain transformer blocks: `depth`, less what a technique puts in place of the first ones."""
        return self.depth

    @property
    def stem_width(self) -> int:
        """Width of the RGB patch and position embedding."""
        return self.width

    @property
    def num_positions(self) -> int:
        """Length of the position embedding: the class token and the patches."""
        return 1 + self.grid[0] * self.grid[1]

    @property
    def num_prefix(self) -> int:
        """Class tokens, which stand before the patches."""
        return 1

    @property
    def branches(self) -> dict[str, int]:
        """Width of the tokens of each branch before the plain blocks; none where all blocks are plain."""
        return {}

    @property
    def unseen_sizes(self) -> dict[str, int]:
        """Sizes that the shapes of a variant's own weights do not tell, beside the number of heads."""
        return {}

    @property
    def sizes(self) -> dict[str, Any]:
        """What a model that starts from the weights of this one has of its config: not how it is trained."""
        return self.model_dump(mode="json", exclude={"freeze", "drop_path", "head_init"})

    def depth_slice(self, weight: Tensor) -> Tensor:
        """Of the patch convolution (width, 1, patch, patch), where one of RGB (width, 3, patch, patch) is the start."""
        return torch.zeros_like(weight[:, :1])

    def build(self) -> "VisionTransformer":
        raise NotImplementedError

    def backbone(self, crop: tuple[int, int]) -> "VisionTransformer":
        model = self.build()
        del model.head  # the classifier of pre-training
        model.regrid((crop[0] // self.patch_size, crop[1] // self.patch_size))
        return model


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, patch_size)

    def initialise(self) -> None:
        """torchvision's truncated LeCun normal."""
        nn.init.trunc_normal_(self.proj.weight, std=self.proj.weight[0].numel() ** -0.5)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, patches, width)."""
        return self.proj(image).flatten(2).transpose(1, 2)


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x)); either is dropped with the rate given, in training."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, mlp_ratio * width)
        self.drop_path = drop_path(drop_rate) if drop_rate else nn.Identity()

    def forward(self, x: Tensor, bias: ScoreBias | None = None, taps: Taps | None = None, name: str = "") -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), bias, taps, f"{name}.attn"))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x if taps is None else taps(f"{name}.resid_post", x)


class VisionTransformer(Backbone):
    """RGB (batch, 3, size, size) and z-standardised depth (batch, 1, size, size) to logits (batch, classes).

    Depth is farther-is-larger; NaN marks invalid pixels. `has_bias` tells whether `biases` gives anything. Images of
    another size than the config's are taken too, of whole patches: the position embedding is resampled to their grid.
    """

    has_bias = False
    in_channels = 3

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = (config.width,)
        self.multiple = (
            2 * config.patch_size
        )  # of the coarsest map of a pyramid; 32 at patches of 16, as the relatives'
        self.grid = config.grid  # of the position embedding
        self.patch_embed = PatchEmbed(self.in_channels, config.patch_size, config.stem_width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_positions, config.stem_width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, rate)
            for rate in rates(config.drop_path, config.depth)[config.depth - config.num_blocks :]
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, config.num_classes)
        self.initialise()

    def initialise(self) -> None:
        """torchvision's: truncated LeCun for the patches, Xavier for the MLP and QKV, zero head."""
        self.patch_embed.initialise()
        nn.init.normal_(self.pos_embed, std=0.02)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.xavier_uniform_(block.attn.qkv.weight)
            nn.init.zeros_(block.attn.qkv.bias)
            nn.init.zeros_(block.attn.proj.bias)
            for layer in (block.mlp.fc1, block.mlp.fc2):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def embed(self, rgb: Tensor, depth: Tensor) -> Tensor:
        """Patch tokens (batch, patches, width), before position embedding."""
        return self.patch_embed(rgb)

    def tokens(self, rgb: Tensor, depth: Tensor, taps: Taps | None = None) -> Tensor:
        """What enters the first transformer block, class token first: (batch, 1 + patches, width)."""
        x = self.embed(rgb, depth)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.positions(rgb)

    def grid_of(self, rgb: Tensor) -> Grid:
        """Rows and columns of patches of images (batch, 3, height, width)."""
        return rgb.shape[2] // self.config.patch_size, rgb.shape[3] // self.config.patch_size

    def positions(self, rgb: Tensor) -> Tensor:
        """The position embedding on the grid of these images."""
        return resampled(self.pos_embed, self.grid, self.grid_of(rgb))

    def regrid(self, grid: Grid) -> None:
        """Keep the position embedding on another grid from now on: what is learned, and saved, is on that one."""
        self.pos_embed = nn.Parameter(resampled(self.pos_embed.detach(), self.grid, grid))
        self.grid = grid

    def biases(self, depth: Tensor) -> list[ScoreBias | None]:
        """What each block adds to its scores."""
        return [None] * len(self.blocks)

    def forward(self, rgb: Tensor, depth: Tensor, taps: Taps | None = None) -> Tensor:
        return self.head(self.encoded(rgb, depth, taps)[:, 0])

    def maps(self, rgb: Tensor, depth: Tensor) -> list[Tensor]:
        """What the last norm makes of each patch: (batch, width, rows, columns)."""
        rows, columns = self.grid_of(rgb)
        patches = self.encoded(rgb, depth)[:, -rows * columns :]
        return [patches.transpose(1, 2).unflatten(2, (rows, columns))]

    def encoded(self, rgb: Tensor, depth: Tensor, taps: Taps | None = None) -> Tensor:
        """All tokens after the last norm, class token first: (batch, tokens, width)."""
        x = self.tokens(rgb, depth, taps)
        first = self.config.depth - len(self.blocks)
        for layer, (block, bias) in enumerate(zip(self.blocks, self.biases(depth), strict=True), first):
            x = block(x, bias, taps, f"blocks.{layer}")
        return self.norm(x)


def built_for(build: Callable[[], _Model], state: dict[str, Any], where: str) -> _Model:
    """The model, with these weights; ModelError where they are another's, before memory for it is asked for.

    A configuration may be a stranger's and claim any size: its shapes are compared first.
    """
    check_fits(build, state, where)
    model = build()
    load_checked(model, state, where)
    return model


def check_fits(build: Callable[[], nn.Module], state: dict[str, Any], where: str) -> None:
    """ModelError where weights are not of the names and shapes of what `build` makes; makes nothing of its size."""
    with torch.device("meta"):
        _refuse_others(build(), state, where)


def load_checked(model: nn.Module, state: dict[str, Any], where: str) -> None:
    """Strict load with a one-line error."""
    _refuse_others(model, state, where)
    model.load_state_dict(state)


def _refuse_others(model: nn.Module, state: dict[str, Any], where: str) -> None:
    wanted = model.state_dict()
    for name, own in wanted.items():
        if name in state and state[name].shape != own.shape:
            theirs = tuple(state[name].shape)
            raise ModelError(f"{where} does not fit the model: {name} must be {tuple(own.shape)}, got {theirs}")
    missing, unexpected = [n for n in wanted if n not in state], [n for n in state if n not in wanted]
    if missing or unexpected:
        first = (missing or unexpected)[0]
        raise ModelError(
            f"{where} does not fit the model: {len(missing)} weights missing, {len(unexpected)} unexpected "
            f"(first: {first})"
        )
