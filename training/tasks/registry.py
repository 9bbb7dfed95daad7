"""What can be trained: a line a task. Imports torch; commands import it when they run."""

from typing import Any

from training.engine.task import Task
from training.tasks.classification.task import PreTraining
from training.tasks.depth.task import TeacherTraining
from training.tasks.segmentation.task import FineTuning
from training.tasks.sparse_depth.task import SparseDepthTraining

TASKS: dict[str, type[Task[Any, Any]]] = {
    task.kind: task for task in (PreTraining, FineTuning, SparseDepthTraining, TeacherTraining)
}
