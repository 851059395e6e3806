"""CSV files as spreadsheets, scripts and accidents write them."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from torture.outcome import Case

import vlmtrace as vt
from vlmtrace.tasks.building.row_audit import NAMED_BY_ROW
from vlmtrace.tasks.building.sampling import TEXT

HEADER = ["clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer", "category"]

#: What may stand in a cell in place of what belongs there.
CELLS = (
    "", " ", "nan", "None", "NA", "red", "Red", "'red'", '"red"', "a,b", "a\nb", "=1+1", "1e3", "\ud800", "\x00", "🙂",
    "../images/0.png", "images\\0.png", "images%2F0.png", "/etc/passwd", "/dev/zero", "missing.png", "images", "0",
    "<script>alert(1)</script>", "$x$", "这是红色还是蓝色？", "a" * 3000,
)  # fmt: skip


class CsvCases:
    """Cases about `vt.prepare_pairs("csv")` on CSVs that were damaged.

    Args:
        folder: where to write them; images lie below it
        colors: words for which images/<word>-0.png and images/<word>-1.png are there
    """

    kind = "csv"

    def __init__(self, folder: Path, colors: list[str]):
        self.folder, self.colors = folder, colors
        self.number = itertools.count()

    def cases(self) -> st.SearchStrategy[Case]:
        """Draw a case."""
        return st.composite(self._case)()

    def _records(self) -> list[list[str]]:
        words = self.colors
        return [
            [f"images/{a}-{i}.png", f"images/{b}-{i}.png", f"is this circle {a} or {b}?", a, b, "color"]
            for i in range(2)
            for a, b in zip(words, words[1:] + words[:1], strict=True)
        ]

    def _case(self, draw: Any) -> Case:
        rows, header, said = self._records(), list(HEADER), []
        intended = [list(row) for row in rows]
        for _ in range(draw(st.integers(0, 2))):
            i, j = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, len(header) - 1))
            cell = draw(st.one_of(st.sampled_from(CELLS), st.text(max_size=20)))
            rows[i][j] = cell
            intended[i] = []  # whatever becomes of it, it is none of the others
            said.append(f"{header[j]} of row {i + 2} is {cell!r:.40}")
        form = draw(st.sampled_from(FORMS))
        delimiter, encoding, end = ",", "utf-8", "\n"
        if form in ("semicolons", "tabs"):
            delimiter = {"semicolons": ";", "tabs": "\t"}[form]
        elif form in ("utf-8-sig", "utf-16", "cp1252"):
            encoding = form
        elif form in ("CR", "CRLF"):
            end = {"CR": "\r", "CRLF": "\r\n"}[form]
        header, rows = _reformed(form, header, rows)
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=delimiter, lineterminator=end)
        writer.writerow(header)
        writer.writerows(rows)
        text = stream.getvalue()
        if form == "blank lines":
            text = text.replace(end, end * 2)
        elif form == "a comment":
            text = "# made by me" + end + text
        elif form == "Excel's sep":
            text = "sep=," + end + text
        content = text.encode(encoding, "surrogatepass" if encoding == "utf-8" else "replace")
        damage = draw(st.sampled_from(("none", "none", "cut", "byte", "empty", "zip", "repeated")))
        content = _damaged(draw, content, damage)
        said.append(f"{form}, damage: {damage}")
        path = self.folder / f"{next(self.number)}.csv"

        def act() -> Any:
            path.write_bytes(content)
            try:
                return vt.prepare_pairs("csv", n=50, root=path)
            finally:
                path.unlink()

        exact = damage == "none" and form not in ("ragged", "without quotes", "cp1252", "utf-16")
        fine = len(said) == 1 and damage == "none" and form in BEYOND_DOUBT
        return Case(f"a CSV: {'; '.join(said)}", act, lambda made: self._wrong(made, intended, exact), fine)

    def _wrong(self, made: Any, intended: list[list[str]], exact: bool) -> str | None:
        filters, pairs, aside = made.filters, made.pairs, made.set_aside
        if (filters["rows_in"] != filters["rows_used"] + filters["rows_set_aside"]).any():
            return "rows in are not rows used and rows set aside"
        # What the last filter sets aside are corrupt prompts: their pairs stay, as pairs of images alone.
        of_pairs, of_prompts = filters[filters["step"] != TEXT], filters[filters["step"] == TEXT]
        if filters["rows_set_aside"].sum() != len(aside) or of_pairs["rows_used"].iloc[-1] != len(pairs):
            return "the filters do not count what they name"
        alone = int((pairs["clean_prompt"] == pairs["corrupt_prompt"]).sum())
        if (of_prompts["rows_in"] != len(pairs)).any() or of_prompts["rows_set_aside"].sum() > alone:
            return "the filter of corrupt prompts does not count what it names"
        for pair in pairs.to_dict("records"):
            if not Path(pair["clean_image"]).is_file() and not (vt_root() / pair["clean_image"]).is_file():
                return f"its image {pair['clean_image']} is not there"
        if exact:
            came = filters.loc[filters["step"] != NAMED_BY_ROW, "rows_in"].iloc[0]
            if came != len(intended):
                return f"{came} rows came in, but the file has {len(intended)}"
            found = {self._key(pair) for pair in pairs.to_dict("records")}
            for row in intended:
                if row and tuple([Path(row[0]).name, Path(row[1]).name, *row[2:]]) not in found:
                    return f"the row {row} is intact, but no pair was made of it (set aside: {set(aside['reason'])})"
        return None

    def _key(self, pair: dict[str, Any]) -> tuple[str, ...]:
        images = [Path(pair[name]).name for name in HEADER[:2]]
        return (*images, *(pair[name] for name in HEADER[2:]))


#: How a file may be written.
FORMS = (
    "plain", "plain", "semicolons", "tabs", "utf-8-sig", "utf-16", "cp1252", "CR", "CRLF", "trailing comma",
    "blank lines", "a comment", "Excel's sep", "an index", "capital header", "header with blanks", "a column twice",
    "a column less", "ragged", "without quotes", "blanks around",
)  # fmt: skip

#: Forms that leave no doubt about what is meant.
BEYOND_DOUBT = ("plain", "utf-8-sig", "CR", "CRLF", "trailing comma", "blank lines", "an index", "blanks around")


def _reformed(form: str, header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    if form == "trailing comma":
        return header, [[*row, ""] for row in rows]
    if form == "an index":
        return ["", *header], [[str(i), *row] for i, row in enumerate(rows)]
    if form == "capital header":
        return [name.upper() for name in header], rows
    if form == "header with blanks":
        return [name.replace("_", " ") for name in header], rows
    if form == "a column twice":
        return [*header, header[2]], [[*row, row[2]] for row in rows]
    if form == "a column less":
        return header[:-3], [row[:-3] for row in rows]
    if form == "ragged":
        return header, [row[: 3 + i % 4] for i, row in enumerate(rows)]
    if form == "without quotes":
        return header, [[cell.replace(" or ", ", or ") for cell in row] for row in rows]
    if form == "blanks around":
        return header, [[f" {cell} " for cell in row] for row in rows]
    return header, rows


def _damaged(draw: Any, content: bytes, damage: str) -> bytes:
    if damage == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if damage == "byte":
        place = draw(st.integers(0, len(content)))
        return content[:place] + draw(st.binary(min_size=1, max_size=3)) + content[place:]
    return {"empty": b"", "zip": b"PK\x03\x04" + content, "repeated": content + content}.get(damage, content)


def vt_root() -> Path:
    """What relative paths in tables are relative to."""
    from vlmtrace.core.paths import ROOT

    return ROOT
