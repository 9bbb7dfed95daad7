"""CONTRACT: what a run leaves as JSON. Imports no torch.

    runs/<name>/run.json            RunRecord, written before the first step
    runs/<name>/metrics.jsonl       one JSON object a line, by "kind": TrainLine, ParametersLine, EndLine, and a task's
                                    EvalLine, SegmentationLine or ScoresLine
    runs/<name>/evaluations/*.json  by "kind": Evaluation (none), SegmentationEvaluation, DepthEvaluation,
                                    ScoresEvaluation, NoiseSweep, Gap
    runs/<name>/checkpoints/        step-<n>/ (to resume from), best/ and epoch-<n>/ (weights only)
    runs/<name>/dumps/*.zarr        see training/dumps
    matrix.json                     Matrix, in the folder that `train matrix` was given

`load_run` reads a run folder and refuses newer schemas by name. `fields` holds what fields may be; `run` what every run
leaves; then a file a kind, `kinds` their list, and `read`.
"""

from training.records.classification import EvalLine, Evaluation
from training.records.depth import DepthErrors, DepthEvaluation, DepthScores, DepthSpread, DepthTime
from training.records.fields import SCHEMA_VERSION, CheckpointName, RecordError
from training.records.gap import Gap, GapCrossing, GapCurve
from training.records.kinds import AnyEvaluation, MetricsLine
from training.records.matrix import Matrix, MatrixCell, MatrixDifference
from training.records.noise import NoiseSweep
from training.records.read import Run, load_run, parse, read_evaluation, read_metrics
from training.records.run import EndLine, ParametersLine, RunRecord, ShardsSeen, TrainLine, study_hash
from training.records.scores import ScoresEvaluation, ScoresLine
from training.records.segmentation import SegmentationEvaluation, SegmentationLine, SegmentationScores

__all__ = [
    "SCHEMA_VERSION",
    "AnyEvaluation",
    "CheckpointName",
    "DepthErrors",
    "DepthEvaluation",
    "DepthScores",
    "DepthSpread",
    "DepthTime",
    "EndLine",
    "EvalLine",
    "Evaluation",
    "Gap",
    "GapCrossing",
    "GapCurve",
    "Matrix",
    "MatrixCell",
    "MatrixDifference",
    "MetricsLine",
    "NoiseSweep",
    "ParametersLine",
    "RecordError",
    "Run",
    "RunRecord",
    "ScoresEvaluation",
    "ScoresLine",
    "SegmentationEvaluation",
    "SegmentationLine",
    "SegmentationScores",
    "ShardsSeen",
    "TrainLine",
    "load_run",
    "parse",
    "read_evaluation",
    "read_metrics",
    "study_hash",
]
