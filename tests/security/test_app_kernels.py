"""What a visitor who has the token can ask of the kernel behind the page: the page's controls, and no code."""

import json
import re
import time
import uuid

import pytest
import websocket
from fixtures.app_server import UPGRADE

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def kernel(app):
    """The id of a visitor's kernel, once its page is complete."""
    page = app.ask("/", timeout=180, **app.bearer())
    assert page.status == 200
    yield re.search(r'"kernelId":\s*"([0-9a-f-]{36})"', page.body)[1]


def connect(app, kernel, **options):
    return websocket.create_connection(
        f"ws://127.0.0.1:{app.port}/api/kernels/{kernel}/channels?session_id=attack",
        header=[f"Authorization: token {app.token}"], timeout=20, **options,
    )  # fmt: skip


def message(kind, channel="shell", **content):
    header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": "attack", "username": "x", "version": "5.3"}
    return {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": channel, "buffers": []}


def as_v1(given):
    """The same message in the newer, binary form."""
    parts = [given["channel"].encode()]
    parts += [json.dumps(given[name]).encode() for name in ("header", "parent_header", "metadata", "content")]
    offsets = [8 * (len(parts) + 2)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    return len(offsets).to_bytes(8, "little") + b"".join(o.to_bytes(8, "little") for o in offsets) + b"".join(parts)


def kinds_that_come_back(connection, until):
    """The kinds of messages until the one asked for; the kernel answers in order."""
    found, deadline = [], time.monotonic() + 60
    while time.monotonic() < deadline:
        received = connection.recv()
        found.append(json.loads(received)["header"]["msg_type"])
        if found[-1] == until:
            return found
    raise AssertionError(f"no {until} came, but {found}")


CODE = "open({path!r}, 'w').write('owned')"


@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
def test_no_code_reaches_the_kernel(app, kernel, channel, tmp_path):
    owned = tmp_path / "owned"
    code = CODE.format(path=str(owned))
    connection = connect(app, kernel)
    attacks = [
        message("execute_request", channel, code=code, silent=False, store_history=True, user_expressions={"x": code}),
        message("execute_request", channel, code="", user_expressions={"x": code}, silent=True),
        message("execute_request", channel, code=f"!touch {owned}"),
        message("debug_request", channel, type="request", seq=1, command="evaluate", arguments={"expression": code}),
        message("inspect_request", channel, code=code, cursor_pos=3, detail_level=1),
        message("complete_request", channel, code=code, cursor_pos=4),
        message("history_request", channel, hist_access_type="tail", n=10, output=True, raw=True),
        message("input_reply", channel, value=code, status="ok"),
        message("create_subshell_request", channel),
        message("usage_request", channel),
        message("interrupt_request", channel),
        message("EXECUTE_REQUEST", channel, code=code),
        message("execute_request\0", channel, code=code),
        message("apply_request", channel, code=code),
    ]
    for attack in attacks:
        connection.send(json.dumps(attack))
    connection.send(json.dumps(message("kernel_info_request")))
    come = kinds_that_come_back(connection, "kernel_info_reply")
    connection.close()
    replies = [kind for kind in come if kind.endswith("_reply") and kind != "kernel_info_reply"]
    assert not replies and not owned.exists(), f"the kernel answered {replies}"


def test_no_code_reaches_the_kernel_in_the_binary_form(app, kernel, tmp_path):
    owned = tmp_path / "owned"
    connection = connect(app, kernel, subprotocols=["v1.kernel.websocket.jupyter.org"])
    given = message("execute_request", code=CODE.format(path=str(owned)), silent=False)
    two_headers = message("kernel_info_request") | {"metadata": given["header"]}
    for attack in (as_v1(given), as_v1(two_headers), as_v1(message("kernel_info_request"))):
        connection.send_binary(attack)
    answers, deadline = 0, time.monotonic() + 60
    while answers < 2 and time.monotonic() < deadline:
        received = connection.recv()
        assert b"execute_reply" not in received
        answers += b"kernel_info_reply" in received
    connection.close()
    assert answers == 2 and not owned.exists()


@pytest.mark.parametrize("target", ["jupyter.widget", "jupyter.widget.control", "matplotlib", "debug", "vlmtrace"])
def test_a_visitor_makes_no_object_of_his_choice(app, kernel, target, tmp_path):
    """A comm opens controls that are registered; a module's name in it imports nothing."""
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    state = {
        "_model_module": "evil_module", "_model_name": "Evil", "_model_module_version": "*",
        "_view_module": "os", "_view_name": "system", "_view_module_version": "*", "_esm": "x",
    }  # fmt: skip
    connection = connect(app, kernel)
    for data in ({"state": state, "buffer_paths": []}, {"state": state, "buffer_paths": [["__class__"]]}, {}):
        content = {"comm_id": uuid.uuid4().hex, "target_name": target, "target_module": "os", "data": data}
        connection.send(json.dumps(message("comm_open", **content)))
    connection.send(json.dumps(message("kernel_info_request")))
    kinds_that_come_back(connection, "kernel_info_reply")
    connection.close()
    assert not (tmp_path / "owned").exists()


def test_what_a_view_is_told_is_no_path(app, kernel):
    """Messages to the Ask view that name a file of this machine in place of a pair, a question or an image."""
    connection = connect(app, kernel)
    connection.send(json.dumps(message("comm_info_request", target_name="jupyter.widget")))
    received = {}
    while received.get("header", {}).get("msg_type") != "comm_info_reply":
        received = json.loads(connection.recv())
    comms = list(received["content"]["comms"])
    assert len(comms) > 10, "the page has controls"
    secret = "/etc/passwd"
    for comm in comms:
        for do in (
            {"do": "choose", "sample_id": secret}, {"do": "ask", "question": "x", "run": secret},
            {"do": "open", "run": "clean", "path": secret}, {"do": "run", "run": secret}, {"export": secret},
            {"do": "open", "run": secret}, {"export": f"../../{secret}"},
        ):  # fmt: skip
            data = {"method": "custom", "content": do}
            connection.send(json.dumps(message("comm_msg", comm_id=comm, data=data)))
    connection.send(json.dumps(message("kernel_info_request")))
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        received = connection.recv()
        assert b"root:x" not in (received if isinstance(received, bytes) else received.encode())
        if json.loads(received)["header"]["msg_type"] == "kernel_info_reply":
            break
    else:
        pytest.fail("the kernel is gone")
    connection.close()


@pytest.mark.parametrize("how", ["nothing", "another token", "another origin", "another name"])
def test_a_running_kernel_is_closed_to_others(app, kernel, how):
    headers = {
        "nothing": {}, "another token": {"Authorization": "token x"},
        "another origin": app.bearer() | {"Origin": "http://evil.example"},
        "another name": app.bearer() | {"Host": "evil.example"},
    }[how]  # fmt: skip
    for method, path in [
        ("GET", f"/api/kernels/{kernel}"), ("DELETE", f"/api/kernels/{kernel}"),
        ("POST", f"/voila/api/shutdown/{kernel}"), ("POST", f"/api/kernels/{kernel}/restart"),
    ]:  # fmt: skip
        answer = app.ask(path, method, body="" if method == "POST" else None, **headers)
        assert answer.status in (302, 403, 404, 405) and kernel not in answer.body, f"{method} {path}: {answer.status}"
    assert app.ask(f"/api/kernels/{kernel}/channels", **UPGRADE, **headers).status == 403
    assert app.kernels(), "somebody without the token ended a visitor's kernel"


def test_nobody_else_on_this_machine_can_listen_to_a_kernel(app, kernel):
    """Over TCP, any user of the machine could subscribe to a kernel's output."""
    import zmq

    folders = {path.parent for path in _sockets(app)}
    assert folders and all(folder.stat().st_mode & 0o077 == 0 for folder in folders)
    for process in app.kernels():
        for connection in process.net_connections():
            if connection.status == "LISTEN":
                subscriber = zmq.Context.instance().socket(zmq.SUB)
                subscriber.setsockopt(zmq.RCVTIMEO, 300)
                subscriber.subscribe(b"")
                subscriber.connect(f"tcp://{connection.laddr.ip}:{connection.laddr.port}")
                with pytest.raises(zmq.Again):
                    subscriber.recv()
                subscriber.close(0)


def _sockets(app):
    from pathlib import Path

    files = [argument for process in app.kernels() for argument in process.cmdline() if argument.endswith(".json")]
    return [path for file in files for path in Path(file).parent.glob("*-ipc-*")]
