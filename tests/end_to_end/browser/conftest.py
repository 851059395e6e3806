"""A browser, a JupyterLab and the app, each private to the test run.

Screenshots and timings are left in data/browser (ignored by git).
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures.browser import ARTEFACTS

ROOT = Path(__file__).resolve().parents[3]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TOKEN = "a-token-of-the-browser-test"


#: What was measured, by name.
TIMINGS = pytest.StashKey[dict]()


def pytest_terminal_summary(terminalreporter, config):
    """Print what was measured; it depends on what else the machine does, so no test asks it to be small."""
    if config.stash.get(TIMINGS, {}):
        terminalreporter.section("timings of the explorer")
        for name, value in sorted(config.stash[TIMINGS].items()):
            terminalreporter.write_line(f"{name}: {value}")


def pytest_collection_modifyitems(items):
    reasons = []
    if CHROMIUM is None:
        reasons.append("there is no chromium")
    try:
        import playwright  # noqa: F401
    except ImportError:
        reasons.append("playwright is not installed")
    if reasons:
        skip = pytest.mark.skip(reason=f"{' and '.join(reasons)}: `make test-browser` installs what is missing")
        for item in items:
            if Path(item.fspath).is_relative_to(Path(__file__).parent):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Where the servers keep everything: data, notebook, configuration."""
    home = tmp_path_factory.mktemp("home")
    (home / "data").mkdir()
    (home / "data" / "models").symlink_to(ROOT / "data" / "models")
    (home / "work").mkdir()
    shutil.copy(ROOT / "notebooks" / "09_explorer.ipynb", home / "work")
    settings = home / "settings" / "@jupyterlab"
    for plugin, value in {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "docmanager-extension/plugin": {"autosave": False},
    }.items():
        path = settings / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    return home


@pytest.fixture(scope="session")
def environment(home):
    private = {name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    runtime = {"JUPYTER_RUNTIME_DIR": str(home / "runtime"), "VLMTRACE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **private, **runtime, "PYTHONPATH": str(ROOT), "JUPYTER_PLATFORM_DIRS": "1"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(command, environment, port, log):
    """A server that answers on 127.0.0.1:port while this is entered."""
    with log.open("w") as out:
        process = subprocess.Popen(list(map(str, command)), env=environment, cwd=ROOT, stdout=out, stderr=out)
        try:
            for _ in range(720):
                if process.poll() is not None:
                    raise AssertionError(f"the server ended:\n{log.read_text()}")
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.25)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="session")
def lab(home, environment):
    """The address of the notebook in a JupyterLab."""
    port = free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={home / 'work'}",
        f"--LabServerApp.user_settings_dir={home / 'settings'}", "--LabApp.user_settings_dir=" + str(home / "settings"),
        "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None",
        *(["--allow-root"] if os.geteuid() == 0 else []),
    ]  # fmt: skip
    with served(command, environment, port, home / "lab.log"):
        yield f"http://127.0.0.1:{port}/lab/tree/09_explorer.ipynb?token={TOKEN}"


@pytest.fixture(scope="session")
def app(home, environment):
    """The address that `python -m vlmtrace.app.server` prints."""
    port = free_port()
    log = home / "app.log"
    command = [
        sys.executable,
        "-u",
        "-m",
        "vlmtrace.app.server",
        f"--port={port}",
    ]
    with served(command, environment, port, log) as process:
        for _ in range(240):
            address = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", log.read_text())
            if address:
                break
            time.sleep(0.25)
        assert address, log.read_text()
        yield {"address": address.group(), "port": port, "pid": process.pid}


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def timings(pytestconfig):
    """What was measured, by name; printed at the end, and written beside the screenshots."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    found = pytestconfig.stash.setdefault(TIMINGS, {})
    yield found
    (ARTEFACTS / "timings.json").write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
