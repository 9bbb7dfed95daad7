"""What mdf1 and mgem share: blocks with an RGB and a depth branch stand in place of the first transformer blocks."""

from pydantic import Field, model_validator

from training.models.vit import VitConfig


class TwoBranchConfig(VitConfig):
    """`fusion_blocks` two-branch blocks, then `depth - fusion_blocks` plain ones; the class token joins in between.

    There is no class token to place before that, so the position embedding has one row a patch.
    """

    # 4 of 12 in the paper; at other depths the same third.
    fusion_blocks: int = Field(default_factory=lambda known: max(1, known.get("depth", 12) // 3), gt=0)

    @model_validator(mode="after")
    def _leaves_blocks(self) -> "TwoBranchConfig":
        if self.fusion_blocks >= self.depth:
            raise ValueError(
                f"model.fusion_blocks must be below model.depth {self.depth} (the class token needs a plain block), "
                f"got {self.fusion_blocks}"
            )
        if self.width % (2 * self.heads):
            raise ValueError(
                f"model.width must be a multiple of twice model.heads {self.heads} (a branch has half the width), "
                f"got {self.width}"
            )
        return self

    @property
    def num_blocks(self) -> int:
        return self.depth - self.fusion_blocks

    @property
    def branches(self) -> dict[str, int]:
        return {"rgb": self.stem_width, "depth": self.width // 2}

    @property
    def num_positions(self) -> int:
        return self.grid[0] * self.grid[1]
