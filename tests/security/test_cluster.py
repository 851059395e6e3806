"""A cluster runs what its scheduler is sent: it listens to this machine, speaks TLS, and lets nobody else in."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from fixtures.clusters import children

import vlmtrace as vt
from vlmtrace.core import paths

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def pair_of_workers():
    with vt.connect("local:2", {"dashboard": "127.0.0.1:0"}) as connection:
        connection.client.wait_for_workers(2)
        yield connection


def workers():
    return [pid for pid, line in children().items() if "spawn_main" in line]


def test_everything_listens_on_this_machine_only_and_is_encrypted(pair_of_workers):
    assert pair_of_workers.client.scheduler.address.startswith("tls://127.0.0.1:")
    listening = [
        (pid, one.laddr.ip)
        for pid in (os.getpid(), *workers())
        for one in psutil.Process(pid).net_connections("inet")
        if one.status == "LISTEN"
    ]
    assert len({pid for pid, _ in listening}) == 3 and {ip for _, ip in listening} == {"127.0.0.1"}


def test_who_has_no_certificate_is_not_let_in(pair_of_workers):
    address = pair_of_workers.client.scheduler.address
    host, _, port = address.removeprefix("tls://").partition(":")
    script = f"from distributed import Client\nClient('tcp://{host}:{port}', timeout=3)\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode and "Error" in done.stderr, done.stderr[-500:]


def test_the_key_is_no_part_of_an_environment_or_a_command_line(pair_of_workers):
    key = Path(pair_of_workers.cluster.credentials.files["key"]).read_text().splitlines()[1]
    for pid in (os.getpid(), *workers()):
        with open(f"/proc/{pid}/environ", "rb") as environment, open(f"/proc/{pid}/cmdline", "rb") as line:
            assert key.encode() not in environment.read() + line.read()


def test_web_pages_and_schedulers_are_for_this_machine_by_default():
    from vlmtrace.pipeline.cluster.options import Options

    assert Options().dashboard == "127.0.0.1:8787"
    makefile = (paths.ROOT / "Makefile").read_text()
    assert "CLUSTER  =\n" in makefile and "CLUSTER_CONFIG =\n" in makefile
