"""Voilà as the app runs it: configured here alone, every address behind the guard, kernels of this very Python."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from tornado.ioloop import IOLoop
from traitlets.config import Config
from voila.app import Voila

from vlmtrace.app.guard import HOSTS, GuardedLogIn, GuardedLogOut, guarded, names_of
from vlmtrace.pipeline.kernels import ServersProvisioner, can_be_warm, provisioner_name

#: Cells with this tag are for notebooks only.
NOTEBOOK_ONLY = "notebook-only"

#: A kernel that nobody has talked to for so many seconds ends.
IDLE = 1800


class OwnKernelSpecs(KernelSpecManager):
    """Knows one kernel: this very Python, whatever kernels of that name are installed elsewhere.

    Where processes can be forked, it is forked from one that has imported all, so that a visitor waits for no import.
    """

    def find_kernel_specs(self) -> dict[str, str]:
        """The one name there is."""
        return {"python3": ""}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """This Python's kernel.

        Args:
            kernel_name: as the notebook names it
        """
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            metadata=(
                {"kernel_provisioner": {"provisioner_name": provisioner_name(ServersProvisioner)}}
                if can_be_warm()
                else {}
            ),
        )


class ExplorerServer(Voila):
    """Voilà, for one notebook, for whoever has the token, under the names of this machine.

    Files that configure Voilà elsewhere do not count: none of them may open what is closed here.
    """

    #: Neither the folder where it is started nor the user's configuration is read.
    config_file_paths: ClassVar[list[str]] = []

    def init_settings(self) -> dict[str, Any]:
        """What every handler knows: Voilà's settings, and the names under which it answers."""
        settings = super().init_settings()
        return settings | {HOSTS: (self.ip, names_of(self.ip)), "allow_remote_access": False}

    def init_handlers(self) -> list[tuple]:
        """The addresses, each behind the guard."""
        own = {"/login": GuardedLogIn, "/logout": GuardedLogOut}
        return [(address, own.get(address) or guarded(kind), *rest) for address, kind, *rest in super().init_handlers()]


def folder_of_sockets() -> str:
    """Where the sockets of kernels lie; the path of a socket may have about 100 characters, 65 of them its name."""
    usual = tempfile.gettempdir()
    return usual if len(usual) < 36 else "/tmp"


def configuration(host: str, port: int, token: str, theme: str) -> Config:
    """All that is set of Voilà.

    Args:
        host: the interface to listen on
        port: a free one
        token: what a visitor's address must contain
        theme: "light" or "dark"
    """
    return Config(
        {
            "Voila": {
                # Another port than the one that was printed would be found by nobody.
                "ip": host, "port": port, "port_retries": 0, "token": token, "open_browser": False, "log_level": "WARN",
                "connection_dir_root": folder_of_sockets(),
            },
            "VoilaConfiguration": {
                "template": "vlmtrace", "theme": theme, "file_allowlist": ["^$"],
                "allow_template_override": "NO", "allow_theme_override": "NO", "show_tracebacks": False,
                "kernel_spec_manager_class": OwnKernelSpecs,
            },
            # A password would be written into the configuration of this user's JupyterLab.
            "PasswordIdentityProvider": {"hashed_password": "", "allow_password_change": False},
            # The cookie goes to pages of the app only, and no script can read it.
            "IdentityProvider": {"cookie_options": {"samesite": "Strict", "httponly": True}},
            "TagRemovePreprocessor": {"remove_cell_tags": [NOTEBOOK_ONLY]},
            # Over sockets in a folder of this user's; what goes over TCP, everybody on this machine could listen to.
            "KernelManager": {"transport": "ipc"},
            "VoilaKernelManager": {"cull_idle_timeout": IDLE, "cull_interval": 60},
        }
    )  # fmt: skip


def serve(notebook: Path, host: str, port: int, token: str, theme: str, when_it_answers: Callable[[], None]) -> None:
    """Serve a notebook until the process is ended.

    Args:
        notebook: the file
        host: the interface to listen on
        port: a free one
        token: what a visitor's address must contain
        theme: "light" or "dark"
        when_it_answers: called as soon as requests are answered
    """

    class Announced(ExplorerServer):
        """Says when it answers."""

        def listen(self) -> None:
            """Answer requests until the process is ended."""
            # The loop that answers runs this first of all, and it runs only after the port has been opened.
            IOLoop.current().add_callback(when_it_answers)
            super().listen()

    Announced.launch_instance(argv=[str(notebook)], config=configuration(host, port, token, theme))
