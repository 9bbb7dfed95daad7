"""Where a teacher runs: its device, its GPU among several, its floats and its threads."""

import contextlib
from collections.abc import Iterator

import torch

from pipeline.teachers import TeacherError

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "float16": torch.float16, "fp16": torch.float16,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
}  # fmt: skip


_MOST_THREADS = 1024  # beyond: a segmentation fault


def check_threads(threads: int | None) -> None:
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise TeacherError(f"--threads must be 1 to {_MOST_THREADS}, got {threads}")


def resolve_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one."""
    if device not in ("auto", "cpu", "cuda"):
        raise TeacherError(f"--device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise TeacherError("--device cuda: this machine has no usable GPU; use --device cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def use_gpu(local_rank: int) -> None:
    """Give each process of a machine a GPU of its own; does nothing without one."""
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is float16 on a GPU, float32 on a CPU."""
    if dtype not in ("auto", *DTYPES):
        raise TeacherError(f"--dtype must be auto, float32, float16 or bfloat16, got {dtype!r}")
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return DTYPES[dtype]


def precision_note(dtype: str, device: str) -> str | None:
    """What to say of 16-bit floats on a CPU, where they are asked for (tests/benchmarks/precision.json)."""
    where = resolve_device(device)
    asked = resolve_dtype(dtype, where)
    if where.type != "cpu" or asked == torch.float32:
        return None
    name, moved = ("bf16", "0.3") if asked == torch.bfloat16 else ("fp16", "0.03")
    return (
        f"note: {name} on a CPU moves z by up to {moved}, where storing it moves it by 0.002: leave out --dtype, "
        "or label on a GPU"
    )


def device_name(device: torch.device) -> str:
    """The GPU's model; of a CPU its instruction set, by which torch chooses its kernels."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.backends.cpu.get_cpu_capability()})"


@contextlib.contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Use this many threads in torch, in the calling thread alone: OpenMP keeps the number per thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_line_when_memory_is_short(what: str, fix: str = "--batch-size") -> Iterator[None]:
    """TeacherError in place of CUDA's."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise TeacherError(
            f"the GPU's memory does not hold {what}: lower {fix} (and, where shards are already written, choose "
            "another folder)"
        ) from error
