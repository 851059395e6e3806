"""Where a model's files are: a directory on this machine, the hub's cache, or the hub.

Nothing is loaded from a directory before `vlmtrace.models.model_folders` has looked at it. What the cache holds whole
is used without asking the hub, so that a run does not change by itself; without a connection, one sentence says at once
what to download and where to put it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
from httpx2 import HTTPError
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import from_home
from vlmtrace.models.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_adapter
from vlmtrace.models.foreign_formats import check_format, check_repository
from vlmtrace.models.model_folders import (
    FOLDER,
    INDEX,
    OTHER_WEIGHTS,
    PROCESSOR,
    TEXTS,
    WEIGHTS,
    check_files,
    check_no_code,
    read_json,
    shards,
    unsafe_weights,
)

#: A model on the hub, and what pins it.
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")

#: Seconds that the hub has to answer before this machine counts as offline.
PATIENCE = 5.0


def locate(name: str, bundled: Sequence[str] = ()) -> tuple[str, str | None]:
    """The directory of a model, checked, and the commit that it is of, where that is known.

    Args:
        name: a directory (of `save_pretrained`, or one model's of the hub's cache; ~ is the user's), or an id on the
            hub, pinned by @revision or not
        bundled: what may be named instead, for the sentence
    Raises:
        VlmtraceError: there is no such model, it cannot be had, or it is refused; one sentence says what to do
    """
    path = from_home(name)
    if path.is_dir():
        folder, commit = _in_cache_layout(path)
        check_files(folder, name)
        return str(folder), commit
    match = HUB_ID.fullmatch(name)
    if match is None or path.exists():
        raise VlmtraceError(
            f"There is no usable model {name!r}: give a bundled name ({', '.join(bundled) or 'none is installed'}), a "
            "directory written by save_pretrained for model and processor, or a hub id such as "
            "Salesforce/blip-vqa-base."
        )
    repo, revision = match["repo"], match["revision"] or constants.DEFAULT_REVISION
    check_repository(repo)
    folder = _cached(repo, revision) or _fetch(repo, revision)
    check_files(folder, name)
    return str(folder), folder.name


def _in_cache_layout(folder: Path) -> tuple[Path, str | None]:
    """The snapshot in a folder models--…, of main or the only one; a directory itself if it is no such folder."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir() or (folder / "config.json").exists():
        is_snapshot = folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name)
        return folder, folder.name if is_snapshot else None
    main = folder / "refs" / constants.DEFAULT_REVISION
    names = sorted(path.name for path in snapshots.iterdir() if path.is_dir())
    commit = main.read_text().strip() if main.is_file() else names[0] if len(names) == 1 else ""
    if commit not in names:
        raise VlmtraceError(
            f"{folder} holds {len(names)} snapshots and does not say which is current: give the directory of one of "
            f"them ({', '.join(names) or 'none is there'})."
        )
    return snapshots / commit, commit


# The hub -----------------------------------------------------------------------------------------------------------


def _cached(repo: str, revision: str) -> Path | None:
    """The snapshot in the cache, if all of it is there."""
    told = ("config.json", ADAPTER_CONFIG)
    found = (huggingface_hub.try_to_load_from_cache(repo, file, revision=revision) for file in told)
    file = next((file for file in found if isinstance(file, str)), None)
    if file is None:
        return None
    folder = Path(file).parent
    if is_adapter(folder):
        return folder if (folder / ADAPTER_WEIGHTS).is_file() else None
    if (folder / WEIGHTS).is_file():
        there = True
    else:
        index = folder / INDEX
        there = index.is_file() and all((folder / shard).is_file() for shard in shards(folder, repo))
    return folder if there and all(any((folder / file).is_file() for file in group) for group in PROCESSOR) else None


def _fetch(repo: str, revision: str) -> Path:
    """Download a snapshot into the hub's cache: configurations first, and the weights only if nothing is refused."""
    if constants.is_offline_mode():
        raise VlmtraceError(_offline(repo, revision, "HF_HUB_OFFLINE is set"))
    if not _hub_answers():
        raise VlmtraceError(_offline(repo, revision, f"{constants.ENDPOINT} cannot be reached"))
    try:
        info = huggingface_hub.HfApi(endpoint=constants.ENDPOINT).model_info(repo, revision=revision, timeout=PATIENCE)
        places = ("", FOLDER)  # the second holds InstructBLIP's other tokenizer
        files = [file.rfilename for file in info.siblings or []]
        names = [file for file in files if file.rpartition("/")[0] in places]
        if not any(file.endswith(".safetensors") for file in names):
            if "config.json" in names:
                check_format(read_json(_download(repo, info.sha, ["config.json"]) / "config.json"), repo)
            other = [file for file in names if file.endswith(OTHER_WEIGHTS)]
            raise VlmtraceError(unsafe_weights(repo, f"only {', '.join(other[:3])}" if other else "none"))
        folder = _download(repo, info.sha, [file for file in names if file.endswith(TEXTS)])
        if ADAPTER_CONFIG in names and ADAPTER_WEIGHTS in names:
            return _download(repo, info.sha, [ADAPTER_WEIGHTS])
        check_format(read_json(folder / "config.json"), repo)
        check_no_code(folder, repo)
        weights = [WEIGHTS] if WEIGHTS in names else shards(folder, repo)
        return _download(repo, info.sha, weights)
    except GatedRepoError as error:
        raise VlmtraceError(
            f"{repo} is gated: accept its conditions at {constants.ENDPOINT}/{repo}, log in with `hf auth login`, and "
            "start again."
        ) from error
    except RevisionNotFoundError as error:
        raise VlmtraceError(f"{repo} has no revision {revision!r}: give a branch, tag or commit of it.") from error
    except RepositoryNotFoundError as error:
        raise VlmtraceError(
            f"There is no usable model {repo!r}: the hub does not know it, or shows it only to those logged in "
            "(`hf auth login`); correct the name."
        ) from error
    except OfflineModeIsEnabled as error:
        raise VlmtraceError(_offline(repo, revision, "HF_HUB_OFFLINE is set")) from error
    except (HTTPError, OSError) as error:
        raise VlmtraceError(_offline(repo, revision, f"the download failed: {str(error).splitlines()[0]}")) from error


def _download(repo: str, commit: str | None, files: Iterable[str]) -> Path:
    """Fetch files of one commit; what the cache has of it is not fetched again."""
    return Path(
        huggingface_hub.snapshot_download(
            repo, revision=commit, allow_patterns=[_literally(file) for file in files], endpoint=constants.ENDPOINT
        )
    )


def _literally(file: str) -> str:
    """A pattern that fits this file alone."""
    return re.sub(r"([*?\[])", r"[\1]", file)


#: Run by a process of its own: connect to host, port, within seconds.
KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])).close()"


def _hub_answers() -> bool:
    """Whether the hub's server takes a connection, within seconds; behind a proxy, only the download will tell.

    Looking up a name knows no timeout and cannot be interrupted. A thread that does it would outlive this call, so a
    process does it, which is killed in the end.
    """
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    endpoint = urlsplit(constants.ENDPOINT)
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    command = [sys.executable, "-I", "-S", "-c", KNOCK, str(endpoint.hostname), str(port), str(PATIENCE)]
    quiet = subprocess.DEVNULL
    try:
        return subprocess.run(command, timeout=PATIENCE, stdin=quiet, stdout=quiet, stderr=quiet).returncode == 0
    except subprocess.TimeoutExpired:
        return False
    except OSError:
        return True  # no process can be started here: the download will tell


def _offline(repo: str, revision: str, why: str) -> str:
    folder = repo.rsplit("/", 1)[-1]
    pinned = "" if revision == constants.DEFAULT_REVISION else f" --revision {revision}"
    return (
        f"The model {repo} is not (or not all) on this machine, and {why}: with a connection, run `hf download "
        f'{repo}{pinned} --exclude "*.bin" --exclude "*.h5" --local-dir {folder}`, put that folder on this machine, '
        f"and give its path as the model (MODEL=/path/to/{folder})."
    )
