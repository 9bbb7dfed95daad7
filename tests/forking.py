"""A process that has imported torch and what else takes seconds, and forks one child for each command of a test.

A child is a process like any other: it has its own pid, session, environment and pipes, runs the console script from
its first line, is killed and signalled and ends with its own code. Only importing other people's packages is done
before it begins; of ours nothing is imported, so it may still be patched while it loads. The process computes nothing
that would start threads, and is no child of a test that did.

What it cannot show, that a command starts at all from nothing, some tests show with a real process.
"""

import atexit
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, NoReturn

# Whatever takes long to import and is somebody else's. What lacks here costs time, no more.
PRELOADED = (
    "numpy", "PIL.Image", "pydantic", "typer", "typer.rich_utils", "rich.table", "rich.progress", "torch",
    "torch.utils.data", "torch.utils.tensorboard", "torch.utils.flop_counter", "torch.nn.parallel",
    "torch.distributed.launcher.api", "torchvision.io", "webdataset", "fsspec", "numcodecs", "zarr",
    "safetensors.torch", "transformers", "transformers.models.auto.modeling_auto", "huggingface_hub",
    "transformers.models.depth_anything.modeling_depth_anything", "transformers.models.dinov2.modeling_dinov2",
    "transformers.models.dpt.image_processing_dpt", "transformers.models.auto.image_processing_auto",
    "timm", "torchvision.transforms.v2.functional",
)  # fmt: skip
OURS = ("training", "pipeline", "analysis", "data_manifests")


# --- in the tests --------------------------------------------------------------------------------------------------


class Forked:
    """A running child, with as much of `subprocess.Popen` as tests use."""

    def __init__(
        self, line: Sequence[object], *, env: Mapping[str, str], stdout: int | None, stderr: int | None
    ) -> None:
        self.args = list(map(str, line))
        self.returncode: int | None = None
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        outputs, handed = [_output(stdout), _output(stderr)], [theirs.fileno()]
        handed += [written for _, written in outputs]
        request = {"line": self.args, "env": dict(env), "cwd": os.getcwd()}
        socket.send_fds(_server(), [json.dumps(request).encode()], handed)
        for _, written in outputs:
            os.close(written)
        theirs.close()
        self.stdout, self.stderr = (None if read is None else os.fdopen(read) for read, _ in outputs)
        self.pid = self._told()

    def _told(self) -> int:
        told = self._status.recv(64)
        if not told:
            raise RuntimeError("the process that forks has ended")
        return int(told)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = os.waitstatus_to_exitcode(self._told())
            self._status.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote, once it and all that share its pipes have ended."""
        said = {"stdout": "", "stderr": ""}

        def read(name: str, file: IO[str]) -> None:
            with file:
                said[name] = file.read()

        files = {name: file for name, file in (("stdout", self.stdout), ("stderr", self.stderr)) if file is not None}
        readers = [
            threading.Thread(target=read, args=item, daemon=True) for item in files.items() if not item[1].closed
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.wait(timeout)
        return said["stdout"], said["stderr"]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _output(wanted: int | None) -> tuple[int | None, int]:
    """What to read, and what the child writes to."""
    if wanted == subprocess.PIPE:
        return os.pipe()
    assert wanted == subprocess.DEVNULL, wanted
    return None, os.open(os.devnull, os.O_WRONLY)


_running: list[socket.socket] = []


def _server() -> socket.socket:
    if not _running:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, start_new_session=True,
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "HF_HUB_OFFLINE": "1"},
            )  # fmt: skip
        _running.append(ours)

        def stop() -> None:
            ours.close()
            process.wait()

        atexit.register(stop)
    return _running[0]


# --- in the process that forks -------------------------------------------------------------------------------------


def serve(requests: socket.socket) -> list[str]:
    """Fork a child for every request, tell of its end; return, in a child, the line that it is to run."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    told: dict[int, socket.socket] = {}
    while True:
        ready = select.select([requests, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 1024)
            for pid in list(told):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    _tell(told.pop(pid), status)
        if requests not in ready:
            continue
        data, handed, _, _ = socket.recv_fds(requests, 1 << 18, 3)
        if not data:
            os._exit(0)
        pid = os.fork()
        if pid:
            told[pid] = socket.socket(fileno=handed[0])
            told[pid].send(str(pid).encode())
            for written in handed[1:]:
                os.close(written)
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for file in (requests, *told.values()):
            file.close()
        os.setsid()
        os.dup2(handed[1], 1)
        os.dup2(handed[2], 2)
        for number in (woken, wakes, *handed):
            os.close(number)
        request = json.loads(data)
        return become(request["line"], request["env"], request["cwd"])


def _tell(status_of: socket.socket, status: int) -> None:
    with status_of, suppress(BrokenPipeError):  # nobody waits for it any more
        status_of.send(str(status).encode())


def become(line: list[str], env: dict[str, str], cwd: str) -> list[str]:
    """What an interpreter does with its environment when it starts."""
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.modules["numpy"].random.seed()
    if "OMP_NUM_THREADS" in env:  # read long ago
        sys.modules["torch"].set_num_threads(int(env["OMP_NUM_THREADS"]))
    added = [folder for folder in env.get("PYTHONPATH", "").split(os.pathsep) if folder and folder not in before]
    sys.path[:0] = added
    if any((Path(folder) / "sitecustomize.py").exists() for folder in added):
        sys.modules.pop("sitecustomize", None)
        import_module("sitecustomize")
    return line


def run(line: list[str]) -> None:
    program, *words = line
    if not Path(program).name.startswith("python"):
        sys.argv[:] = line
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
        return
    sys.path.insert(0, os.getcwd())
    if words[0] == "-u":
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        words = words[1:]
    if words[0] == "-m":
        sys.argv[:] = words[1:]
        if words[1] == "torch.distributed.run":
            import_module(
                "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler"
            ).Popen = Rank
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        assert words[0] == "-c", line
        sys.argv[:] = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})


class Rank:
    """A process of torchrun's, forked off torchrun: as much of `subprocess.Popen` as torchrun uses."""

    def __init__(self, args: Sequence[str], env: dict[str, str], stdout: None, stderr: None, start_new_session: bool):
        self.args = args
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # torchrun's own
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            end_with(become(list(args), env, os.getcwd()))

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (1e9 if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.005)
        return code


def end_with(line: list[str]) -> NoReturn:
    """Run it and end as an interpreter does, wherever in somebody else's code this is."""
    code: object = 1
    try:
        run(line)
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    for name in PRELOADED:
        import_module(name)
    assert not any(name.split(".")[0] in OURS for name in sys.modules)
    assert threading.active_count() == 1
    run(serve(socket.socket(fileno=int(sys.argv[1]))))
