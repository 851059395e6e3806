"""Kernels for papermill: always of this very Python, and, for a pipeline, forked from a process that has imported all.

A notebook that computes for three seconds would otherwise spend ten on its process and its imports. On Linux the
kernels of `warm_kernels` are forked from Python's own fork server (multiprocessing), which imports torch, transformers
and the rest once. Elsewhere, and for single notebooks, a kernel is an ordinary new process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import EntryPoint
from multiprocessing import connection, context, get_context, parent_process
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

#: What notebooks import beside this package. None of it may compute: a process with torch's threads must not fork.
LIBRARIES = (
    "ipykernel.kernelapp",
    "ipywidgets",
    "matplotlib.pyplot",
    "seaborn",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.blip.modeling_blip",
    "transformers.models.llava.modeling_llava",
)

#: The folder of the package.
PACKAGE = Path(__file__).parents[1]

#: Kernels that are running, so that an interruption can end them.
RUNNING: set[LocalProvisioner] = set()


class OwnKernelManager(AsyncKernelManager):
    """Starts the kernel of this very Python, whatever kernels of that name are installed elsewhere."""

    #: Which provisioner starts the kernel; "" is Jupyter's own.
    provisioner_name = "vlmtrace-own"

    @property
    def kernel_spec(self) -> KernelSpec:
        """A kernel that needs no kernel.json."""
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            metadata={"kernel_provisioner": {"provisioner_name": self.provisioner_name}},
        )


class WarmKernelManager(OwnKernelManager):
    """Forks the kernel from the fork server."""

    provisioner_name = "vlmtrace-warm"


class OwnProvisioner(LocalProvisioner):
    """Jupyter's own way, remembering what runs."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
        """Start the kernel's process."""
        found = await super().launch_kernel(cmd, **options)
        RUNNING.add(self)
        return found

    async def cleanup(self, restart: bool = False) -> None:
        """Forget the kernel once it has ended."""
        RUNNING.discard(self)
        await super().cleanup(restart)


class WarmProvisioner(OwnProvisioner):
    """The kernel's process is forked, not started; all else is Jupyter's own."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
        """Fork the kernel's process."""
        environment = dict(options.get("env") or os.environ)
        cwd = str(options.get("cwd") or os.getcwd())
        process = _forks().Process(target=_serve, args=(cmd[cmd.index("-f") + 1 :], cwd, environment))
        await self._start(process)
        self.process = _ForkedProcess(process)  # type: ignore[assignment]
        self.pid = process.pid
        self.pgid = process.pid  # it leads a group of its own, see _serve
        self.cwd = cwd
        RUNNING.add(self)
        return self.connection_info

    async def _start(self, process: Any) -> None:
        process.start()


class ServersProvisioner(WarmProvisioner):
    """For kernels of a server, which goes on answering while the fork server still imports: the page tells of it."""

    #: Of a thread, not of a loop of asyncio: a server that ends asks from another loop than the one that it ran in.
    beginning: Future[None]

    async def _start(self, process: Any) -> None:
        def begin() -> None:
            process.start()
            self.pid = self.pgid = process.pid

        thread = ThreadPoolExecutor(1)
        self.beginning = thread.submit(begin)
        thread.shutdown(wait=False)

    async def _has_begun(self) -> None:
        while not self.beginning.done():
            await asyncio.sleep(0.05)

    async def poll(self) -> int | None:
        """None while the kernel runs, or is about to; otherwise how it ended."""
        return 1 if self._never_began() else await super().poll()

    async def wait(self) -> int | None:
        """Wait until the kernel has ended."""
        await self._has_begun()
        return 1 if self._never_began() else await super().wait()

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel, once there is one; ending it does so, too."""
        await self._has_begun()
        if not self._never_began():
            await super().send_signal(signum)

    def _never_began(self) -> bool:
        return self.beginning.done() and self.beginning.exception() is not None


def provisioner_name(kind: type[OwnProvisioner]) -> str:
    """The name by which Jupyter finds a provisioner."""
    return f"vlmtrace-{kind.__name__.removesuffix('Provisioner').lower()}"


for _provisioner in (OwnProvisioner, WarmProvisioner, ServersProvisioner):
    _name = provisioner_name(_provisioner)
    KernelProvisionerFactory.instance().provisioners[_name] = EntryPoint(
        _name, f"{__name__}:{_provisioner.__name__}", KernelProvisionerFactory.GROUP_NAME
    )


class _ForkedProcess:
    """A process of multiprocessing with the methods of subprocess.Popen that Jupyter calls."""

    stdin = stdout = stderr = None

    def __init__(self, process: Any):
        self.process = process

    @property
    def pid(self) -> int | None:
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()


def can_be_warm() -> bool:
    """Whether kernels can be forked here: on Linux, unless VLMTRACE_WARM_KERNELS=0.

    On macOS a process that has loaded the system's frameworks must not fork.
    """
    wanted = os.environ.get("VLMTRACE_WARM_KERNELS", "").strip().lower() not in ("0", "no", "off", "false")
    return sys.platform == "linux" and wanted


def warm_up() -> None:
    """Start the fork server; its imports happen while the caller prepares."""
    from multiprocessing.forkserver import ensure_running

    _forks().set_forkserver_preload([*LIBRARIES, *_package_modules()])
    # Ctrl-C in the terminal reaches this process too; while it imports, it would answer with a traceback.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def warm_kernels() -> Iterator[type[OwnKernelManager]]:
    """The class of kernels for several notebooks; whatever still runs when the block ends is ended, too."""
    if can_be_warm():
        warm_up()
    try:
        yield WarmKernelManager if can_be_warm() else OwnKernelManager
    finally:
        end_kernels()


@contextlib.contextmanager
def kernel_threads(size: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that drive kernels; an interruption ends the kernels, so that the threads end, too.

    Driven from the main thread, a kernel would take Ctrl-C for itself.

    Args:
        size: how many kernels at a time
    """
    pool = ThreadPoolExecutor(size)
    try:
        yield pool
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            ignore_interruptions()
        pool.shutdown(wait=False, cancel_futures=True)
        end_kernels()
        raise
    pool.shutdown()


def ignore_interruptions() -> None:
    """Let no further Ctrl-C disturb a process that is ending because of the first."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_kernels() -> None:
    """End all kernels that run, at once."""
    if RUNNING:
        # What waits for these kernels would report their death as errors.
        logging.getLogger("papermill").setLevel(logging.CRITICAL)
    for provisioner in list(RUNNING):
        with contextlib.suppress(OSError):
            os.killpg(provisioner.pgid or provisioner.pid, signal.SIGKILL)  # type: ignore[arg-type]
        RUNNING.discard(provisioner)


def _package_modules() -> list[str]:
    """All modules of this package that a notebook may import."""
    names = [module.name for module in pkgutil.walk_packages([str(PACKAGE)], "vlmtrace.")]
    return [name for name in names if name.split(".")[1] not in ("__main__", "training", "benchmarks")]


def _forks() -> context.ForkServerContext:
    return get_context("forkserver")


def _serve(arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Be a kernel: runs in the forked process, until the kernel is shut down or its parent is gone.

    Args:
        arguments: the connection file, and further arguments of the kernel
        cwd: the folder in which cells run
        environment: the kernel's environment variables
    """
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # it was blocked in the fork server
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]

    threading.Thread(target=_end_with_parent, daemon=True).start()
    if "matplotlib" in sys.modules and "MPLBACKEND" not in environment:
        # matplotlib read the variable when it was imported, long before the kernel would set it.
        import matplotlib

        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        matplotlib.rcParams["backend"] = os.environ["MPLBACKEND"]
    from ipykernel.kernelapp import IPKernelApp

    # Under a parent that Jupyter knows, a kernel keeps quiet about itself.
    sys.argv = ["ipykernel_launcher", f"--IPKernelApp.parent_handle={os.getppid()}", "-f", *arguments]
    IPKernelApp.launch_instance(sys.argv[1:])


def _end_with_parent() -> None:
    """Wait for the parent's end, by a daemon thread: it must not keep a kernel alive that is shut down."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
