"""CONTRACT: what a run leaves as JSON. Imports no torch.

    runs/<name>/run.json            RunRecord, written before the first step
    runs/<name>/metrics.jsonl       one JSON object a line: TrainLine, EvalLine, SegmentationLine,
                                    ParametersLine, EndLine (by "kind")
    runs/<name>/evaluations/*.json  Evaluation, SegmentationEvaluation, NoiseSweep or Gap (by "kind"; none: Evaluation)
    runs/<name>/checkpoints/        step-<n>/ (to resume from), best/ and epoch-<n>/ (weights only)
    runs/<name>/dumps/*.zarr        see training/dumps
    matrix.json                     Matrix, in the folder that `train matrix` was given

`load_run` reads a run folder and refuses newer schemas by name.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator, model_validator

from pipeline import files
from pipeline.errors import UserError

SCHEMA_VERSION = 4
_FIRST_OF_MATRIX = 4  # that has pseudo-values
OtherDepth = list[str]  # in what the shards' depth differs from that the run was trained with
Share = Annotated[float, Field(ge=0, le=1)]  # and no NaN
Amount = Annotated[FiniteFloat, Field(ge=0)]

# What is read may be a stranger's: names match a pattern (not a list: new ones come), numbers have bounds.
Name = Annotated[str, Field(max_length=255, pattern=r"^[^/\x00]+$")]  # of a file or folder
Place = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
Word = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]  # a model, preset, source, unit
Stamp = Annotated[str, Field(pattern=r"^[0-9A-Za-z:+.-]{1,40}$")]
DepthName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
CheckpointName = Annotated[str, Field(pattern=r"^(latest|best|(epoch|step)-[0-9]{1,15})$")]
SplitName = Annotated[str, Field(pattern=r"^[a-z]{1,16}$")]
Hash = Annotated[str, Field(pattern=r"^[A-Za-z0-9_:-]{0,128}$")]
Text = Annotated[str, Field(max_length=10_000)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Some = Annotated[int, Field(ge=1, le=10**12)]
Step = Annotated[int, Field(ge=0, le=10**15)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Bits = Annotated[str, Field(max_length=10**9, pattern=r"^[01]*$")]  # one '0' or '1' a sample
Sides = Annotated[int, Field(ge=0, le=10**6)]
_MOST_BYTES = 2 << 30  # of one file


class RecordError(UserError):
    """A run's file is missing, damaged or newer than this version; the message names it."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _shallow(cls, value: Any) -> Any:
        if isinstance(value, dict) and files.too_deep(value):
            raise ValueError("nested too deeply")
        return value


class _Constants(_Record):
    mean: FiniteFloat
    std: Annotated[FiniteFloat, Field(gt=0)]
    polarity: Literal["closer_is_larger", "farther_is_larger"]
    unit: Annotated[str, Field(max_length=64)]


class ShardsSeen(_Record):
    """The data a run reads. `standardisation` is that of its depth field: mean, std, polarity, unit.

    With `online` depth it is that of the teacher in the loop, which `teacher` then names.
    """

    path: Place
    source: Word
    train_fingerprint: Hash
    val_fingerprint: Hash
    num_train: Count
    num_val: Count
    num_classes: Count
    classes_sha256: Hash
    depth_field: DepthName
    standardisation: dict[str, Any]
    teacher: Place | None
    teacher_sha256: Hash | None = None  # of its weights

    @field_validator("standardisation")
    @classmethod
    def _has_constants(cls, value: dict[str, Any]) -> dict[str, Any]:
        _Constants.model_validate(value)
        return value


class RunRecord(_Record):
    """run.json. `config` is the resolved configuration; `study_hash` covers all of it but `runtime`."""

    schema_version: int = SCHEMA_VERSION
    name: Name
    created: Stamp  # ISO 8601, UTC
    preset: Word
    task: Literal["classification", "segmentation"] = "classification"
    model: Word  # moniker
    seed: Seed
    config: dict[str, Any]
    study_hash: Hash
    shards: ShardsSeen
    num_parameters: Count
    macs: Step  # matmuls and convolutions of one forward pass of one image
    init_sha256: str | None = None  # of the weights that `config.init` named
    init_rows: list[dict[str, Any]] = []  # what was loaded, adapted and left fresh of them, as was shown
    init_note: Text = ""
    started_from: dict[str, Any] | None = None  # the run and checkpoint that `config.init` named, with its shards
    frozen: list[str] = []  # parameters that the optimizer's grouping leaves as they were
    online_teacher: dict[str, Any] | None = None  # everything that online depth depends on
    steps_per_epoch: Count
    num_steps: Step
    git: dict[str, Any]  # revision, dirty
    versions: dict[str, str]
    machine: dict[str, Any]  # device, cores, world_size

    @model_validator(mode="after")
    def _config_is_the_one_hashed(self) -> "RunRecord":
        if self.study_hash != study_hash(self.config):
            raise ValueError("config does not have the hash that study_hash states: it was changed since")
        for name, stated, *place in (
            ("model", self.model, "model", "name"),
            ("seed", self.seed, "seed"),
            ("preset", self.preset, "preset"),
            ("shards.depth_field", self.shards.depth_field, "data", "depth"),
        ):
            value: Any = self.config
            for key in place:
                value = value.get(key) if isinstance(value, dict) else None
            if value != stated:
                raise ValueError(f"{name} is {stated!r}, config says {value!r}: it was changed since")
        return self


def study_hash(config: dict[str, Any]) -> str:
    """Of all that a result depends on: a resolved configuration (as JSON has it) without `runtime`."""
    study = {name: value for name, value in config.items() if name != "runtime"}
    return hashlib.sha256(json.dumps(study, sort_keys=True).encode()).hexdigest()[:16]


class TrainLine(_Record):
    """Means over the steps since the line before."""

    kind: Literal["train"] = "train"
    step: Step  # optimizer steps done
    epoch: Amount
    loss: FiniteFloat
    lr: Amount
    grad_norm: Amount
    images_per_s: Amount
    data_wait: Amount  # share of the time spent waiting for data


class EvalLine(_Record):
    kind: Literal["eval"] = "eval"
    step: Step
    epoch: Count
    top1: Share  # of validation samples
    top5: Share
    loss: FiniteFloat
    num_samples: Some
    seconds: Amount


class SegmentationLine(_Record):
    kind: Literal["segmentation"] = "segmentation"
    step: Step
    epoch: Count
    miou: Share  # of the part that chooses the checkpoint
    pixel_accuracy: Share
    loss: FiniteFloat
    num_samples: Count
    seconds: Amount


class ParametersLine(_Record):
    """Parameters that the figures need, per epoch; epoch 0 is before the first step.

    mlin: `alpha`, one number a block. mmlp: `phi`, a list a block of φ(Δ) at the Δ of `phi_grid`.
    """

    kind: Literal["parameters"] = "parameters"
    step: Step
    epoch: Count
    values: dict[str, list[FiniteFloat] | list[list[FiniteFloat]]]

    @model_validator(mode="after")
    def _has_as_many_numbers_everywhere(self) -> "ParametersLine":
        for name in self.values:
            sizes = self.sizes(name)
            if len(set(sizes[1:])) > 1:
                raise ValueError(
                    f"{name} must have as many numbers in each block, got {', '.join(map(str, sizes[1:]))}"
                )
        if "alpha" in self.values and self.sizes("alpha")[1:]:
            raise ValueError("alpha must be one number a block, got lists")
        if "phi" in self.values and set(self.sizes("phi")[1:]) != {len(self.values.get("phi_grid", []))}:
            raise ValueError("phi must be a list a block, each with a number for each of phi_grid")
        return self

    def sizes(self, name: str) -> list[int]:
        """How many blocks there are, then how many numbers in each where these are lists."""
        values = self.values[name]
        return [len(values), *(len(each) for each in values if isinstance(each, list))]


class EndLine(_Record):
    kind: Literal["end"] = "end"
    step: Step
    epoch: Count
    train_seconds: Amount  # time in training steps, over all resumes
    total_seconds: Amount  # with evaluation and checkpoints
    resumes: Count | None = None  # checkpoints it went on from, at least; 0: uninterrupted; None: an older record


class Evaluation(_Record):
    """Accuracy of one checkpoint on one split, with the outcome of every sample in the split's own order."""

    schema_version: int = SCHEMA_VERSION
    model: Word
    checkpoint: CheckpointName
    epoch: Count
    data: Place
    split: SplitName
    fingerprint: Hash  # of the split's shards
    depth_field: DepthName
    num_samples: Some
    top1: Share
    top5: Share
    loss: FiniteFloat
    correct1: Bits  # one '0' or '1' a sample
    correct5: Bits
    largest_class: Share | None = None  # of the samples, are of the most frequent class; None: an older record
    other_depth: OtherDepth = []


class SegmentationScores(_Record):
    """Of one way to predict. `per_image`: per image {class: [true positive, false positive, false negative] pixels}."""

    miou: Share
    pixel_accuracy: Share
    class_iou: list[Share | None]  # None for a class that is neither there nor found
    confusion: list[list[Count]]  # [label][prediction], pixels; void left out
    per_image: list[dict[Count, tuple[Count, Count, Count]]]

    @model_validator(mode="after")
    def _is_of_its_classes(self) -> "SegmentationScores":
        classes = len(self.class_iou)
        if len(self.confusion) != classes or any(len(row) != classes for row in self.confusion):
            raise ValueError(f"confusion must be {classes} x {classes}, as class_iou has classes")
        if wrong := [number for image in self.per_image for number in image if number >= classes]:
            raise ValueError(f"per_image must be of the {classes} classes of class_iou, got one numbered {wrong[0]}")
        return self


class SegmentationEvaluation(_Record):
    """One checkpoint on one split with one depth field; every labelled pixel counted once."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["segmentation"] = "segmentation"
    model: Word
    checkpoint: CheckpointName
    epoch: Count
    checkpoint_sha256: Hash
    selection: Word  # best-on-val: by scenes set aside from training; best-on-test: by the test split; none: not chosen
    data: Place
    split: SplitName
    fingerprint: Hash
    depth_field: DepthName
    inputs: Word | None = (
        None  # how RGB and depth were prepared: z, dformer-greys, dformer-linear; None: an older record
    )
    num_samples: Some
    keys: list[str]
    classes: list[str]
    loss: FiniteFloat
    single: SegmentationScores  # as the images are
    multi: SegmentationScores | None  # summed over `scales`, each also mirrored
    scales: list[float]
    commonest_miou: Share | None = None  # of answering the commonest label everywhere; None: an older record
    other_depth: OtherDepth = []

    @model_validator(mode="after")
    def _is_of_its_images(self) -> "SegmentationEvaluation":
        for scores in filter(None, (self.single, self.multi)):
            found = (len(self.keys), len(scores.per_image), len(scores.class_iou))
            if found != (wanted := (self.num_samples, self.num_samples, len(self.classes))):
                raise ValueError(f"keys, images and classes must be {wanted} in number, got {found}")
        return self


class NoiseSweep(_Record):
    """Accuracy of one checkpoint on one split at several strengths of noise on depth, z + sigma * eps.

    The lists have an entry a sigma. The eps of a sample are the same for every sigma and every model.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Literal["noise"] = "noise"
    model: Word
    checkpoint: CheckpointName
    epoch: Count
    data: Place
    split: SplitName
    fingerprint: Hash  # of the split's shards
    depth_field: DepthName
    noise: Literal["pixel", "patch"]  # one Gaussian a pixel of the model's view, or a patch
    noise_seed: Seed
    image_size: Sides
    patch_size: Sides
    num_samples: Some
    sigmas: list[Amount] = Field(min_length=1)  # rising, in units of z
    top1: list[Share]
    top5: list[Share]
    loss: list[FiniteFloat]
    correct1: list[Bits]  # one '0' or '1' a sample
    largest_class: Share | None = None  # as in Evaluation
    other_depth: OtherDepth = []


class MatrixCell(_Record):
    """mIoU of one fine-tuned model on the test split, with Student's 95 % interval over images.

    `error` is its delete-one-image jackknife's standard error (Tukey 1958): of n images, that of the mean of
    `pseudo_values`, n * mIoU - (n - 1) * mIoU without the image, in the images' order. Cells of one matrix are of the
    same images, so what compares them takes the error of the same combination of their pseudo-values.
    """

    name: Name  # of what it was fine-tuned from
    model: Word
    seed: Seed
    trained: Literal["real", "pseudo"]
    tested: Literal["real", "pseudo"]
    miou: Share  # summed over scales where the matrix is `multi_scale`
    low: Share
    high: Share
    error: Amount
    pseudo_values: list[FiniteFloat]
    single_miou: Share
    commonest_miou: Share  # of answering the commonest label everywhere
    pixel_accuracy: Share
    epoch: Count
    selection: Word

    @model_validator(mode="after")
    def _lies_in_its_interval(self) -> "MatrixCell":
        _check_order(self.low, self.miou, self.high)
        return self


class MatrixDifference(_Record):
    """`of` minus `minus`, (trained, tested) each, of one model on the same images; `error` as a cell's, paired."""

    name: Name
    model: Word
    seed: Seed
    of: tuple[str, str]
    minus: tuple[str, str]
    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    error: Amount

    @model_validator(mode="after")
    def _lies_in_its_interval(self) -> "MatrixDifference":
        _check_order(self.low, self.value, self.high)
        return self


def _check_order(low: float, value: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{value:g} must lie in its interval, from {low:g} to {high:g}")


class Matrix(_Record):
    """Table 3 of some models: matrix.json."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["matrix"] = "matrix"
    data: Place
    split: SplitName
    fingerprint: Hash
    num_images: Annotated[int, Field(ge=2, le=10**12)]
    num_classes: Some
    multi_scale: bool
    cells: list[MatrixCell] = Field(min_length=1)
    differences: list[MatrixDifference]

    @model_validator(mode="after")
    def _is_of_one_set_of_images(self) -> "Matrix":
        miou: dict[tuple[str, str, int, tuple[str, str]], float] = {}
        for cell in self.cells:
            place = (cell.name, cell.model, cell.seed, (cell.trained, cell.tested))
            if place in miou:
                raise ValueError(f"a cell must be there once, {_told(place)} is there twice")
            if len(cell.pseudo_values) != self.num_images:
                raise ValueError(
                    f"{_told(place)} must have a pseudo-value for each of {self.num_images} images, "
                    f"it has {len(cell.pseudo_values)}"
                )
            if max(map(abs, cell.pseudo_values)) > self.num_images:
                raise ValueError(f"pseudo-values of {_told(place)} must lie within the number of images")
            miou[place] = cell.miou
        for difference in self.differences:
            sides = [
                (difference.name, difference.model, difference.seed, side) for side in (difference.of, difference.minus)
            ]
            if missing := [side for side in sides if side not in miou]:
                raise ValueError(f"a difference needs its two cells, {_told(missing[0])} is not there")
            if abs(difference.value - (miou[sides[0]] - miou[sides[1]])) > 1e-9:
                raise ValueError(
                    f"the difference of {_told(sides[0])} must be that of its cells, got {difference.value:g}"
                )
        return self


def _told(place: tuple[str, str, int, tuple[str, str]]) -> str:
    name, model, seed, (trained, tested) = place
    return f"{model} from {name:.60}, seed {seed}, {trained:.20} to {tested:.20},"


class GapCurve(_Record):
    """e(sigma): mean over images and classes of |f(rgb, pseudo + sigma * eps) - f(rgb, pseudo)|, an entry a sigma."""

    noise: Literal["pixel", "patch"]
    output: Literal["logits", "softmax"]  # what f is
    e: list[float]


class GapCrossing(_Record):
    """The strength of noise that moves f as far as real depth does: e(sigma_star) = e_star.

    `low` and `high` bound 95 % of resamples of the images. A sigma that is None lies above the grid, or, where
    `undefined`, nowhere: f does not change with depth.
    """

    noise: Literal["pixel", "patch"]
    output: Literal["logits", "softmax"]
    reading: Literal["z", "inverse"]  # real depth as stored; as -1/d, standardised over these images
    e_star: float  # mean of |f(rgb, real) - f(rgb, pseudo)|
    sigma_star: float | None
    low: float | None
    high: float | None
    share_above: float  # of the resamples
    undefined: bool


class Gap(_Record):
    """What the difference between pseudo and real depth is worth as noise, for one checkpoint. Whole images, squashed.

    Noise is that of NoiseSweep: one draw an image for every sigma and every model.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Literal["gap"] = "gap"
    model: Word
    checkpoint: CheckpointName
    epoch: Count
    data: Place
    fingerprints: dict[str, str]  # split -> of its shards; all splits are used
    real_field: DepthName
    num_images: Some
    noise_seed: Seed
    image_size: Sides
    patch_size: Sides
    sigmas: list[float] = Field(min_length=1)  # rising from 0, in units of z
    num_resamples: Count
    inverse_mean: float  # of 1/d, in 1/m
    inverse_std: float
    curves: list[GapCurve] = Field(min_length=1)
    crossings: list[GapCrossing]
    other_depth: OtherDepth = []

    @model_validator(mode="after")
    def _crosses_with_both_outputs(self) -> "Gap":
        if {crossing.output for crossing in self.crossings} != {"logits", "softmax"}:
            raise ValueError("crossings must be of logits and of softmax")
        return self


AnyEvaluation = Evaluation | SegmentationEvaluation | NoiseSweep | Gap
MetricsLine = TrainLine | EvalLine | SegmentationLine | ParametersLine | EndLine
_LINES: dict[str, type[MetricsLine]] = {
    "train": TrainLine,
    "eval": EvalLine,
    "segmentation": SegmentationLine,
    "parameters": ParametersLine,
    "end": EndLine,
}
_EVALUATIONS: dict[str, type[Evaluation | SegmentationEvaluation | NoiseSweep | Gap]] = {
    "classification": Evaluation,
    "segmentation": SegmentationEvaluation,
    "noise": NoiseSweep,
    "gap": Gap,
}
_RecordT = TypeVar("_RecordT", bound=BaseModel)


@dataclass(frozen=True)
class Run:
    """A run folder as read by `load_run`."""

    folder: Path
    record: RunRecord
    metrics: list[MetricsLine]
    evaluations: list[Evaluation]
    dumps: list[Path]
    noise_sweeps: list[NoiseSweep] = field(default_factory=list)
    segmentations: list[SegmentationEvaluation] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)

    def lines(self, kind: type[_RecordT]) -> list[_RecordT]:
        return [line for line in self.metrics if isinstance(line, kind)]


def load_run(folder: Path | str) -> Run:
    """Read a run folder; raises RecordError naming the file at fault."""
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise RecordError(f"run folder {folder} {what}: give a folder made by train pretrain")
    if not (folder / "run.json").exists() and any(folder.glob("*/run.json")):
        raise RecordError(f"{folder} is a folder of runs: give the runs in it, {folder}/*")
    record = parse(RunRecord, folder / "run.json")
    found = [read_evaluation(path) for path in files.listed(folder / "evaluations", ".json")]
    dumps = [*files.listed(folder / "dumps", ".zarr"), *files.set_aside(folder / "dumps", ".zarr")]
    return Run(
        folder, record, read_metrics(folder / "metrics.jsonl"),
        evaluations=[each for each in found if isinstance(each, Evaluation)],
        dumps=dumps,
        noise_sweeps=[each for each in found if isinstance(each, NoiseSweep)],
        segmentations=[each for each in found if isinstance(each, SegmentationEvaluation)],
        gaps=[each for each in found if isinstance(each, Gap)],
    )  # fmt: skip


class _Kind(BaseModel):
    kind: str = "classification"


_FEW = 3  # fields of an evaluation that another program's file may have by chance


def read_evaluation(path: Path) -> AnyEvaluation:
    """A file of RUN/evaluations, as its kind says; raises RecordError naming one that is none, or of a later kind."""
    data = _read(path)
    try:
        content = files.parsed_json(data)
    except files.ReadError as error:
        if b'"schema_version"' in data[:100]:  # with which ours begin
            raise _damaged(path, error) from None
        content = None
    if not _is_ours(content):
        raise RecordError(f"{path} is nothing that train evaluate or train gap writes: move it away")
    kind = _validated(_Kind, path, content).kind
    if kind not in _EVALUATIONS:
        raise RecordError(
            f"{path} is of kind {kind!r}, this version reads {', '.join(_EVALUATIONS)}: update pseudodepth"
        )
    return _validated(_EVALUATIONS[kind], path, content)


def _is_ours(content: Any) -> bool:
    """Whether it is an evaluation, be it damaged or of a later version."""
    if not isinstance(content, dict):
        return False
    kind = content.get("kind")
    known = isinstance(kind, str) and kind in _EVALUATIONS
    return known or len(content.keys() & Evaluation.model_fields.keys()) >= _FEW


def read_metrics(path: Path) -> list[MetricsLine]:
    """Every complete line of a metrics file; a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    lines: list[MetricsLine] = []
    try:
        text = files.read_bytes(path, _MOST_BYTES).decode()
    except (UnicodeDecodeError, files.ReadError) as error:
        reason = "no text" if isinstance(error, UnicodeDecodeError) else error
        raise RecordError(f"{path} is damaged ({reason}): restore it from a copy, or delete it") from None
    complete = text.split("\n")[:-1]
    for number, content in enumerate(complete, 1):
        try:
            fields = files.parsed_json(content)
            if _has_no_loss(fields):
                raise RecordError(f"{path} line {number}: {_NO_LOSS}: remove that line, or train again")
            if fields.get("kind") not in _LINES:
                raise ValueError(f"kind must be one of {', '.join(_LINES)}, got {fields.get('kind')!r:.40}")
            line = _LINES[fields["kind"]].model_validate(fields)
            if isinstance(line, ParametersLine):
                _check_sizes(line, lines)
            lines.append(line)
        except RecordError:
            raise
        except (ValueError, TypeError, AttributeError) as error:
            reason = files.reason(error)
            raise RecordError(f"{path} line {number} is damaged ({reason}): restore it, or remove that line") from None
    return lines


def _check_sizes(line: ParametersLine, before: list[MetricsLine]) -> None:
    """Of one model, so of the same numbers at every epoch."""
    first = next((each for each in before if isinstance(each, ParametersLine)), line)
    for name in line.values.keys() | first.values.keys():
        if name not in line.values or name not in first.values or line.sizes(name) != first.sizes(name):
            raise ValueError(f"{name} must be of as many blocks and numbers as at epoch {first.epoch}")


def parse(kind: type[_RecordT], path: Path) -> _RecordT:
    """Read one JSON record; raises RecordError naming the file."""
    try:
        content = files.parsed_json(_read(path))
    except files.ReadError as error:
        raise _damaged(path, error) from None
    return _validated(kind, path, content)


def _read(path: Path) -> bytes:
    try:
        return files.read_bytes(path, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise RecordError(f"{path} does not exist: give what `train` wrote") from None
    except files.ReadError as error:
        raise _damaged(path, error) from None


def _validated(kind: type[_RecordT], path: Path, content: Any) -> _RecordT:
    try:
        version = content.get("schema_version", 0)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise RecordError(
                f"{path} has schema version {version}, this version reads up to {SCHEMA_VERSION}: update pseudodepth"
            )
        if kind is Matrix and isinstance(version, int) and version < _FIRST_OF_MATRIX:
            raise RecordError(
                f"{path} has schema version {version}, this version reads a matrix from {_FIRST_OF_MATRIX} on: "
                "the same 'train matrix' makes it again, in seconds, from the evaluations"
            )
        if _has_no_loss(content):
            raise RecordError(f"{path}: {_NO_LOSS}: delete it, and evaluate an earlier checkpoint or train again")
        return kind.model_validate(content)
    except (AttributeError, ValidationError) as error:
        raise _damaged(path, error) from None


_NO_LOSS = "the model gave no finite loss, so its weights are not finite"


def _has_no_loss(content: dict[str, Any]) -> bool:
    """JSON has null, or NaN or Infinity, for a loss that is no number, or infinite."""
    loss = content.get("loss", 0.0)
    every = loss if isinstance(loss, list) else [loss]
    return any(each is None or (isinstance(each, float) and not math.isfinite(each)) for each in every)


def _damaged(path: Path, error: Exception) -> RecordError:
    reason = files.reason(error)
    return RecordError(f"{path} is damaged ({reason}): restore it from a copy, or delete it and make it again")
