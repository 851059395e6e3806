"""The explorer as an app, without cells: `make app`, or `python -m vlmtrace.app.server`.

Voilà serves notebook 09 to whoever has the printed address, token included. It listens on this machine only, unless
--host names another interface. Every visitor has a kernel, which ends when nobody has used it for long.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path

import click
import nbformat
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from vlmtrace.app.address import IN_APP
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.files import write_atomically, write_json
from vlmtrace.pipeline.checks import (
    MOST_SEED,
    check_device,
    check_loading,
    check_model,
    check_number,
    check_tasks,
    check_text,
    split_names,
)
from vlmtrace.pipeline.cli import TASKS, absolute, default_run, option
from vlmtrace.pipeline.kernels import can_be_warm, warm_up
from vlmtrace.pipeline.runs import open_run

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "09_explorer.ipynb"

#: What the server and its kernels must find.
PATHS = {"JUPYTER_PATH": Path(__file__).parent / "jupyter", "PYTHONPATH": Path(__file__).resolve().parents[2]}


def environment(folder: Path | None = None) -> dict[str, str]:
    """The environment of the server and its kernels: they find the page's template and this package.

    Args:
        folder: from `prepared`; its kernel of this very Python goes before those that others have installed, and
            nothing of the user's IPython is read. None: kernels are those of the machine
    """
    before = {name: [part for part in os.environ.get(name, "").split(os.pathsep) if part] for name in PATHS}
    own = {name: [str(path)] for name, path in PATHS.items()}
    if folder is not None:
        own["JUPYTER_PATH"].insert(0, str(folder.resolve() / "jupyter"))
    found = {name: os.pathsep.join([*own[name], *before[name]]) for name in PATHS}
    # A bar of the kernel would be gone before the page could show it.
    found |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if folder is not None:
        found |= {"IPYTHONDIR": str(folder.resolve() / "ipython"), IN_APP: "1"}
    return {name: value for name, value in os.environ.items() if name != "PYTHONSTARTUP"} | found


def free_port(host: str, first: int) -> int:
    """The first port from `first` on that nobody listens on.

    Args:
        host: the interface to listen on
        first: the port to begin with; twenty are tried
    Raises:
        VlmtraceError: the host is not of this machine, or no port of twenty is free
    """
    for port in range(first, min(first + 20, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                return port
            except (socket.gaierror, UnicodeError) as error:
                raise VlmtraceError(
                    f"{host[:80]!r} is no address of this machine ({error}): give HOST=0.0.0.0 for all."
                ) from error
            except OSError as error:
                refused = error
    raise VlmtraceError(f"No port from {first} to {first + 19} is free on {host} ({refused}): give another PORT.")


def prepared(folder: Path, **parameters: object) -> Path:
    """Write the explorer's notebook with other parameters, and a kernel of this very Python beside it.

    Args:
        folder: where to write it; it is made where it is missing
        parameters: of the notebook's first cell
    Returns:
        the file
    """
    notebook = parameterize_notebook(load_notebook_node(str(NOTEBOOK)), parameters)
    path = folder / NOTEBOOK.name
    with write_atomically(path) as temporary:
        nbformat.write(notebook, temporary)
    launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {"argv": launch, "display_name": "Python 3", "language": "python"}
    write_json(kernel, folder / "jupyter" / "kernels" / "python3" / "kernel.json")
    return path


@click.command(help=__doc__)
@option("model", "tiny-blip", "A bundled model, a directory written by save_pretrained, or a hub id.")
@option("tasks", TASKS, "Separated by blanks.")
@option("run", "", "Whose selected pairs are offered; empty: default, or the model's name.")
@option("seed", "0", "Of the pairs that are made where the run has none.")
@option("device", "cpu", "A torch device.")
@option("dtype", "", "float32, bfloat16, float16, float64, or auto: as the checkpoint is; empty: float32.")
@option("device_map", "", "auto, balanced or sequential: spread the model over GPUs, host memory and disk.")
@option("quantization", "", "bitsandbytes-8bit, bitsandbytes-4bit or torchao-int8; empty: as the checkpoint is.")
@option("attn_implementation", "", "sdpa or eager; empty: as transformers chooses.")
@option("max_pixels", "", "Make larger images smaller; empty: no bound.")
@option("image_size", "", "Resample every image to this width and height, such as 448x336; empty: its own.")
@option("host", "127.0.0.1", "The interface to listen on.")
@option("port", "8866", "Or the next that is free.")
@option("theme", "light", "light or dark.")
def main(
    model: str, tasks: str, run_name: str, seed: str, device: str, host: str, port: str, theme: str, **loading: str
) -> None:
    """Serve the explorer until somebody ends this process."""
    try:
        first_port, number = check_number("PORT", port, 1, 65535), check_number("SEED", seed, 0, MOST_SEED)
        one_of(theme, ("light", "dark"), "theme")
        check_text("HOST", host)
        check_model(model)
        check_tasks(split_names(tasks))
        check_device(device)
        check_loading(loading, device)
        told: dict[str, object] = {name: value for name, value in loading.items() if value}
        if loading["max_pixels"]:
            told["max_pixels"] = int(loading["max_pixels"])
        run = open_run(run_name or default_run(model))
        port_found = free_port(host, first_port)
        notebook = prepared(
            run.folder / "app",
            model=absolute("model", model),
            tasks=split_names(tasks),
            run=run.name,
            seed=number,
            device=device,
            **told,
        )
    except VlmtraceError as error:
        raise click.ClickException(str(error)) from error
    token = secrets.token_urlsafe(24)
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    found = environment(notebook.parent)
    os.environ.clear()
    os.environ.update(found)
    if can_be_warm():
        # What kernels are forked from imports while this process does.
        warm_up()
    from vlmtrace.app.guard import LOOPBACK
    from vlmtrace.app.voila_server import serve

    if host not in LOOPBACK:
        print(
            f"It listens on {host}: whoever has this address can open it, over an unencrypted connection.", flush=True
        )
    address = f"The explorer of {model} is at\n\n    http://{shown}:{port_found}/?token={token}\n\nCtrl-C ends it."
    # In this process: on another's command line, everybody on this machine could read the token.
    serve(notebook, host, port_found, token, theme, lambda: print(address, flush=True))


if __name__ == "__main__":
    main()
