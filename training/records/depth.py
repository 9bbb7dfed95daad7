"""What an evaluation of metric depth leaves: errors by who answered, how it was asked, and where in the image."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from pipeline.shards import DepthName
from training.records.fields import (
    SCHEMA_VERSION,
    Amount,
    CheckpointName,
    Count,
    Fraction,
    Hash,
    Name,
    OtherDepth,
    Place,
    Record,
    Some,
    SplitName,
    Text,
    Word,
)


class DepthErrors(Record):
    """AbsRel, RMSE in metres, log10, and the shares of pixels that are off by less than 1.25, 1.25^2 and 1.25^3."""

    abs_rel: Amount
    rmse_m: Amount
    log10: Amount
    delta1: Fraction
    delta2: Fraction
    delta3: Fraction


class DepthSpread(Record):
    """Standard deviation, over draws of the pixels that are asked, of the mean over images."""

    abs_rel: Amount
    delta1: Amount
    num_draws: Annotated[int, Field(ge=2, le=10**6)]


class DepthScores(Record):
    """One answer: `who` gave it, how it was `asked` for, how it was `aligned` to the truth, by which `protocol`, where.

    `asked`: every-pixel (all valid ones, one by one), dense (the map of the finest grid, resized), or k-N (N pixels of
    each image, drawn evenly). `aligned`: none; affine (scale and shift in inverse depth, by least squares over an
    image), median (scale alone). `region`: all, edges (within 3 px of a depth edge), rest.
    """

    who: Word  # model, position (each position's median), or teacher
    asked: Word
    aligned: Literal["none", "affine", "median"]
    protocol: Word  # whole (all valid pixels of what the network sees), eigen, author
    region: Literal["all", "edges", "rest"]
    num_pixels: Some
    mean: DepthErrors  # of the images' own
    pooled: DepthErrors  # over the pixels of all images
    spread: DepthSpread | None = None  # of k-N
    abs_rel: list[Amount | None] = []  # of each image, in their order; None of one without such a pixel


class DepthTime(Record):
    """Milliseconds an image, median over the images: encoding it, and then answering `asked`."""

    asked: Word  # encode, dense, or k-N
    ms: Amount


class DepthEvaluation(Record):
    """One checkpoint of a sparse-query network on one split."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["depth"] = "depth"
    model: Word
    checkpoint: CheckpointName
    epoch: Count
    checkpoint_sha256: Hash
    data: Place
    split: SplitName
    fingerprint: Hash
    depth_field: DepthName
    edges_of: DepthName  # the field whose edges divide the regions
    num_images: Some
    teacher: Text = ""  # whose answers are beside
    scores: list[DepthScores] = Field(min_length=1)
    times: list[DepthTime] = []
    device: Text = ""
    dense_from_asked: Amount | None = None  # |dense - asked| / asked at asked pixels, mean over images; None: unknown
    routed_share: FiniteFloat | None = None  # of the coarsest tokens, are routed to for any of 8 x 8 queries (spd-v13)
    examples: Name | None = None  # the file beside this one that holds some images, answers and errors
    other_depth: OtherDepth = []

    @model_validator(mode="after")
    def _is_of_its_images(self) -> "DepthEvaluation":
        for each in self.scores:
            if each.abs_rel and len(each.abs_rel) != self.num_images:
                raise ValueError(
                    f"abs_rel must be of the {self.num_images} images, {each.who} {each.asked} has {len(each.abs_rel)}"
                )
        return self
