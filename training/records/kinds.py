"""Every kind of record: a line each. A task that needs none of its own uses `scores`."""

from training.records.classification import EvalLine, Evaluation
from training.records.depth import DepthEvaluation
from training.records.gap import Gap
from training.records.noise import NoiseSweep
from training.records.run import EndLine, ParametersLine, TrainLine
from training.records.scores import ScoresEvaluation, ScoresLine
from training.records.segmentation import SegmentationEvaluation, SegmentationLine

MetricsLine = TrainLine | EvalLine | SegmentationLine | ScoresLine | ParametersLine | EndLine
AnyEvaluation = Evaluation | SegmentationEvaluation | ScoresEvaluation | DepthEvaluation | NoiseSweep | Gap

LINES: dict[str, type[MetricsLine]] = {
    kind.model_fields["kind"].default: kind
    for kind in (TrainLine, EvalLine, SegmentationLine, ScoresLine, ParametersLine, EndLine)
}
EVALUATIONS: dict[str, type[AnyEvaluation]] = {"classification": Evaluation} | {
    kind.model_fields["kind"].default: kind
    for kind in (SegmentationEvaluation, ScoresEvaluation, DepthEvaluation, NoiseSweep, Gap)
}
