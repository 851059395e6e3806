"""Where a model's files are: a directory on this machine, the hub's cache, or the hub.

Nothing is loaded from a directory before it was looked at: weights must be safetensors, all of them there, and no
configuration may ask for code of its own. What the cache holds whole is used without asking the hub, so that a run does
not change by itself; without a connection, one sentence says at once what to download and where to put it.
"""

from __future__ import annotations

import json
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

#: A model on the hub, and what pins it.
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")

#: Configurations that may name classes to be imported from the repository.
CONFIGS = (
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "qformer_tokenizer/tokenizer_config.json",
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

#: Of each group, one file must be there.
PROCESSOR = (
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer.json", "vocab.txt", "tokenizer.model", "vocab.json", "spiece.model"),
)

#: What is fetched of a repository beside its weights: files at its top and in one folder, and nothing that is run.
TEXTS, FOLDER = (".json", ".txt", ".model", ".jinja"), "qformer_tokenizer"

#: Seconds that the hub has to answer before this machine counts as offline.
PATIENCE = 5.0


def locate(name: str, bundled: Sequence[str] = ()) -> tuple[str, str | None]:
    """The directory of a model, checked, and the commit that it is of, where that is known.

    Args:
        name: a directory (of `save_pretrained`, or one model's of the hub's cache), or an id on the hub, pinned by
            @revision or not
        bundled: what may be named instead, for the sentence
    Raises:
        VlmtraceError: there is no such model, it cannot be had, or it is refused; one sentence says what to do
    """
    if Path(name).is_dir():
        folder, commit = _in_cache_layout(Path(name))
        check_files(folder, name)
        return str(folder), commit
    match = HUB_ID.fullmatch(name)
    if match is None or Path(name).exists():
        raise VlmtraceError(
            f"There is no usable model {name!r}: give a bundled name ({', '.join(bundled) or 'none is installed'}), a "
            "directory written by save_pretrained for model and processor, or a hub id such as "
            "Salesforce/blip-vqa-base."
        )
    repo, revision = match["repo"], match["revision"] or constants.DEFAULT_REVISION
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


# Checks ------------------------------------------------------------------------------------------------------------


def check_files(folder: Path, name: str) -> None:
    """Refuse a directory that is incomplete, or from which more than numbers and texts would have to be read.

    Raises:
        VlmtraceError: a file is missing, the weights are not safetensors, or a configuration names code
    """
    if not (folder / "config.json").is_file():
        raise VlmtraceError(f"The directory {name} holds no config.json: give one written by save_pretrained.")
    check_no_code(folder, name)
    if not (folder / WEIGHTS).is_file():
        missing = [shard for shard in shards(folder, name) if not (folder / shard).is_file()]
        if missing:
            raise VlmtraceError(
                f"{name} lacks {len(missing)} of the files that {INDEX} lists, the first is {missing[0]}: download "
                "them again."
            )
    for group in PROCESSOR:
        if not any((folder / file).is_file() for file in group):
            raise VlmtraceError(
                f"{name} holds none of {', '.join(group)}: save the processor into the same directory as the model."
            )


def check_no_code(folder: Path, name: str) -> None:
    """Raise if a configuration asks for classes from the repository (auto_map)."""
    for file in CONFIGS:
        path = folder / file
        if path.is_file() and "auto_map" in read_json(path):
            raise VlmtraceError(
                f"{name} brings code of its own (auto_map in {file}), which vlmtrace never runs: use a checkpoint of a "
                "supported family that transformers loads by itself."
            )


def shards(folder: Path, name: str) -> list[str]:
    """The files over which the weights are spread.

    Raises:
        VlmtraceError: there is no index of safetensors, or it names files elsewhere
    """
    index = folder / INDEX
    if not index.is_file():
        other = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5"))
        raise VlmtraceError(_unsafe(name, f"only {', '.join(other[:3])}" if other else "none"))
    weight_map = read_json(index).get("weight_map")
    files = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
    if not files or not all(isinstance(file, str) and re.fullmatch(r"[\w.-]+\.safetensors", file) for file in files):
        raise VlmtraceError(f"{index} does not list safetensors files beside it: download it again.")
    return files


def _unsafe(name: str, found: str) -> str:
    return (
        f"{name} holds no weights as safetensors ({found}), and vlmtrace reads no others, since they can carry code: "
        "use a revision that has model.safetensors, or load the model where you trust it and save it again with "
        "save_pretrained."
    )


def read_json(path: Path) -> dict:
    """What a JSON file holds; {} where there is none.

    Raises:
        VlmtraceError: it is no JSON, or no object
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise VlmtraceError(f"{path} is not valid JSON ({error}): download it again.") from error
    if not isinstance(content, dict):
        raise VlmtraceError(f"{path} holds no JSON object, but {json.dumps(content)[:40]}: download it again.")
    return content


# The hub -----------------------------------------------------------------------------------------------------------


def _cached(repo: str, revision: str) -> Path | None:
    """The snapshot in the cache, if all of it is there."""
    config = huggingface_hub.try_to_load_from_cache(repo, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
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
            other = [file for file in names if file.endswith((".bin", ".pt", ".h5", ".msgpack"))]
            raise VlmtraceError(_unsafe(repo, f"only {', '.join(other[:3])}" if other else "none"))
        folder = _download(repo, info.sha, [file for file in names if file.endswith(TEXTS)])
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
