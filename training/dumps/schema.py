"""CONTRACT: what a dump holds: attributes, arrays, axes. No torch.

Axes: N images of the statistics, M <= N of the raw tier, C <= N of the causal tier; L layers of the model, of which the
first F have two branches (mdf1, mgem; else 0) and A = L - F plain attention; H heads; P patches; K prefix tokens (class
tokens); T = K + P; G groups of images (place modulo G); V folds of probes (place modulo V); B bins of |Δ|, R distances
and X regressors (`pairs`); a stream (`Stream`) has l layers, t tokens and width D; b = `gram_batch` images to a Gram
matrix.
Layers count from 0 in the store; figures show them from 1. "Packed" is the upper triangle, row by row.

| array                                 | shape                  | dtype | holds                                       |
|---------------------------------------|------------------------|-------|---------------------------------------------|
| image_keys                            | (N, 96)                | u1    | UTF-8, zero padded                          |
| images_done                           | (N,)                   | u1    | 1 once an image's rows are written          |
| statistics/labels, predicted          | (N,)                   | i4    | class numbers; labels -1 if not `labelled`  |
| statistics/patch_depth                | (N, P)                 | f4    | z in the mode `patch_depth`; +inf: invalid  |
| statistics/pairs/literal              | (N, packed 1+X)        | f8    | [1, X]'[1, X], X = pairs.REGRESSORS         |
| statistics/pairs/centred              | (N, packed X)          | f8    | the same of centred X, without 1            |
| statistics/bins/count, images         | (B, R)                 | f8    | pairs, images with a pair, in a cell        |
| statistics/bins/group_count           | (G, B, R)              | f8    | pairs in a cell                             |
| statistics/two_way/images, delta_sq   | (G,)                   | f8    | images without gaps; Σ centred |Δ|²         |
| statistics/two_way/delta_sum          | (G, P, P)              | f8    | Σ centred |Δ|                               |
| statistics/distance/gram              | (G, R, R)              | f8    | D'D of centred indicators of distances      |
| statistics/distance/pairs             | (G, R, 7)              | f8    | pairs.DISTANCE_PAIRS                        |
| statistics/<part>/distance            | (G, A, R, 4)           | f8    | scores.DISTANCE_ROWS of the head mean       |
| statistics/pattern/distance           | (G, A, R, 3)           | f8    | its first three of attention after softmax  |
| statistics/<part>/rows                | (N, A, len(ROWS))      | f8    | scores.ROWS of the head mean                |
| statistics/<part>/head_rows           | (G, A, H, len(ROWS))   | f8    | per head, summed over a group's images      |
| statistics/<part>/head_cosines        | (G, A, H, 4, 2)        | f8    | scores.COSINES per head: Σ, images defined  |
| statistics/<part>/bins/sum,           | (A, H, B, R)           | f8    | Σ S, Σ centred S in a cell                  |
|   sum_centred                         |                        |       |                                             |
| statistics/<part>/bins/group_sum      | (G, B, R)              | f8    | Σ S of the head mean, over layers           |
| statistics/<part>/curve               | (G, A, B)              | f8    | Σ S of the head mean by bin of |Δ|          |
| statistics/<part>/two_way/sum         | (A, H, P, P)           | f8    | Σ centred S over images without gaps        |
| statistics/<part>/two_way/group_sum   | (G, A, P, P)           | f4    | the same, head mean                         |
| statistics/<part>/two_way/            | (G, A, H)              | f8    | Σ centred S times |Δ|, the same images      |
|   head_sum_delta                      |                        |       |                                             |
| statistics/pattern/rows               | (N, A, 2)              | f8    | scores.PATTERN_ROWS, head mean              |
| statistics/pattern/bins/sum           | (A, H, B, R)           | f8    | Σ attention (after softmax) in a cell       |
| statistics/pattern/pair_sum           | (A, P, P)              | f8    | Σ attention over images, head mean          |
| statistics/probe/position             | (V, P, 3)              | f8    | patches with a depth, Σz, Σz²               |
| statistics/probe/<stream>/moments,    | (V, l, packed D+3)     | f8    | tokens.ProbeMoments                         |
|   image_moments                       |                        |       |                                             |
| statistics/probe/<stream>/            | (V, l, P, D)           | f8    | Σ h                                         |
|   position_sum                        |                        |       |                                             |
| statistics/similarity/<stream>/grams  | (N // b, l, b, b)      | f4    | tokens.Grams, zero diagonal                 |
| statistics/similarity/<stream>/       | (N // b, l, b)         | f4    | that diagonal                               |
|   diagonals                           |                        |       |                                             |
| statistics/similarity/<stream>/       | (N, l, 2 or 1, D)      | f2    | class token where there is one; mean patch  |
|   summary                             |                        |       |                                             |
| statistics/similarity/input/grams,    | as of a stream, l = 1  | f4    | the same of the photographs' pixels, 0..1   |
|   diagonals                           |                        |       |                                             |
| parameters/head_scale                 | (A, H)                 | f4    | s_h of a bias; (H,) until schema 4          |
| parameters/alpha                      | (A,)                   | f4    | of a `linear` bias, mlin's                  |
| parameters/phi                        | (A, 3, hidden)         | f4    | of a `phi` bias, mmlp's: w, b, a of         |
|                                       |                        |       | φ(Δ) = Σ a ReLU(w Δ + b)                    |
| raw/bias_table                        | (M, A, T, T)           | f4    | of a `raw` bias: its table                  |
| raw/scores_pre_bias                   | (M, A, H, T, T)        | f2    | QK^T/sqrt(head dim) minus its row mean      |
| raw/row_mean                          | (M, A, H, T)           | f4    | that row mean                               |
| raw/resid_post/<stream>               | (M, l, t, D)           | f2    | block outputs                               |
| raw/patch_depth/<mode>                | (M, P)                 | f4    | z, `mean` and `center4`; +inf: invalid      |
| raw/rgb                               | (M, h, w, 3)           | u1    | the evaluated crop                          |
| causal/base                           | (C,)                   | u1    | 1: right without any change; if `labelled`  |
| causal/outcomes                       | (C, I, 4 or 3)         | f4    | `outcomes` of each of `interventions`       |
| causal/swap/pairs                     | (C,)                   | f8    | Σ (Δ' - Δ)² centred, |Δ'| of another image  |
| causal/swap/rows                      | (C, A)                 | f8    | Σ (S' - S)(Δ' - Δ) of the head mean         |
| causal/swap/head_rows                 | (G, A, H)              | f8    | the same per head                           |
| causal/swap/head_pairs                | (G,)                   | f8    | Σ (Δ' - Δ)²                                 |
| causal/swap/distance                  | (G, A, R)              | f8    | Σ (S' - S)(Δ' - Δ) at a distance; head mean |
| causal/swap/distance_pairs            | (G, R)                 | f8    | Σ (Δ' - Δ)² at a distance                   |
| causal/refit/moments                  | (V, l + 1, packed D+3) | f8    | at the last block, depth erased at each; at |
|                                       |                        |       | none                                        |

Images of the causal tier are spread over the dump's; its second half are the partners (`pairs.partner`) of the first.
Its groups and folds go by place in the half.
<part> is `content` (scores before any depth bias) and, where the model has a bias, also `total` (after it).
"""

import math
import re
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator
from typing_extensions import TypedDict

from training.dumps.arrays import packed_size
from training.dumps.pairs import DISTANCE_PAIRS, NUM_BINS, REGRESSORS, num_distances
from training.dumps.scores import COSINES, DISTANCE_ROWS, PATTERN_ROWS, ROWS
from training.dumps.tokens import NUM_FOLDS, gram_batch

SCHEMA_VERSION = 5
OLDEST_SCHEMA = 4  # that is read
KEY_BYTES = 96
Mode = Literal["mean", "center4"]  # how the depth of a patch is made of its pixels
MODES: tuple[Mode, ...] = get_args(Mode)
OUTCOMES = ("correct", "kl", "logit_mae", "changed")  # KL(unchanged || changed) in nats; prediction is another
PHI_HIDDEN = 32  # the paper's width of φ

# A dump may be somebody else's: names become anchors, file names and words of shell lines, numbers become memory.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _printable(text: str) -> str:
    if UNPRINTABLE.search(text):
        raise ValueError("must hold no control characters, nor any that turn the direction of reading")
    return text


def _folder_name(text: str) -> str:
    if "/" in text or text in ("", ".", ".."):
        raise ValueError("must be the name of a folder")
    return text


Text = Annotated[str, Field(max_length=4096), AfterValidator(_printable)]
Word = Annotated[str, Field(max_length=255), AfterValidator(_printable)]
FolderName = Annotated[Word, AfterValidator(_folder_name)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]  # of a depth field, a model, a split: also new ones
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
Intervention = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}(-(all|[0-9]{1,4}))?$")]
NumImages = Annotated[int, Field(ge=0, le=10**8)]
NumLayers = Annotated[int, Field(ge=0, le=1000)]
Side = Annotated[int, Field(ge=1, le=256)]  # patches


def check_plain(whole: Any, values: int = 10_000, length: int = 4096) -> None:
    """ValueError unless JSON is of sensible depth, of so many values, texts print, and numbers are finite."""
    left, seen = [(whole, 0)], 0
    while left:
        value, depth = left.pop()
        seen += 1
        if depth > 8 or seen > values:
            raise ValueError("deeper or larger than it can be")
        if isinstance(value, dict):
            left += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list | tuple):
            left += [(each, depth + 1) for each in value]
        elif isinstance(value, str) and (len(value) > length or UNPRINTABLE.search(value)):
            raise ValueError(f"holds text that is too long or cannot be printed, {value!r:.40}")
        elif isinstance(value, float | int) and not (abs(value) < 2**64 and math.isfinite(value)):
            raise ValueError(f"holds a number that is not finite, or too large, {value!s:.40}")


def configuration(config: dict[str, Any]) -> dict[str, Any]:
    """A run's, with what is read of it as it must be."""
    check_plain(config)
    model = config.get("model", {})
    if not isinstance(model, dict) or model.get("patch_depth", "mean") not in MODES:
        raise ValueError("must hold the model's settings under 'model', with a mode of patch depth")
    if type(config.get("seed", 0)) is not int:
        raise ValueError("must hold a whole number as 'seed'")
    return config


class Standardisation(TypedDict, total=False):
    """z = (d - mean) / std, or minus that where closer is larger."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    mean: FiniteFloat
    std: FiniteFloat
    polarity: Name
    unit: Word


class Stream(BaseModel):
    """Outputs of consecutive blocks: `tokens` of plain blocks, `rgb` and `depth` of blocks with two branches."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^(tokens|rgb|depth)$")
    first_layer: NumLayers
    num_layers: NumLayers
    prefix: int = Field(ge=0, le=64)  # class tokens before the patches
    width: int = Field(ge=1, le=100_000)


class DumpInfo(BaseModel):
    """The store's attributes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int = SCHEMA_VERSION
    model: Name
    run: FolderName
    config: Annotated[dict[str, Any], AfterValidator(configuration)]
    study_hash: Word
    checkpoint: str = Field(pattern=r"^(latest|best|(epoch|step)-[0-9]{1,12})$")
    checkpoint_sha256: Hash
    epoch: int = Field(ge=0, le=10**9)
    data: Text
    split: Name
    fingerprint: Word
    own_data: bool = True  # these are the shards that the run was validated on
    classes_sha256: Hash  # of the classes that the model tells apart
    class_names: list[Text] = Field(max_length=10**6)  # empty where not `labelled`
    labelled: bool = True  # False: the data have no classes, or others than the model's
    depth_field: Name
    other_depth: list[Text] = []  # in what it differs from the depth that the run was trained with
    standardisation: Standardisation
    patch_depth: Mode  # mode of the patch depth behind the statistics
    scale: FiniteFloat  # scores are scale * QK^T
    bias: Literal["linear", "phi", "raw"] | None  # in which form it is kept
    num_prefix: int = Field(ge=0, le=64)  # class tokens; patches follow
    num_layers: NumLayers
    first_attention_layer: NumLayers  # layers before it have two branches
    streams: list[Stream] = Field(max_length=3)
    num_heads: int = Field(ge=1, le=1000)
    grid: Annotated[tuple[Side, Side], Field(strict=False)]  # JSON knows lists alone
    image_size: int = Field(ge=1, le=10**5)
    num_images: int = Field(ge=1, le=10**8)
    num_raw: NumImages
    num_groups: int = Field(ge=1, le=1000)
    gram_batch: NumImages
    num_causal: NumImages = 0
    interventions: list[Intervention] = Field(default=[], max_length=10_000)
    dtype: Name  # of the forward pass
    # Largest |logit| difference between the taps' path and the fused one, first batch.
    max_fused_difference: FiniteFloat = Field(ge=0)

    @model_validator(mode="before")
    @classmethod
    def _brought_up(cls, values: Any) -> Any:
        """What schema 4 wrote."""
        if not isinstance(values, dict) or values.get("schema_version") != OLDEST_SCHEMA:
            return values
        gone = ("cls_index", "layer_base", "tf32")
        kept = {name: value for name, value in values.items() if name not in gone}
        return kept | ({"bias": "phi"} if kept.get("bias") == "table" else {})

    @model_validator(mode="after")
    def _holds_together(self) -> "DumpInfo":
        """What else `train dump` never writes, and what readers take for granted."""
        branches = {"rgb": (0, self.first_attention_layer, 0), "depth": (0, self.first_attention_layer, 0)}
        expected = {"tokens": (self.first_attention_layer, self.num_attention_layers, self.num_prefix)}
        expected |= branches if self.first_attention_layer else {}
        for holds, what in (
            (self.num_attention_layers > 0, "first_attention_layer must be below num_layers"),
            (self.num_raw <= self.num_images, "num_raw must be at most num_images"),
            (self.num_causal <= self.num_images, "num_causal must be at most num_images"),
            (self.num_groups <= self.num_images, "num_groups must be at most num_images"),
            (self.gram_batch == gram_batch(self.num_images), "gram_batch must be that of num_images"),
            (
                bool(self.num_causal) <= bool(self.interventions),
                "interventions must be named where num_causal is",
            ),
            (len(self.streams) == len(expected), f"streams must be {', '.join(expected)}"),
            (
                {s.name: (s.first_layer, s.num_layers, s.prefix) for s in self.streams} == expected,
                f"streams must be {', '.join(expected)}, of all layers",
            ),
        ):
            if not holds:
                raise ValueError(what)
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        return ("content", "total") if self.has_bias else ("content",)

    @property
    def has_bias(self) -> bool:
        return self.bias is not None

    @property
    def outcomes(self) -> tuple[str, ...]:
        """OUTCOMES, without what needs labels where there are none."""
        return OUTCOMES if self.labelled else OUTCOMES[1:]

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def num_attention_layers(self) -> int:
        return self.num_layers - self.first_attention_layer

    @property
    def attention_layers(self) -> np.ndarray:
        """Layers with plain attention, counted from 1."""
        return np.arange(self.first_attention_layer, self.num_layers) + 1

    def stream(self, name: str) -> Stream:
        return next(stream for stream in self.streams if stream.name == name)


class Spec(BaseModel):
    """An array of the store; `by_image`: its first axis is images."""

    shape: tuple[int, ...]
    dtype: str
    by_image: bool = False

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def arrays(info: DumpInfo) -> dict[str, Spec]:
    """Every array that a dump with these attributes has; empty ones are left out."""
    n, patches = info.num_images, info.num_patches
    found = {
        "image_keys": Spec(shape=(n, KEY_BYTES), dtype="u1", by_image=True),
        "images_done": Spec(shape=(n,), dtype="u1", by_image=True),
        "statistics/labels": Spec(shape=(n,), dtype="i4", by_image=True),
        "statistics/predicted": Spec(shape=(n,), dtype="i4", by_image=True),
        "statistics/patch_depth": Spec(shape=(n, patches), dtype="f4", by_image=True),
        "statistics/pairs/literal": Spec(shape=(n, packed_size(1 + len(REGRESSORS))), dtype="f8", by_image=True),
        "statistics/pairs/centred": Spec(shape=(n, packed_size(len(REGRESSORS))), dtype="f8", by_image=True),
    }
    for part in info.parts:
        found |= {f"statistics/{part}/{name}": spec for name, spec in _of_scores(info).items()}
    found |= _of_pairs(info) | _of_tokens(info) | _of_parameters(info) | _raw(info) | _causal(info)
    return {name: spec for name, spec in found.items() if 0 not in spec.shape}


def _of_pairs(info: DumpInfo) -> dict[str, Spec]:
    groups, layers, square = info.num_groups, info.num_attention_layers, (info.num_patches, info.num_patches)
    cells = (NUM_BINS, num_distances(info.grid))
    shapes: dict[str, tuple[int, ...]] = {
        "bins/count": cells,
        "bins/images": cells,
        "bins/group_count": (groups, *cells),
        "two_way/images": (groups,),
        "two_way/delta_sum": (groups, *square),
        "two_way/delta_sq": (groups,),
        "distance/gram": (groups, cells[1], cells[1]),
        "distance/pairs": (groups, cells[1], len(DISTANCE_PAIRS)),
        "pattern/distance": (groups, layers, cells[1], 3),
        "pattern/bins/sum": (layers, info.num_heads, *cells),
        "pattern/pair_sum": (layers, *square),
    }
    found = {f"statistics/{name}": Spec(shape=shape, dtype="f8") for name, shape in shapes.items()}
    rows = (info.num_images, layers, len(PATTERN_ROWS))
    return found | {"statistics/pattern/rows": Spec(shape=rows, dtype="f8", by_image=True)}


def _of_scores(info: DumpInfo) -> dict[str, Spec]:
    groups, layers, heads = info.num_groups, info.num_attention_layers, info.num_heads
    square, cells = (info.num_patches, info.num_patches), (NUM_BINS, num_distances(info.grid))
    shapes: dict[str, tuple[int, ...]] = {
        "head_rows": (groups, layers, heads, len(ROWS)),
        "head_cosines": (groups, layers, heads, len(COSINES), 2),
        "bins/sum": (layers, heads, *cells),
        "bins/sum_centred": (layers, heads, *cells),
        "bins/group_sum": (groups, *cells),
        "curve": (groups, layers, NUM_BINS),
        "two_way/sum": (layers, heads, *square),
        "two_way/head_sum_delta": (groups, layers, heads),
        "distance": (groups, layers, cells[1], len(DISTANCE_ROWS)),
    }
    found = {name: Spec(shape=shape, dtype="f8") for name, shape in shapes.items()}
    found["rows"] = Spec(shape=(info.num_images, layers, len(ROWS)), dtype="f8", by_image=True)
    found["two_way/group_sum"] = Spec(shape=(groups, layers, *square), dtype="f4")
    return found


def _of_tokens(info: DumpInfo) -> dict[str, Spec]:
    found = {"statistics/probe/position": Spec(shape=(NUM_FOLDS, info.num_patches, 3), dtype="f8")}
    block = info.gram_batch
    blocks = info.num_images // block if block else 0
    found |= {
        "statistics/similarity/input/grams": Spec(shape=(blocks, 1, block, block), dtype="f4"),
        "statistics/similarity/input/diagonals": Spec(shape=(blocks, 1, block), dtype="f4"),
    }
    for stream in info.streams:
        layers, width = stream.num_layers, stream.width
        probe, similarity = f"statistics/probe/{stream.name}", f"statistics/similarity/{stream.name}"
        triangle = (NUM_FOLDS, layers, packed_size(width + 3))
        summary = (info.num_images, layers, 1 + (stream.prefix > 0), width)
        found |= {
            f"{probe}/moments": Spec(shape=triangle, dtype="f8"),
            f"{probe}/image_moments": Spec(shape=triangle, dtype="f8"),
            f"{probe}/position_sum": Spec(shape=(NUM_FOLDS, layers, info.num_patches, width), dtype="f8"),
            f"{similarity}/grams": Spec(shape=(blocks, layers, block, block), dtype="f4"),
            f"{similarity}/diagonals": Spec(shape=(blocks, layers, block), dtype="f4"),
            f"{similarity}/summary": Spec(shape=summary, dtype="f2", by_image=True),
        }
    return found


def _of_parameters(info: DumpInfo) -> dict[str, Spec]:
    if info.bias is None:
        return {}
    layers = info.num_attention_layers
    scale = (info.num_heads,) if info.schema_version == OLDEST_SCHEMA else (layers, info.num_heads)
    shapes: dict[str, tuple[int, ...]] = {"head_scale": scale}
    if info.bias == "linear":
        shapes["alpha"] = (layers,)
    elif info.bias == "phi":
        shapes["phi"] = (layers, 3, PHI_HIDDEN)
    return {f"parameters/{name}": Spec(shape=shape, dtype="f4") for name, shape in shapes.items()}


def _raw(info: DumpInfo) -> dict[str, Spec]:
    m, layers, heads = info.num_raw, info.num_attention_layers, info.num_heads
    tokens = info.num_prefix + info.num_patches
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "scores_pre_bias": ((m, layers, heads, tokens, tokens), "f2"),
        "row_mean": ((m, layers, heads, tokens), "f4"),
        "rgb": ((m, info.image_size, info.image_size, 3), "u1"),
    }
    if info.bias == "raw":
        shapes["bias_table"] = ((m, layers, tokens, tokens), "f4")
    for stream in info.streams:
        shape = (m, stream.num_layers, stream.prefix + info.num_patches, stream.width)
        shapes[f"resid_post/{stream.name}"] = (shape, "f2")
    for mode in MODES:
        shapes[f"patch_depth/{mode}"] = ((m, info.num_patches), "f4")
    return {f"raw/{name}": Spec(shape=shape, dtype=dtype, by_image=True) for name, (shape, dtype) in shapes.items()}


def _causal(info: DumpInfo) -> dict[str, Spec]:
    c, layers = info.num_causal, info.num_attention_layers
    if c == 0:
        return {}
    last = info.stream("tokens")
    groups, radii = info.num_groups, num_distances(info.grid)
    base = {"causal/base": Spec(shape=(c,), dtype="u1", by_image=True)} if info.labelled else {}
    return base | {
        "causal/outcomes": Spec(shape=(c, len(info.interventions), len(info.outcomes)), dtype="f4", by_image=True),
        "causal/swap/pairs": Spec(shape=(c,), dtype="f8", by_image=True),
        "causal/swap/rows": Spec(shape=(c, layers), dtype="f8", by_image=True),
        "causal/swap/head_rows": Spec(shape=(groups, layers, info.num_heads), dtype="f8"),
        "causal/swap/head_pairs": Spec(shape=(groups,), dtype="f8"),
        "causal/swap/distance": Spec(shape=(groups, layers, radii), dtype="f8"),
        "causal/swap/distance_pairs": Spec(shape=(groups, radii), dtype="f8"),
        "causal/refit/moments": Spec(shape=(NUM_FOLDS, last.num_layers + 1, packed_size(last.width + 3)), dtype="f8"),
    }
