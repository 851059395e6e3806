"""What the app asks of a request before it answers: a name of this machine, a page of its own, and the token.

Voilà asks for the token at its pages and kernels, but hands out static files to everybody and answers under any name.
Here every address goes through the same three questions, so that a route that a later version of Voilà or of
jupyter-server adds is closed by itself.
"""

from __future__ import annotations

import html
import ipaddress
import re
import socket
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from tornado.web import HTTPError
from tornado.websocket import WebSocketHandler
from voila.static_file_handler import TemplateStaticFileHandler
from voila.tornado.kernel_websocket_handler import VoilaKernelWebsocketHandler
from voila.voila_identity_provider import VoilaLoginHandler

#: The names of this machine's own interface.
LOOPBACK = ("127.0.0.1", "localhost", "::1")

#: The setting that holds the names under which the app answers.
HOSTS = "vlmtrace_hosts"

#: The form of messages that browsers and kernels exchange, as websockets name it.
V1 = "v1.kernel.websocket.jupyter.org"

#: The page that asks for the token; it needs no other file. The cookie does not come along with a link on another page,
#: such as the report, so that a visitor who has the token goes on by hand; what stands behind the # comes along.
LOG_IN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Log in</title></head>
<body style="font: 16px/1.5 system-ui, sans-serif; max-width: 34em; margin: 4em auto; padding: 0 1em">
<h1 style="font-size: 1.3em">This page needs its token</h1>
<p>You have followed a link, and this browser has had the explorer open: <a href="{here}">open it here</a>.</p>
<p>Otherwise open the whole address that was printed when the app was started, or put its token here.</p>
<form method="post" action="{action}">{xsrf}
<label>Token <input type="password" name="password" autocomplete="off" size="40"></label>
<button type="submit">Log in</button></form>
<p role="alert">{said}</p>
<script>
  const shown = location.hash, link = document.querySelector("a"), form = document.querySelector("form");
  link.href += shown;
  form.action += shown;
</script>
</body></html>
"""


def names_of(host: str) -> frozenset[str]:
    """The names under which the app answers, besides addresses in numbers.

    Args:
        host: the interface that it listens on
    """
    if host in LOOPBACK:
        return frozenset(["localhost"])
    return frozenset(name.lower() for name in ("localhost", host, socket.gethostname(), socket.getfqdn()) if name)


def is_answered(named: str, host: str, names: frozenset[str]) -> bool:
    """Whether a request's Host header names this machine.

    Another site's name that was made to point here (DNS rebinding) is no name of this machine. An address in numbers
    cannot be made to point elsewhere.

    Args:
        named: the header, with or without a port
        host: the interface that the app listens on
        names: see `names_of`
    Example:
        >>> names = names_of("127.0.0.1")
        >>> [is_answered(name, "127.0.0.1", names) for name in ("localhost:8866", "[::1]:8866", "evil.example:8866")]
        [True, True, False]
    """
    found = re.fullmatch(r"\[([^\]]*)\](:\d*)?|([^:]*)(:\d*)?", named)
    if found is None:
        return False
    name = (found[1] if found[1] is not None else found[3]).lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return address.is_loopback or host not in LOOPBACK


class Guard(JupyterHandler):
    """Put in front of a handler: see `guarded`."""

    #: Whether this address answers without the token.
    is_open = False

    def set_default_headers(self) -> None:
        """What a browser may do with the answer: show it in no other page, and ask no other machine."""
        super().set_default_headers()
        host = self.request.host
        here = f"'self' ws://{host} wss://{host}" if is_answered(host, *self._hosts()) else "'self'"
        self.set_header(
            "Content-Security-Policy",
            "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
            f"style-src 'self' 'unsafe-inline' data: blob:; connect-src {here} data: blob:; "
            "frame-ancestors 'self'; form-action 'self'; base-uri 'self'; object-src 'none'",
        )
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")

    def _hosts(self) -> tuple[str, frozenset[str]]:
        return self.settings[HOSTS]

    def check_host(self) -> bool:
        """Whether the request names this machine."""
        return is_answered(self.request.host, *self._hosts())

    def is_of_this_page(self) -> bool:
        """Whether the request comes from a page of the app, or from no page at all.

        Nobody else's page may ask, even with the right token. A link to the app may be followed from anywhere.
        """
        headers = self.request.headers
        origin = headers.get("Origin")
        if origin is not None and urlsplit(origin.lower()).netloc != self.request.host.lower():
            return False
        if isinstance(self, WebSocketHandler):  # browsers always send its origin
            return True
        is_link = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
        return is_link or headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")

    async def prepare(self, **options: Any) -> None:
        """Ask for name, page and token."""
        if not self.check_host() or not self.is_of_this_page():
            self.current_user = self._jupyter_current_user = None
            raise HTTPError(403)
        if re.search(r"[\x00-\x1f]", unquote(self.request.path)):
            raise HTTPError(404)
        await super().prepare(**options)
        if not self._finished and self.current_user is None and not self.is_open:
            raise HTTPError(403)

    def _request_summary(self) -> str:
        # What stands behind the question mark may be the token, which no log should hold.
        return f"{self.request.method} {self.request.path} ({self.request.remote_ip})"

    def write_error(self, status_code: int, **_: Any) -> None:
        """Say what the status means, and nothing else."""
        try:
            meaning = HTTPStatus(status_code).phrase
        except ValueError:
            meaning = "Error"
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(f"{status_code}: {meaning}\n")


class GuardedLogIn(Guard, VoilaLoginHandler):
    """Asks for the token."""

    is_open = True

    def _render(self, message: dict[str, str] | None = None) -> None:
        self.set_header("Content-Type", "text/html; charset=UTF-8")
        self.write(
            LOG_IN.format(
                here=html.escape(self.base_url),
                action=html.escape(self.request.uri or "/login"),
                xsrf=self.xsrf_form_html(),
                said=html.escape(" ".join((message or {}).values())),
            )
        )


class GuardedLogOut(Guard):
    """Forgets the visitor."""

    is_open = True

    @allow_unauthenticated
    def get(self) -> None:
        """Clear the cookie and ask for the token again."""
        self.identity_provider.clear_login_cookie(self)
        self.redirect(f"{self.base_url}login")


class _TemplateFiles(TemplateStaticFileHandler):
    """Files of a template; an address that names none is missing, instead of an error of the server."""

    def parse_url_path(self, path: str) -> str:
        parts = path.split("/")
        if len(parts) < 3 or parts[1] != "static" or {"", ".", ".."} & {*parts}:
            raise HTTPError(404)
        return super().parse_url_path(path)


class _Channels(VoilaKernelWebsocketHandler):
    """Messages to and from a kernel, in the newer form only.

    Voilà reads the older form as if it were the newer one, takes some bytes of a picture for a number, and counts that
    far: one such connection would stop the app for everybody.
    """

    async def get(self, kernel_id: str) -> None:
        """Open the connection.

        Args:
            kernel_id: of the kernel
        """
        offered = self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        if V1 not in [protocol.strip() for protocol in offered]:
            raise HTTPError(400)
        await super().get(kernel_id)

    def on_message(self, ws_message: bytes | str) -> None:
        """Hand a message on, unless it says that it has more parts than fit into it: that would be counted, too.

        Args:
            ws_message: as it came
        """
        if self.ws_connection is None:
            return  # closed: what was on its way would be read in the older form
        parts = int.from_bytes(ws_message[:8], "little") if isinstance(ws_message, bytes) else None
        if parts is None or not 0 < 8 * (parts + 1) <= len(ws_message):
            self.close(1007)
        else:
            super().on_message(ws_message)


#: Handlers that are mended before they are guarded.
MENDED = {TemplateStaticFileHandler: _TemplateFiles, VoilaKernelWebsocketHandler: _Channels}


def guarded(handler: type) -> type:
    """A handler that asks for a name of this machine, a page of the app, and the token.

    Args:
        handler: of tornado, jupyter-server or Voilà
    Returns:
        the same behind a guard
    """
    if issubclass(handler, Guard):
        return handler
    handler = MENDED.get(handler, handler)
    return type(f"Guarded{handler.__name__}", (Guard, handler), {})
