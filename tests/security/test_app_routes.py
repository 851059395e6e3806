"""Every route of the running app: without a token, with a wrong one, from other sites, and with paths that lead out."""

import re
from urllib.parse import quote

import pytest
from fixtures.app_server import UPGRADE

from vlmtrace.app import voila_server

pytestmark = pytest.mark.medium


@pytest.fixture(autouse=True)
def no_kernel_is_started(app):
    """None of these requests may start a kernel; other tests of the sheet may have one running."""
    before = {process.pid for process in app.kernels()}
    yield
    assert {process.pid for process in app.kernels()} <= before, "a kernel was started"


KERNEL = "01234567-89ab-cdef-0123-456789abcdef"

#: One address or more for each route, and addresses that JupyterLab has and the app must not.
ROUTES = [
    "/", "/?token=", "/?theme=dark", "/?template=lab", "/index.html", "/voila/static/voila.js",
    "/voila/templates/lab/static/voila.js", "/voila/templates/vlmtrace/static/index.html.j2", "/voila/labextensions/",
    "/voila/labextensions/@jupyter-widgets/jupyterlab-manager/package.json", "/voila/api/themes/",
    "/voila/api/themes/@jupyterlab/theme-light-extension/index.css", "/voila/files/09_explorer.ipynb",
    f"/voila/api/shutdown/{KERNEL}", f"/api/kernels/{KERNEL}", f"/api/kernels/{KERNEL}/channels",
    f"/api/kernels/{KERNEL}/restart", "/api/kernels", "/api/kernelspecs", "/api/sessions", "/api/contents",
    "/api/contents/09_explorer.ipynb", "/api/terminals", "/terminals/websocket/1", "/api/me", "/api/status", "/api",
    "/voila/api/contents/", "/voila/tree/", "/voila/render/09_explorer.ipynb", f"/voila/execution/{KERNEL}",
    f"/voila/query/{KERNEL}",
    "/files/09_explorer.ipynb", "/nbconvert/html/09_explorer.ipynb", "/view/09_explorer.ipynb",
    "/static/favicon.ico", "/lab", "/tree", "/metrics", "/lsp/status", "/09_explorer.ipynb", "//", "/../../etc/passwd",
]  # fmt: skip

#: What a request without the right token carries instead.
WRONG = {
    "nothing": ("", {}),
    "another in the address": ("token=wrong", {}),
    "another in the header": ("", {"Authorization": "token wrong"}),
    "another as bearer": ("", {"Authorization": "Bearer 0123456789abcdef0123456789abcdef"}),
    "a cookie of its own make": ("", {"Cookie": 'username-127-0-0-1-{port}="2|1:0|10:1|5:user|4:eyJ9|abcd"'}),
    "a part of the right one": ("token={part}", {}),
    "nothing, as basic": ("", {"Authorization": "Basic OjpkOg=="}),
}


def is_closed(answer):
    """Whether an answer only says: no, or log in."""
    goes_to_log_in = answer.status == 302 and answer.headers["location"].startswith("/login?next=")
    return (goes_to_log_in and not answer.body) or (answer.status in (403, 404, 405) and len(answer.body) < 40)


@pytest.mark.parametrize("wrong", WRONG, ids=[name.replace(" ", "_") for name in WRONG])
def test_without_the_token_no_route_gives_anything(app, wrong):
    query, headers = WRONG[wrong]
    query = query.format(part=app.token[:-1])
    headers = {name: value.format(port=app.port) for name, value in headers.items()}
    open_ones = {}
    for route in ROUTES:
        for method in ("GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS", "PATCH"):
            path = route if not query else f"{route}{'&' if '?' in route else '?'}{query}"
            answer = app.ask(path, method, body="x=1" if method in ("POST", "PUT", "PATCH") else None, **headers)
            # What OPTIONS tells is which methods there are.
            if not is_closed(answer) and not (method == "OPTIONS" and answer.status == 204 and not answer.body):
                open_ones[f"{method} {path}"] = (answer.status, answer.body[:80])
    assert not open_ones


def test_every_route_of_the_server_is_on_this_sheet(app):
    """The list above is compared with what Voilà routes, so that a new route must be put on it."""
    made = voila_server.ExplorerServer(config=voila_server.configuration("127.0.0.1", 1, "x", "light"))
    try:
        made.initialize([str(next((app.home / "data").rglob("09_explorer.ipynb")))])
        made.init_settings()
        patterns = [address for address, *_ in made.init_handlers() if address not in ("/(.*)", "/login", "/logout")]
    finally:
        voila_server.ExplorerServer.clear_instance()
    missing = [pattern for pattern in patterns if not any(re.fullmatch(pattern, route) for route in ROUTES)]
    assert len(patterns) >= 8 and not missing


def test_the_log_in_page_says_nothing_about_this_machine(app):
    pages = [app.ask("/login"), app.ask("/login?next=/x"), app.ask("/login", "POST", "password=wrong")]
    assert [page.status for page in pages] == [200, 200, 403], "a form without its own mark (XSRF) is refused"
    for page in pages:
        for told in (app.token, str(app.home), "09_explorer", "tiny-blip", "/root", "Jupyter", "jupyter"):
            assert told not in page.body, told
        assert "http" not in page.body, "the page asks for something elsewhere"


def log_in(app, password, next_page="/", **more):
    """Send the form of the log-in page, with its mark."""
    page = app.ask("/login")
    mark = re.search(r'name="_xsrf" value="([^"]+)"', page.body)[1]
    cookie = page.headers["set-cookie"].split(";")[0]
    body = f"_xsrf={quote(mark)}&password={quote(password)}" + "".join(f"&{k}={quote(v)}" for k, v in more.items())
    return app.ask(f"/login?next={quote(next_page, safe='')}", "POST", body, Cookie=cookie)


def test_the_form_lets_in_with_the_token_only(app):
    refused = log_in(app, "wrong")
    assert (
        refused.status == 401 and "Invalid" in refused.body and "username" not in refused.headers.get("set-cookie", "")
    )
    accepted = log_in(app, app.token)
    assert accepted.status == 302 and accepted.headers["location"] == "/"
    cookie = next(line for line in accepted.headers["set-cookie"].splitlines() if line.startswith("username-"))
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and app.token not in cookie


@pytest.mark.parametrize("target", ["//evil.example/", "https://evil.example/", "\\\\evil.example", "/\\evil.example",
                                    "https:///evil.example", "javascript:alert(1)"])  # fmt: skip
def test_logging_in_leads_to_no_other_site(app, target):
    location = log_in(app, app.token, target).headers["location"]
    assert location.startswith("/") and not location.startswith(("//", "/\\")), location


def test_a_visitor_cannot_set_a_password(app, tmp_path):
    """jupyter-server would write it into the configuration of this user's JupyterLab."""
    log_in(app, app.token, new_password="owned")
    assert log_in(app, "owned").status == 401


def test_the_forms_target_cannot_break_out_of_the_page(app):
    page = app.ask('/login?next="><script>alert(1)</script>'.replace("<", "%3C").replace(">", "%3E"))
    raw = app.ask("/login?next='onfocus=alert(1)//\"x")
    for body in (page.body, raw.body):
        assert "<script>alert" not in body and '"x' not in body
        assert body.count("<script") == 1, "the page's own"


# Other sites --------------------------------------------------------------------------------------------------------

#: Headers of requests that no page of the app sends.
FOREIGN = {
    "another name made to point here": {"Host": "evil.example"},
    "another name with the port": {"Host": "evil.example:{port}"},
    "an address of the network": {"Host": "192.168.1.7:{port}"},
    "another site's origin": {"Origin": "http://evil.example"},
    "a page of another port": {"Origin": "http://127.0.0.1:1"},
    "a page of a file": {"Origin": "null"},
    "a name that begins alike": {"Origin": "http://127.0.0.1:{port}.evil.example"},
    "a name before an at": {"Origin": "http://127.0.0.1:{port}@evil.example"},
    "an image on another site": {
        "Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image",
    },
    "a frame on another site": {
        "Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe",
    },
    "a script of another port": {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"},
}  # fmt: skip


@pytest.mark.parametrize("foreign", FOREIGN, ids=[name.replace(" ", "_") for name in FOREIGN])
def test_other_sites_are_refused_even_with_the_token(app, foreign):
    headers = {name: value.format(port=app.port) for name, value in FOREIGN[foreign].items()}
    for route in ("/", "/login", "/voila/static/voila.js", f"/api/kernels/{KERNEL}", "/voila/files/a.png"):
        answer = app.ask(route, **headers, **app.bearer())
        assert answer.status == 403 and answer.body == "403: Forbidden\n", f"{route}: {answer.status}"
    if not foreign.endswith(("site", "a script of another port")) or "origin" in foreign:
        socket = app.ask(f"/api/kernels/{KERNEL}/channels", **UPGRADE, **headers, **app.bearer())
        assert socket.status == 403, f"a websocket: {socket.status}"


def test_a_link_to_the_app_may_be_followed_from_elsewhere(app):
    answer = app.ask("/login", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document")
    assert answer.status == 200


def test_a_browser_is_told_to_frame_nothing_and_ask_nobody_else(app):
    headers = app.ask("/login").headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["frame-ancestors"] == "'self'" and policy["default-src"].split() == ["'self'", "data:", "blob:"]
    assert not re.search(r"https?:|\*", headers["content-security-policy"])
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


# With the token -----------------------------------------------------------------------------------------------------

#: Ways to write "two folders up".
UP = [
    "../..",
    "..%2f..",
    "%2e%2e/%2e%2e",
    "..%252f..",
    "....//....//",
    "..\\..",
    "..%5c..",
    "%c0%ae%c0%ae/",
    "../..%00",
]

BASES = [
    "/voila/files/", "/voila/static/", "/voila/templates/lab/static/", "/voila/templates/", "/voila/labextensions/",
    "/voila/api/themes/", "/voila/api/themes/@jupyterlab/", "/", "/voila/files//", "/voila/templates/vlmtrace/static/",
    "/voila/templates/../static/", "/voila/templates/lab/",
]  # fmt: skip


@pytest.mark.parametrize("base", BASES)
def test_with_the_token_no_path_leads_to_the_disk(app, base):
    (app.home / "private.txt").write_text("of this user alone")
    notebook = next((app.home / "data").rglob("09_explorer.ipynb"))
    (notebook.parent / "beside.png").write_text("of this user alone")
    link = notebook.parent / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(app.home)
    targets = [
        *(f"{up}/{'../' * 12 if '..' in up else ''}etc/passwd" for up in UP), *(f"{up}/private.txt" for up in UP),
        "/etc/passwd", "%2fetc%2fpasswd", "etc/passwd", "file:///etc/passwd", "beside.png", "link/private.txt",
        notebook.name, str(notebook), "~/.ssh/id_rsa", ".", "..", "%00", "app.log",
    ]  # fmt: skip
    for target in targets:
        answer = app.ask(base + target, timeout=10, **app.bearer())
        assert answer.status in (301, 302, 400, 403, 404, 405), f"{base}{target}: {answer.status} {answer.body[:80]}"
        assert "root:" not in answer.body and "of this user alone" not in answer.body and "cells" not in answer.body
        if answer.status in (301, 302):
            location = answer.headers["location"]
            assert location.startswith("/") and not location.startswith("//"), location


#: What JupyterLab has, and the app must not.
JUPYTER = (
    "/api/contents /api/terminals /api/kernels /api/sessions /api/me /lab /nbconvert/html/x.ipynb /files/x /tree "
    "/voila/tree /metrics"
).split()


@pytest.mark.parametrize("route", JUPYTER)
def test_with_the_token_there_is_no_jupyter_behind_the_page(app, route):
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = app.ask(route, method, body='{"name": "python3"}' if method != "GET" else None, **app.bearer())
        if answer.status == 302:  # everything else is looked for among the files, which are closed
            answer = app.ask(answer.headers["location"], **app.bearer())
        assert answer.status in (403, 404, 405), f"{method} {route}: {answer.status}"


# The machine --------------------------------------------------------------------------------------------------------


def test_nobody_else_on_this_machine_can_read_the_token(app):
    """`ps` shows everybody the command lines of all."""
    for process in [app.process, *app.process.children(recursive=True)]:
        assert app.token not in " ".join(process.cmdline())
    files = [path for path in (app.home / "data" / "runs").rglob("*") if path.is_file()]
    assert files and not [path for path in files if app.token.encode() in path.read_bytes()]


def test_it_listens_on_this_machine_only(app):
    listening = {c.laddr.ip for c in app.process.net_connections() if c.status == "LISTEN"}
    assert listening == {"127.0.0.1"}
