"""train: a file a command in training/commands, but `study`, which runs them. Heavy imports come late, inside."""

import multiprocessing
import signal

import typer

from pipeline import errors
from pipeline.terminal import add_version
from training.commands.depth import depth
from training.commands.dump import dump
from training.commands.evaluate import evaluate
from training.commands.export import export
from training.commands.finetune import finetune
from training.commands.gap import gap
from training.commands.matrix import matrix
from training.commands.options import explained
from training.commands.pretrain import pretrain
from training.commands.status import status
from training.commands.task import task
from training.commands.teacher import teacher
from training.study.command import study

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Stage 2: pre-train RGB-D Vision Transformers, fine-tune and evaluate them, dump what attention does.\n\n"
    "Start with `train pretrain --preset tiny --model m4ch --data SHARDS --out runs/m4ch`.",
)

add_version(app)
for command in (pretrain, finetune, evaluate, gap, matrix, dump, export, study, status, teacher, depth, task):
    app.command()(command)


def main() -> None:
    """Entry point."""
    try:
        errors.main(app, explained)
    finally:
        _end_workers()


def _end_workers() -> None:
    """A loader that an error left open: its workers ignore the signals that Python would end them with at exit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would take their end for a failure
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()


if __name__ == "__main__":
    main()
