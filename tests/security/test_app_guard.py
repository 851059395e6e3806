"""Who is answered by the app, as far as it can be told without starting it."""

import json
import sys

import pytest
from jupyter_server.base.handlers import JupyterHandler
from tornado.web import StaticFileHandler
from tornado.websocket import WebSocketHandler

from vlmtrace.app import server, voila_server
from vlmtrace.app.guard import Guard, guarded, is_answered, names_of


@pytest.fixture
def voila(tmp_path, monkeypatch):
    """The server as it is configured, not listening."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    notebook = server.prepared(tmp_path, model="tiny-blip")
    made = voila_server.ExplorerServer(config=voila_server.configuration("127.0.0.1", 1, "secret", "light"))
    made.initialize([str(notebook)])
    yield made
    voila_server.ExplorerServer.clear_instance()


def test_every_address_is_behind_the_guard(voila):
    """A route that a later version of Voilà adds is closed by itself."""
    voila.init_settings()
    handlers = voila.init_handlers()
    addresses = [address for address, *_ in handlers]
    assert {"/login", "/logout", "/(.*)"} <= set(addresses) and len(addresses) >= 10
    assert not [address for address, kind, *_ in handlers if not issubclass(kind, Guard)]
    assert {address for address, kind, *_ in handlers if kind.is_open} == {"/login", "/logout"}


@pytest.mark.parametrize("kind", [JupyterHandler, StaticFileHandler, WebSocketHandler])
def test_any_handler_can_be_guarded(kind):
    made = guarded(kind)
    assert issubclass(made, Guard) and issubclass(made, kind) and made.prepare is Guard.prepare
    assert guarded(made) is made


@pytest.mark.parametrize("name", ["voila.json", "jupyter_config.json"])
def test_no_file_elsewhere_opens_what_is_closed(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text(
        json.dumps({"Voila": {"token": "", "ip": "0.0.0.0"}, "VoilaConfiguration": {"file_allowlist": [".*"]}})
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    for key, value in server.environment().items():
        monkeypatch.setenv(key, value)
    made = voila_server.ExplorerServer(config=voila_server.configuration("127.0.0.1", 1, "secret", "light"))
    made.initialize([str(server.prepared(tmp_path, model="tiny-blip"))])
    try:
        assert made.token == "secret" and made.ip == "127.0.0.1"
        assert made.voila_configuration.file_allowlist == ["^$"]
    finally:
        voila_server.ExplorerServer.clear_instance()


def test_the_kernel_is_of_this_python_whatever_is_installed(tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    specs = voila_server.OwnKernelSpecs()
    assert specs.get_kernel_spec("python3").argv[0] == sys.executable
    assert list(specs.get_all_specs()) == ["python3"]


OF_THIS_MACHINE = ["127.0.0.1:8866", "127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:8866", "127.8.8.8"]
OF_OTHERS = [
    "evil.example", "evil.example:8866", "localhost.evil.example", "evil.example/localhost", "127.0.0.1.evil.example",
    "localhost@evil.example", "192.168.1.7:8866", "10.0.0.1", "[fe80::1]", "0.0.0.0", "", "localhost:8866:1", "[::1",
    "2130706433", "0x7f.1", "localhost evil.example",
]  # fmt: skip


@pytest.mark.parametrize("name", OF_THIS_MACHINE)
def test_names_of_this_machine_are_answered(name):
    assert is_answered(name, "127.0.0.1", names_of("127.0.0.1"))


@pytest.mark.parametrize("name", OF_OTHERS)
def test_names_that_were_made_to_point_here_are_not(name):
    assert not is_answered(name, "127.0.0.1", names_of("127.0.0.1"))


def test_let_in_by_host_the_app_answers_under_this_machines_names_only(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Lab7")
    monkeypatch.setattr("socket.getfqdn", lambda: "lab7.uni.example")
    names = names_of("0.0.0.0")
    for name in ("lab7:8866", "lab7.uni.example", "192.168.1.7:8866", "localhost", "[2001:db8::7]:8866"):
        assert is_answered(name, "0.0.0.0", names), name
    assert not is_answered("evil.example", "0.0.0.0", names)
