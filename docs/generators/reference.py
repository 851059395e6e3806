"""Parts of pages that are made from the package: tables, families, data sets, messages, the changelog.

A page asks for a part by a line of its own, `<!-- generated: tables -->`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd

from generators import circuits, claims, house, prior, speed

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vlmtrace"
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def tables() -> str:
    """Every table, column by column."""
    from vlmtrace.core.schema import tables_markdown

    return tables_markdown()


def as_markdown(table: pd.DataFrame) -> str:
    """A table of text, its columns' names as words."""
    lines = ["| " + " | ".join(str(name).replace("_", " ") for name in table.columns) + " |"]
    lines.append("| " + " | ".join("---" for _ in table.columns) + " |")
    for row in table.itertuples(index=False):
        cells = ["yes" if cell is True else "no" if cell is False else str(cell) for cell in row]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def families() -> str:
    """The supported families: how each is supported and checked, what is particular about it; and those refused."""
    from vlmtrace.models.families import families_table, unsupported_families

    table = families_table()
    letters = {check: chr(ord("A") + i) for i, check in enumerate(table["self_check"].unique())}
    table["check"] = table["self_check"].map(letters)
    reasons = [(entry.name, entry.reason) for entry in unsupported_families().values()]
    refused = pd.DataFrame(reasons, columns=["refused", "because it is a model"])
    how = table[
        [
            "family",
            "model_type",
            "supported_by",
            "check",
            "several_images",
            "vision_encoder",
            "vision_attention",
            "since",
        ]
    ].copy()
    how["several_images"] = ["no" + f": {why}" * bool(why) for why in table["one_image"]]
    how.loc[table["several_images"], "several_images"] = "yes"
    how = how.rename(columns={"vision_attention": "its attention weights"})
    particular = table[["family", "image_tokens", "handled"]].rename(
        columns={"image_tokens": "image tokens in the language model", "handled": "particular, and handled"}
    )
    lines = [
        f"{len(table)} types of model, in the version of transformers that is installed here:",
        "",
        as_markdown(how),
        "",
        "When a model loads, this is checked:",
        "",
        *(f"- {letter}: {check}." for check, letter in letters.items()),
        "",
        "What their image tokens are, and what is particular about them:",
        "",
        as_markdown(particular),
        "",
        "Refused by name:",
        "",
        as_markdown(refused),
    ]
    return "\n".join(lines)


def sources() -> str:
    """Where the data sets come from, under which licence, and how to cite them."""
    from vlmtrace.tasks import task_table

    lines = []
    for task in task_table().query("kind == 'published'").itertuples():
        url = f"<{task.url}>" if "://" in task.url else task.url
        lines.append(
            f"- **{task.source}** (`{task.name}`: {task.gives})\n"
            f"  - Source: {url}\n"
            f"  - Licence: {task.licence}\n"
            f"  - To cite: {task.citation}\n"
            f"  - What has to be in ROOT: {task.needs}"
        )
    return "\n".join(lines)


def sentence(node: ast.expr) -> str:
    """The text of a message, `…` where a value is put in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(value.value if isinstance(value, ast.Constant) else "…" for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return sentence(left) + sentence(right)
        case _:
            return "…"


#: How the names end of what is raised with a message for the user.
RAISED = ("VlmtraceError", "ImageError", "Fault")


def all_messages() -> Iterator[tuple[str, str]]:
    """The room and the text of every VlmtraceError that the package can raise; of a Fault, what follows the file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                raised = ast.unparse(node.func)
                # `explained` adds another library's reason, and what to do.
                ending = "" if raised.endswith(RAISED) else " (…): …." if raised.endswith("explained") else None
                text = "" if ending is None else sentence(node.args[0]) + ending
                if text.strip("… .():"):
                    yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), text


def messages() -> str:
    """Every message, by the module that raises it."""
    lines, last = [], ""
    for module, text in all_messages():
        if module != last:
            lines.append(f"\n`vlmtrace.{module}`\n")
            last = module
        lines.append(f"- {text.replace('<', '&lt;').replace('*', chr(92) + '*').replace('`', chr(92) + '`')}")
    return "\n".join(lines)


def changelog() -> str:
    """CHANGELOG.md without its title."""
    return (ROOT / "CHANGELOG.md").read_text().split("\n", 1)[1]


GENERATED: dict[str, Callable[[], str]] = {
    "tables": tables,
    "families": families,
    "sources": sources,
    "messages": messages,
    "changelog": changelog,
    "house": house.house,
    "methods": house.methods,
    "circuit_sizes": partial(circuits.part, "sizes"),
    "claims_size": partial(claims.part, "claims_size"),
    "claims_table": partial(claims.part, "claims_table"),
    "planted_priors": prior.part,
    "circuit_edges": partial(circuits.part, "edges_table"),
    "circuit_nodes": partial(circuits.part, "nodes_table"),
    "circuit_backup": partial(circuits.part, "backup_table"),
    "circuit_kinds": partial(circuits.part, "kinds_table"),
    "circuit_methods": partial(circuits.part, "methods_table"),
    "speed_machine": speed.machine,
    "speed_sweeps": partial(speed.part, "sweeps"),
    "speed_road": partial(speed.part, "road"),
    "speed_growth": partial(speed.part, "growth"),
    "speed_ways": partial(speed.part, "ways"),
    "speed_edges": partial(speed.part, "edges"),
    "speed_versions": speed.versions,
    "speed_accelerator": speed.accelerator,
}


def write(folder: Path) -> None:
    """Put the generated parts into the pages that ask for them.

    Raises:
        KeyError: a page asks for a part that does not exist
    """
    for path in sorted(folder.rglob("*.md")):
        text = path.read_text()
        if MARK.search(text):
            path.write_text(MARK.sub(lambda match: GENERATED[match[1]](), text))
