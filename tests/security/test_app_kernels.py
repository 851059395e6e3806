"""What a visitor who has the token can ask of the kernel behind the page: the page's controls, and no code."""

import contextlib
import json
import re
import uuid
from pathlib import Path

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


V1 = "v1.kernel.websocket.jupyter.org"


def message(kind, channel="shell", **content):
    header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": "attack", "username": "x", "version": "5.3"}
    return {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": channel}


def as_bytes(given):
    """A message as browsers send it."""
    parts = [given["channel"].encode()]
    parts += [json.dumps(given[name]).encode() for name in ("header", "parent_header", "metadata", "content")]
    offsets = [8 * (len(parts) + 2)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    return len(offsets).to_bytes(8, "little") + b"".join(o.to_bytes(8, "little") for o in offsets) + b"".join(parts)


def read(received):
    """Kind and content of a message that came back."""
    count = int.from_bytes(received[:8], "little")
    offsets = [int.from_bytes(received[8 * (i + 1) : 8 * (i + 2)], "little") for i in range(count)]
    header, content = (received[offsets[i] : offsets[i + 1]] for i in (1, 4))
    return json.loads(header)["msg_type"], json.loads(content)


@contextlib.contextmanager
def connected(app, kernel):
    """A connection to a kernel: what is sent goes to `say`; `answers` waits until all of it has been dealt with."""
    connection = websocket.create_connection(
        f"ws://127.0.0.1:{app.port}/api/kernels/{kernel}/channels?session_id=attack",
        header=[f"Authorization: token {app.token}"], subprotocols=[V1], timeout=60,
    )  # fmt: skip

    class Connected:
        def say(self, given):
            connection.send_binary(as_bytes(given))

        def say_as_it_is(self, given):
            connection.send_binary(given) if isinstance(given, bytes) else connection.send(given)

        def answers(self, last="kernel_info_reply"):
            # A kernel answers in order.
            self.say(message("kernel_info_request"))
            found = []
            while not found or found[-1][0] != last:
                received = connection.recv()
                if not received:
                    raise websocket.WebSocketConnectionClosedException
                found.append(read(received))
            return found

    try:
        yield Connected()
    finally:
        connection.close()


CODE = "open({path!r}, 'w').write('owned')"


@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
def test_no_code_reaches_the_kernel(app, kernel, channel, tmp_path):
    owned = tmp_path / "owned"
    code = CODE.format(path=str(owned))
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
    with connected(app, kernel) as channels:
        for attack in attacks:
            channels.say(attack)
        come = channels.answers()
    replies = [kind for kind, _ in come if kind.endswith("_reply") and kind != "kernel_info_reply"]
    assert not replies and not owned.exists(), f"the kernel answered {replies}"


def test_no_code_reaches_the_kernel_behind_another_header(app, kernel, tmp_path):
    owned = tmp_path / "owned"
    given = message("execute_request", code=CODE.format(path=str(owned)), silent=False)
    with connected(app, kernel) as channels:
        channels.say(message("kernel_info_request") | {"metadata": given["header"], "content": given["content"]})
        channels.say(given | {"parent_header": message("kernel_info_request")["header"]})
        come = channels.answers()
    assert "execute_reply" not in [kind for kind, _ in come] and not owned.exists()


def test_the_older_form_of_messages_is_refused(app, kernel):
    """Voilà misreads it, and would count to a number that some bytes of a picture make: the app would stand still."""
    for offered in ({}, {"Sec_WebSocket_Protocol": "x"}):
        path = f"/api/kernels/{kernel}/channels"
        assert app.ask(path, **UPGRADE, **offered, **app.bearer()).status == 400
    assert app.ask(path, **UPGRADE, Sec_WebSocket_Protocol=f"x, {V1}", **app.bearer()).status == 101


@pytest.mark.parametrize("given", [b"\xff" * 8, b"\xff" * 64, b"\1", b"", b"\5" + b"\0" * 7, "text", "{}"], ids=repr)
def test_a_message_that_cannot_be_read_ends_its_connection_only(app, kernel, given):
    with connected(app, kernel) as channels, pytest.raises(websocket.WebSocketException):
        channels.say_as_it_is(given)
        channels.answers()  # what follows on a closed connection is not read either
    assert app.ask("/login", timeout=5).status == 200, "the app stands still"
    assert "Uncaught exception" not in app.log.read_text(), app.log.read_text()[-2000:]


@pytest.mark.parametrize("target", ["jupyter.widget", "jupyter.widget.control", "matplotlib", "debug", "vlmtrace"])
def test_a_visitor_makes_no_object_of_his_choice(app, kernel, target, tmp_path):
    """A comm opens controls that are registered; a module's name in it imports nothing."""
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    state = {
        "_model_module": "evil_module", "_model_name": "Evil", "_model_module_version": "*",
        "_view_module": "os", "_view_name": "system", "_view_module_version": "*", "_esm": "x",
    }  # fmt: skip
    with connected(app, kernel) as channels:
        for data in ({"state": state, "buffer_paths": []}, {"state": state, "buffer_paths": [["__class__"]]}, {}):
            content = {"comm_id": uuid.uuid4().hex, "target_name": target, "target_module": "os", "data": data}
            channels.say(message("comm_open", **content))
        assert channels.answers()
    assert not (tmp_path / "owned").exists()


def test_what_a_view_is_told_is_no_path(app, kernel):
    """Messages that name a file of this machine in place of a pair, a question, an image, a model or a view."""
    secret = "/etc/passwd"
    with connected(app, kernel) as channels:
        channels.say(message("comm_info_request", target_name="jupyter.widget"))
        comms = next(content["comms"] for kind, content in channels.answers() if kind == "comm_info_reply")
        assert len(comms) > 10, "the page has controls"
        for comm in comms:
            update = {"method": "update", "state": {"models": [secret]}, "buffer_paths": []}
            channels.say(message("comm_msg", comm_id=comm, data=update))
            for do in (
                {"do": "choose", "sample_id": secret}, {"do": "ask", "question": "x", "run": secret},
                {"do": "open", "run": "clean", "path": secret}, {"do": "run", "run": secret}, {"export": secret},
                {"do": "open", "run": secret}, {"export": f"../../{secret}"}, {"do": "model", "name": secret},
                {"do": "follow", "address": f"model={secret}&pair={secret}&view={secret}&select={secret}"},
                {"do": "thumbnails", "of": [secret]}, {"do": "open", "title": secret}, {"do": "remove", "part": secret},
            ):  # fmt: skip
                channels.say(message("comm_msg", comm_id=comm, data={"method": "custom", "content": do}))
        told = json.dumps(channels.answers())
    assert "root:x" not in told and "There is no pair" in told
    assert app.ask("/login").status == 200, "the app stands still"


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
    opened = [socket.laddr for process in app.kernels() for socket in process.net_connections("unix")]
    return [Path(name) for name in opened if "-ipc-" in name]
