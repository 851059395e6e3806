"""A Slurm that is private to the test run, folders of data, and how vlmtrace is started beside it.

`make test-cluster` runs these; where Slurm cannot run, they are skipped with a sentence.
"""

import os
import signal
from pathlib import Path

import pytest
from fixtures.slurm import Slurm, why_not

from vlmtrace.core import paths

#: What must never be seen in what jobs write: the tests set it as a token of the hub.
SECRET = "hf_a-token-of-the-cluster-test"


def pytest_collection_modifyitems(items):
    reason = why_not()
    if reason is None:
        for name in ("distributed", "dask_jobqueue", "cryptography"):
            try:
                __import__(name)
            except ImportError:
                reason = f"{name} is not installed"
    if reason:
        skip = pytest.mark.skip(
            reason=f"Slurm is not tried here, as {reason}: `make test-cluster` installs what it can"
        )
        for item in items:
            if Path(item.fspath).is_relative_to(Path(__file__).parent):
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def a_termination_ends_everything():
    """SIGTERM ends the test run as Ctrl-C does, so that fixtures stop what they started."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def slurm():
    """A controller and two nodes."""
    with Slurm() as slurm:
        yield slurm


@pytest.fixture(scope="module")
def secret():
    return SECRET


@pytest.fixture(scope="module")
def new_home(tmp_path_factory):
    """Makes folders for VLMTRACE_HOME, with the bundled models in them."""

    def new_home(name):
        home = tmp_path_factory.mktemp(name)
        (home / "data").mkdir()
        (home / "data" / "models").symlink_to(paths.MODELS)
        return home

    return new_home


@pytest.fixture(scope="module")
def environment_of(slurm):
    """The environment in which vlmtrace, with this home, uses the private Slurm."""

    def environment_of(home, **more):
        path = os.pathsep.join([str(home), str(paths.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        others = {name: value for name, value in slurm.environment.items() if not name.startswith("VLMTRACE_")}
        return {
            **others,
            "VLMTRACE_HOME": str(home),
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "HF_TOKEN": SECRET,
        } | more

    return environment_of


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Writes what CLUSTER_CONFIG names: the private Slurm takes two jobs of one core at a time."""

    def config(**more):
        options = {
            "partition": "main",
            "memory": "900MB",
            "workers": "{min: 0, max: 2}",
            "walltime": "00:10:00",
            "interface": "lo",
            "skip": '["--mem"]',
            "dashboard": "127.0.0.1:0",
        } | more
        path = tmp_path_factory.mktemp("config") / "cluster.yaml"
        path.write_text("".join(f"{name}: {value}\n" for name, value in options.items()))
        return path

    return config
