"""The loader: what worker processes make of a data set, in its order, and what is told where one is lost."""

import re
import signal
import warnings
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pipeline import shards
from training.config import RuntimeConfig
from training.engine.share import DataError
from training.loading.pieces import Pieces
from training.loading.stream import Streamed

_Made = TypeVar("_Made")
_NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def load_pieces(pieces: Pieces[_Made], first_step: int, num_steps: int, runtime: RuntimeConfig) -> Iterator[_Made]:
    """This rank's batches of steps first_step .. num_steps - 1, made by `runtime.workers` processes."""
    numbers = range(first_step * pieces.share.pieces, num_steps * pieces.share.pieces)
    if pieces.split.store.local is None:
        return load(Streamed(pieces, numbers, runtime.workers), None, runtime)
    return load(pieces, numbers, runtime)


def load(dataset: Dataset[_Made], order: range | None, runtime: RuntimeConfig) -> Iterator[_Made]:
    """What `runtime.workers` processes make of a data set, in this order.

    Damaged shards and lost workers are told of in one line.
    """
    loader = DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=runtime.workers,
        pin_memory=runtime.device != "cpu" and torch.cuda.is_available(),
        generator=torch.Generator(),  # iter() would draw a base seed from the global generator
        worker_init_fn=_start_worker,
    )
    # Workers begin with these signals blocked: one that comes before `_start_worker` has run would end them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: as asked
            batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return _unwrapped(batches)


def _unwrapped(batches: Iterator[_Made]) -> Iterator[_Made]:
    """A worker's error arrives wrapped in that process's traceback; damaged shards shall say one line."""
    try:
        yield from batches
    except shards.ShardError as error:
        raise shards.ShardError(str(error).strip().rsplit("ShardError: ", 1)[-1]) from None
    except RuntimeError as error:
        raise worker_died(error) or error from None
    except (ConnectionError, EOFError):  # a worker that ends while it hands a batch over
        raise _lost("which was handing a batch over, is gone") from None


def worker_died(error: RuntimeError) -> DataError | None:
    """What to tell of a RuntimeError by which torch says that a worker is gone; None for any other.

    torch raises it in the main thread wherever that is when the worker ends, not only while it waits for a batch.
    """
    found = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", str(error))
    if not found:
        return None
    signalled = re.search(r"killed by signal: ([^.]+)", str(error))
    how = f"was killed ({signalled[1].strip()})" if signalled else "is gone"
    return _lost(f"process {found[1].strip()}, {how}")


def _lost(which: str) -> DataError:
    return DataError(
        f"a loader worker, {which}: where memory ran out, free some or lower runtime.workers. The same line again does "
        "it; a run goes on from its last checkpoint with --resume"
    )


def _start_worker(worker: int) -> None:
    """One thread; the main process alone answers signals that reach the whole group (Ctrl-C, a scheduler's stop).

    A worker whose parent is gone ends by itself (torch's loop watches it); `training.cli.main` ends the others.
    """
    torch.set_num_threads(1)
    for name in _NOT_FOR_WORKERS:
        signal.signal(name, signal.SIG_IGN)
    dataset: Any = get_worker_info().dataset  # type: ignore[union-attr]
    dataset.split = dataset.split.reopened()
