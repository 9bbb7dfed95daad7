"""The options that every labelling command takes, and a command as a line that can be run again."""

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer
from typer.models import OptionInfo

from pipeline.errors import UserError
from pipeline.teachers import DEFAULT_TEACHER, placed
from pipeline.teachers.elsewhere import names_code

SplitChoice = Literal["train", "val"]
Out = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="Folder or fsspec URL (s3://...) to write: train/ and val/ with tars and an index.json each.",
    ),
]
Shards = Annotated[str, typer.Argument(metavar="SHARDS", help="A folder or URL written by precompute-depth.")]
ShortSide = Annotated[
    int, typer.Option("--short-side", min=0, help="Shrink so that the short side is this; 0 keeps the size.")
]

_POSITIONAL = ("description", "src", "out")
_PLACE_OF_OUT: dict[str, int] = {}  # in the line of each labelling command
_TEACHER, _BYTES, _RUN = "Teacher", "What is written", "How this run works"


@dataclass(frozen=True)
class LabellingOptions:
    """The options of every labelling command."""

    teacher: Annotated[
        str,
        typer.Option(
            show_default=False, rich_help_panel=_TEACHER,
            help=f"Hub id or local folder of a depth model (default {DEFAULT_TEACHER}), or a run that trained one; "
            "toy = the embedded one; da3-small, moge-2-vitl, ... = Depth Anything 3 and MoGe (docs/label.md), with "
            "=FOLDER for weights that lie here; entry-point:NAME or package.module:factory = code of your own, which "
            "is imported; none = only the depth that comes with the source.",
        ),
    ] = DEFAULT_TEACHER  # fmt: skip
    teacher_size: Annotated[
        int | None,
        typer.Option(
            show_default="the teacher's own, 518 for DepthAnything", rich_help_panel=_TEACHER,
            help="Side in pixels the teacher sees; the thesis used 224.",
        ),
    ] = None  # fmt: skip
    teacher_aspect: Annotated[
        Literal["keep", "square"],
        typer.Option(rich_help_panel=_TEACHER, help="Keep the image's aspect, or squeeze it."),
    ] = "keep"
    teacher_revision: Annotated[
        str | None,
        typer.Option(show_default="newest", rich_help_panel=_TEACHER, help="Commit of the hub repository to pin."),
    ] = None
    teacher_fov: Annotated[
        float | None,
        typer.Option(
            show_default="not known", rich_help_panel=_TEACHER,
            help="Horizontal field of view of all photographs in degrees, for a teacher that wants it for metres.",
        ),
    ] = None  # fmt: skip
    dtype: Annotated[
        Literal["auto", "fp32", "fp16", "bf16", "float32", "float16", "bfloat16"],
        typer.Option(rich_help_panel=_TEACHER, help="auto is fp16 on a GPU, fp32 on a CPU."),
    ] = "auto"
    compile: Annotated[
        bool,
        typer.Option("--compile", rich_help_panel=_TEACHER, help="torch.compile the teacher: slow start, then faster."),
    ] = False
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(rich_help_panel=_TEACHER, help="auto is the GPU where there is one."),
    ] = "auto"
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, show_default="all cores", rich_help_panel=_TEACHER,
            help="CPU threads of the teacher; estimates depend on it in their last bits.",
        ),
    ] = None  # fmt: skip
    batch_size: Annotated[
        int,
        typer.Option(
            rich_help_panel=_TEACHER, help="Images per teacher call; estimates depend on it in their last bits."
        ),
    ] = 32
    stats: Annotated[
        str,
        typer.Option(
            rich_help_panel=_BYTES, help="auto: mean and std from a first pass; or MEAN,STD in the teacher's own unit."
        ),
    ] = "auto"
    stats_from: Annotated[
        str,
        typer.Option(
            show_default=False, metavar="SHARDS", rich_help_panel=_BYTES,
            help="Standardise as another data set does (val as train, NYU's pseudo-depth as ImageNet's).",
        ),
    ] = ""  # fmt: skip
    samples_per_shard: Annotated[int, typer.Option(rich_help_panel=_BYTES, help="Samples in one tar.")] = 1000
    seed: Annotated[
        int, typer.Option(min=0, max=2**62, rich_help_panel=_BYTES, help="Decides which sample lands in which shard.")
    ] = 0
    max_rejects: Annotated[
        float,
        typer.Option(
            rich_help_panel=_RUN,
            help="Share of rejects, rounded up to whole images, above which the job fails at its end.",
        ),
    ] = 0.01
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, show_default="all cores, at most 16", rich_help_panel=_RUN, help="Threads that decode and encode."
        ),
    ] = None
    rank: Annotated[
        int | None,
        typer.Option(
            show_default="torchrun's or SLURM's", rich_help_panel=_RUN, help="This process's part: 0 to world size - 1."
        ),
    ] = None
    world_size: Annotated[
        int | None,
        typer.Option(show_default="torchrun's or SLURM's", rich_help_panel=_RUN, help="Processes that share the job."),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", rich_help_panel=_RUN, help="Label a few images, print shards, size and time; write nothing."
        ),
    ] = False
    line: tuple[str, ...] = ()  # the command itself, as `_line` words it


def labelling(without: Sequence[str] = (), **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command that takes LabellingOptions (with other `defaults`) after its own parameters, as `job`.

    The options `without` keep their defaults.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(function).parameters.values() if p.name != "job"]
        shared = {
            k: p for k, p in inspect.signature(LabellingOptions).parameters.items() if k not in ("line", *without)
        }
        options = [p.replace(default=defaults.get(p.name, p.default)) for p in shared.values()]

        def command(**given: Any) -> None:
            line = _line(function.__name__, parameters, given)
            job = LabellingOptions(**{name: given.pop(name) for name in shared}, line=line)
            function(**given, job=job)

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *options)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        _PLACE_OF_OUT[function.__name__] = 1 + [p.name for p in own if p.name in _POSITIONAL].index("out")
        return command

    return register


def _line(name: str, parameters: list[inspect.Parameter], given: dict[str, Any]) -> tuple[str, ...]:
    """A command with every path made absolute and no rank, so that a repair can run it from anywhere."""
    line = [name]
    for parameter in parameters:
        value, option = given[parameter.name], _option(parameter)
        if parameter.name == "teacher":
            value = placed(value)
        elif parameter.name in ("description", "src", "depth_from", "stats_from") and value and os.path.exists(value):
            value = os.path.abspath(value)
        if parameter.default is inspect.Parameter.empty and parameter.name in _POSITIONAL:
            line.append(str(value))
        elif value is True:
            line.append(option)
        elif value is not None and value is not False and value != "" and parameter.name not in ("rank", "world_size"):
            line += [option, str(value)]
    return tuple(line)


def _option(parameter: inspect.Parameter) -> str:
    """As it stands on a command line: what its description says, else the parameter's name."""
    for described in getattr(parameter.annotation, "__metadata__", ()):
        if isinstance(described, OptionInfo) and isinstance(described.default, str):  # typer's first word is the flag
            return described.default
    return f"--{parameter.name.replace('_', '-')}"


def for_repair(line: Sequence[str], out: str, teacher: str = "") -> list[str]:
    """A recorded line, for the folder as it is called now, one process, and the rejects that were accepted before.

    `teacher` stands in for the recorded one. The line may be a stranger's: code that it names is imported only where
    `teacher` names it too.
    """
    if line[0] not in _PLACE_OF_OUT:
        raise UserError(f"the plan of {out} names no command that labels ({line[0]!r}): run the one that made it again")
    place = _PLACE_OF_OUT[line[0]]
    for before, word in zip(("", *line), line, strict=False):
        if before == "--format" and not word.startswith("-"):
            continue  # of maps: h5:depth is no code, and no teacher's name follows this word
        if names_code(code := word.removeprefix("--teacher=")) and code != teacher:
            raise UserError(
                f"the plan of {out} names the teacher {code}, which is code: where you trust it, repair with --teacher "
                f"{code}"
            )
    again = [*line[:place], out, *line[place + 1 :], "--rank", "0", "--world-size", "1", "--max-rejects", "1"]
    return [*again, "--teacher", teacher] if teacher else again  # the last one counts
