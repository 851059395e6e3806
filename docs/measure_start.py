"""How long the app takes until its first picture: from the server's start, the kernel's start, and the page's opening.

    OMP_NUM_THREADS=1 python docs/measure_start.py          # a page that is opened as soon as its address is printed
    OMP_NUM_THREADS=1 python docs/measure_start.py --later  # one that is opened when the server has come to rest
    VLMTRACE_WARM_KERNELS=0 python docs/measure_start.py    # with kernels that import everything themselves

Prints a table: seconds on the clock until the circuit is drawn, and processor seconds that were spent meanwhile, by the
kernel and by all processes of the app (the browser's are not counted). Needs chromium and playwright.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]

#: The home view, once it is drawn: the number that it writes then.
DRAWN = """() => [...document.querySelectorAll(".vt[data-drawn]:not(.vt-old *)")]
    .some((e) => e.offsetParent && "alone" in e.dataset)"""


def seconds_of(process: psutil.Process) -> float:
    """Processor seconds of a process so far; 0 if it has ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def kernel_among(server: psutil.Process) -> psutil.Process:
    """The process that has a kernel's sockets open."""
    for process in server.children(recursive=True):
        if any(re.search(r"kernel-.*-ipc-", str(connection.laddr)) for connection in process.net_connections("unix")):
            return process
    raise RuntimeError("The app has no kernel: look at what it printed.")


def rest(server: psutil.Process) -> None:
    """Wait until nothing of the app has computed for a second."""
    before = -1.0
    while (now := sum(map(seconds_of, [server, *server.children(recursive=True)]))) > before + 0.02:
        before = now
        time.sleep(1)


def measure(waits: bool) -> list[tuple[str, float, float]]:
    """Start the app, open its page, and wait for its first picture.

    Args:
        waits: until the server rests, before the page is opened
    Returns:
        (from when on, seconds on the clock, processor seconds)
    """
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        data = Path(home) / "data"
        data.mkdir()
        (data / "models").symlink_to(ROOT / "data" / "models")
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        log, environment = Path(home) / "app.log", {**os.environ, "VLMTRACE_HOME": home, "PYTHONPATH": path}
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        with log.open("w") as out:
            command = [sys.executable, "-u", "-m", "vlmtrace.app.server", "--port=18900"]
            started = time.time()
            process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=out, stderr=out)
        server = psutil.Process(process.pid)
        try:
            while not (address := re.search(r"http://\S+token=\S+", log.read_text())):
                if process.poll() is not None:
                    raise RuntimeError(f"The app ended: {log.read_text()}")
                time.sleep(0.05)
            answered, spent = time.time(), seconds_of(server)
            if waits:
                rest(server)
            before = sum(map(seconds_of, [server, *server.children(recursive=True)]))
            opened = time.time()
            page.goto(address.group(), wait_until="commit")
            page.wait_for_function(DRAWN, timeout=120_000)
            drawn = time.time()
            kernel, all_spent = kernel_among(server), sum(map(seconds_of, [server, *server.children(recursive=True)]))
            return [
                ("server's start, until it answers", answered - started, spent),
                ("server's start, until the first picture", drawn - started, all_spent),
                ("kernel's start, until the first picture", drawn - kernel.create_time(), seconds_of(kernel)),
                ("page's opening, until the first picture", drawn - opened, all_spent - before),
            ]
        finally:
            process.terminate()
            process.wait(30)
            browser.close()


def main(*arguments: str) -> None:
    """Measure once and print."""
    print("| from | s on the clock | s of the processor |\n| --- | --- | --- |")
    for name, clock, spent in measure("--later" in arguments):
        print(f"| {name} | {clock:.1f} | {spent:.1f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
