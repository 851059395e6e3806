"""Measure what published work claims: `make claims`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from vlmtrace.benchmarks.claims.material import Material
from vlmtrace.benchmarks.claims.registry import CLAIMS, Claim
from vlmtrace.benchmarks.claims.report import Found, claims_table
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.files import locked, make_folder, read_json, write_json
from vlmtrace.core.paths import DATA, ROOT, relative
from vlmtrace.models import bundled_models, load_model
from vlmtrace.pipeline.dependencies import PACKAGE, code_digest, modules_behind

#: Where results go, and where the documentation keeps its own.
FOLDER = DATA / "bench" / "claims"
NAME = "claims"
DOCS = ROOT / "docs" / "measured" / f"{NAME}.json"
#: Those in the repository. smol-llava has to be made first and takes long: it is measured when it is asked for.
MODELS = ("tiny-blip", "tiny-llava")


def code_of(claim: Claim) -> str:
    """Identifies the code that a claim is measured with.

    Args:
        claim: one of `CLAIMS`
    """
    return code_digest(modules_behind(claim.measure.__module__.removeprefix(f"{PACKAGE.name}."), drawing=False))


def of_other_code(column: dict[str, Any]) -> list[str]:
    """The claims of a column that were measured with other code than today's, or one does not know with which.

    Args:
        column: from `measured`, or of the documentation

    Returns:
        their names
    """
    known = column.get("code", {})
    return [name for name in column["claims"] if name in CLAIMS and known.get(name) != code_of(CLAIMS[name])]


def measured(
    name: str, n: int, seed: int, folder: Path, without: Sequence[str] = (), again: bool = False
) -> dict[str, Any]:
    """The numbers of one model, each claim's kept as soon as it is there, and found again when it is asked the same.

    Args:
        name: of the model
        n: pairs of each task
        seed: of pairs and questions
        folder: for what is found
        without: claims that are left out: what is there of them stays
        again: measure anew what was measured with other code; it takes hours for all claims, and much of a change of
            the code leaves the numbers as they were, so that they are kept where this is not asked for

    Returns:
        name, n, seed, fingerprint of the weights, by claim the rows of `Number`, and by claim the digest of the code
        that measured it
    """
    material = Material(name, n, seed)
    # Folders and repositories of one last name are other models.
    which = f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}" if Path(name).name != name else ""
    path = folder / f"{Path(name).name}{which}.json"
    found: dict[str, Any] = {
        "name": name,
        "n": n,
        "seed": seed,
        "fingerprint": material.model.fingerprint(),
        "claims": {},
        "code": {},
    }
    if path.is_file():
        before = read_json(path)
        if all(before.get(key) == found[key] for key in ("name", "n", "seed", "fingerprint")):
            found = {**found, **before}
    changed = of_other_code(found)
    for claim in CLAIMS.values():
        if claim.name in found["claims"] and not (again and claim.name in changed and claim.name not in without):
            click.echo(f"{name}: {claim.name}, measured before ({relative(path)})")
            continue
        if claim.name in without:
            continue
        if claim.decoder_only and not material.model.has_visual_tokens:
            continue
        start = time.process_time()
        rows = [{key: _plain(value) for key, value in asdict(one).items()} for one in claim.measure(material)]
        found["claims"][claim.name], found["code"][claim.name] = rows, code_of(claim)
        write_json(found, path)
        click.echo(f"{name}: {claim.name}, {time.process_time() - start:.0f} s")
    return found


def _plain(value: Any) -> Any:
    """Numbers as JSON has them, to six digits."""
    if isinstance(value, str):
        return value
    return None if np.isnan(value) else round(float(value), 6) if float(value) != int(value) else int(value)


def refuse_outdated(names: Sequence[str], seed: int, page: Path) -> None:
    """Refuse to renew some columns of the documentation where others, which would stay, no longer fit.

    Args:
        names: of the models whose columns are measured now
        seed: that they are measured with
        page: the documentation's file; there may be none yet

    Raises:
        VlmtraceError: a column that would stay was measured with another seed, on claims that are no longer asked, or
            on other weights than the model has now
    """
    for column in read_json(page)["models"] if page.is_file() else []:
        name, why = column["name"], ""
        if name in names:
            continue
        if column["seed"] != seed:
            why = f"with seed {column['seed']}, not {seed}"
        elif set(column["claims"]) - set(CLAIMS):
            why = "on claims that are no longer asked"
        elif name in bundled_models() and load_model(name).fingerprint() != column["fingerprint"]:
            why = "on other weights than it has now"
        if why:
            raise VlmtraceError(f"The column of {name} was measured {why}: measure it again, too (MODELS={name}).")


def renewed(found: list[dict[str, Any]], page: Path) -> list[dict[str, Any]]:
    """The columns of the documentation with those that were measured now in place of their former ones.

    Claims that were left out now stay as they were, where pairs, seed and weights are the same, with the digest of the
    code that measured them. Columns of other models
    stay as they are, with the numbers of pairs that they were measured with.

    Args:
        found: by model, from `measured`
        page: the documentation's file; there may be none yet

    Returns:
        the columns: bundled models first, then in the order in which they came
    """
    columns = {one["name"]: one for one in read_json(page)["models"]} if page.is_file() else {}
    for one in found:
        before = columns.get(one["name"], {})
        is_same = all(before.get(key) == one[key] for key in ("n", "seed", "fingerprint"))
        kept = {claim: rows for claim, rows in before["claims"].items() if claim in CLAIMS} if is_same else {}
        code = {claim: digest for claim, digest in before.get("code", {}).items() if claim in kept}
        columns[one["name"]] = one | {"claims": kept | one["claims"], "code": code | one.get("code", {})}
    first = [name for name in MODELS if name in columns]
    return [columns[name] for name in [*first, *(name for name in columns if name not in first)]]


def say_of_other_code(columns: Sequence[dict[str, Any]]) -> None:
    """Print which numbers were measured with other code than today's, a sentence for each model that has some.

    Args:
        columns: from `measured` or `renewed`
    """
    for column in columns:
        names = of_other_code(column)
        if names:
            click.echo(
                f"{column['name']}: measured with other code than today's, or it was not noted with which: "
                f"{'; '.join(names)}. Pass AGAIN=1 to measure again."
            )


@click.command()
@click.option("--models", default="", envvar="VLMTRACE_MODELS", help="Separated by blanks; empty: the bundled ones.")
@click.option("--pairs", type=click.IntRange(8), default=48, show_default=True, envvar="VLMTRACE_PAIRS")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, envvar="VLMTRACE_SEED")
@click.option("--without", default="", envvar="VLMTRACE_WITHOUT", help="Claims to leave out, separated by ;.")
@click.option("--docs", is_flag=True, envvar="VLMTRACE_DOCS", help="Renew the models' columns of docs/claims.md.")
@click.option("--again", is_flag=True, envvar="VLMTRACE_AGAIN", help="Measure anew what other code has measured.")
def main(models: str, pairs: int, seed: int, without: str, docs: bool, again: bool) -> None:
    """Measure every claim on every model, print the table, and write what was found."""
    try:
        names = models.split() or MODELS
        left_out = [one_of(claim.strip(), CLAIMS, "claim") for claim in without.split(";") if claim.strip()]
        make_folder(FOLDER)
        with locked(FOLDER / ".lock", f"Another process writes into {FOLDER}: wait until it has finished."):
            if docs:
                refuse_outdated(names, seed, DOCS)
            found = columns = [measured(name, pairs, seed, FOLDER, left_out, again) for name in names]
            write_json({"models": found}, FOLDER / f"{NAME}.json")
            if docs:
                columns = renewed(found, DOCS)
                write_json({"models": columns}, DOCS)
            say_of_other_code(columns)
            print(claims_table(Found(FOLDER / f"{NAME}.json")))
    except VlmtraceError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
