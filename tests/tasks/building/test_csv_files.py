"""CSVs as spreadsheets and scripts write them: read as they are meant, or one sentence or reason."""

import csv
import io
import time

import pytest

import vlmtrace as vt
from vlmtrace.tasks.building.csv_files import find_csv, read_csv

HEADER = ["image", "prompt", "answer"]
ROWS = [["a.png", "red, or blue?", "red"], ["b.png", 'a "b"?', "NA"], ["c.png", "two\nlines", "nan"]]


def text(delimiter=",", rows=ROWS, header=HEADER, end="\n"):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
    writer.writerows([header, *rows])
    return file.getvalue()


def write(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


RIGHT = {
    "plain": text(),
    "BOM": text().encode("utf-8-sig"),
    "CRLF": text(end="\r\n"),
    "CR": text(rows=ROWS[:2], end="\r"),
    "semicolon": text(";"),
    "tab": text("\t"),
    "bar": text("|"),
    "UTF-16": text().encode("utf-16"),
    "UTF-16 BE": b"\xfe\xff" + text("\t").encode("utf-16-be"),
    "sep=": "sep=;\r\n" + text(";", end="\r\n"),
    "comment": "# made by me, on a Monday\n" + text(),
    "title": "My pairs,,\n\n" + text(),
    "capitals": text(header=["IMAGE", "Prompt ", " answer"]),
    "trailing comma": text(header=[*HEADER, ""], rows=[[*row, ""] for row in ROWS]),
    "trailing comma in rows": text(rows=[[*row, ""] for row in ROWS]),
    "last line without end": text().removesuffix("\n"),
}


@pytest.mark.parametrize("content", RIGHT.values(), ids=RIGHT)
def test_what_is_beyond_doubt_is_read_as_it_is_meant(tmp_path, content):
    read = read_csv(write(tmp_path, content), HEADER)
    n = len(read.table)
    assert read.table[HEADER].values.tolist() == ROWS[:n] and n >= 2
    assert list(read.table) == HEADER and read.faults == [None] * n


def test_names_of_columns_with_blanks(tmp_path):
    read = read_csv(write(tmp_path, "Clean Image,my note\na,b\n"), ["clean_image"])
    assert list(read.table) == ["clean_image", "my note"], "only columns that are known are renamed"


def test_rows_have_the_numbers_of_a_spreadsheet(tmp_path):
    assert read_csv(write(tmp_path, text()), HEADER).rows == ["row 2", "row 3", "row 4"]
    assert read_csv(write(tmp_path, "image,prompt,answer\n\na,b,c\n\n\nd,e,f\n"), HEADER).rows == ["row 3", "row 6"]
    assert read_csv(write(tmp_path, "# by me\n" + text()), HEADER).rows[0] == "row 3"
    assert read_csv(write(tmp_path, "sep=,\n" + text()), HEADER).rows[0] == "row 2", "Excel hides its own line"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("a.png,red, or blue?,red", "it has 4 cells, more than there are columns: put quotes around"),
        ("a.png,red or blue?,red,,,", None),
        ("a.png,red or blue?", None),
        ("a.png,red\0blue?,red", "it holds a NUL character"),
    ],
)
def test_a_row_that_is_not_what_it_is_meant_to_be_has_a_reason(tmp_path, line, fault):
    read = read_csv(write(tmp_path, f"image,prompt,answer\n{line}\nb.png,x,y\n"), HEADER)
    assert len(read.table) == 2 and read.faults[1] is None
    assert (read.faults[0] or "").startswith(fault or "") and bool(read.faults[0]) == bool(fault), read.faults


def test_cells_under_no_column_do_not_shift_the_others(tmp_path):
    """A trailing comma in header and rows, and one row with a comma too many: as many cells as the header has."""
    read = read_csv(write(tmp_path, "image,prompt,answer,\na,red, or blue?,red\nb,x,y,\n"), HEADER)
    assert read.faults[0].startswith("it has 4 cells") and read.faults[1] is None


def test_a_column_without_a_name_is_kept(tmp_path):
    read = read_csv(write(tmp_path, ",image,prompt,answer\n0,a,b,c\n1,d,e,f\n"), HEADER)
    assert read.table["Unnamed: 0"].tolist() == ["0", "1"] and read.table["image"].tolist() == ["a", "d"]
    twice = read_csv(write(tmp_path, ",Unnamed: 0,image,prompt,answer\n7,0,a,b,c\n"), HEADER).table
    assert twice["Unnamed: 0"].tolist() == ["0"] and "7" in twice.loc[0].tolist(), "no column is lost to another"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("image,prompt,answer,image\na,b,c,d\n", "has the column 'image' more than once: rename or delete"),
        ("image,Prompt,prompt,answer\na,b,c,d\n", "has the column 'Prompt' more than once"),
        ("image,prompt,answer,x,x\na,b,c,d,e\n", "has the column 'x' more than once"),
        ("image,promt,answer\na,b,c\n", "has no column 'prompt': rename 'promt'"),
        ("", "has no column 'image'"),
        (text(rows=[["café", "b", "c"]]).encode("cp1252"), "byte 0xe9 in line 2 is no UTF-8.*save it as UTF-8"),
        (b"\xff\xfe\x00broken", "is not a readable CSV"),
        ('image,prompt,answer\na,"b,c\nd,e,f\n', "row 2: a quote is never closed"),
        ('image,prompt,answer\na,b,c\nd,"is it "red"?",f\n', "row 3: .*put quotes around the whole cell"),
        (b"PK\x03\x04" + bytes(300), "is an Excel workbook or another archive: save the sheet as CSV"),
        (b"\x1f\x8b" + bytes(300), "is compressed: unpack it first"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (",".join([*HEADER, *(f"c{i}" for i in range(20_000))]), "has 20,003 columns, more than 5,000"),
        ("image,prompt,answer\na,b," + "c" * 200_000, "row 2: .*a cell is too long"),
    ],
)
def test_what_is_in_doubt_is_one_sentence(tmp_path, content, sentence):
    with pytest.raises(vt.VlmtraceError, match=sentence):
        read_csv(write(tmp_path, content), HEADER)


def test_a_line_without_end_is_refused_at_once(tmp_path):
    path = write(tmp_path, "image,prompt,answer," + "a," * 1_000_000)
    start = time.process_time()
    with pytest.raises(vt.VlmtraceError, match="has a line of more than 1,000,000 characters"):
        read_csv(path, HEADER)
    assert time.process_time() - start < 1


def test_the_table_of_a_folder_is_found_by_its_columns(tmp_path):
    write(tmp_path, "x,y\n1,2\n", "other.csv")
    write(tmp_path, "lock", ".~lock.t.csv#")
    write(tmp_path, "lock", "~$t.csv")
    with pytest.raises(vt.VlmtraceError, match=r"holds no CSV with the columns image.*: The CSV other.csv"):
        find_csv(tmp_path, HEADER, "csv")
    path = write(tmp_path, text("\t", header=["Image", "prompt", "answer"]), "t.TSV")
    assert find_csv(tmp_path, HEADER, "csv") == path
    write(tmp_path, text(";"), "second.csv")
    with pytest.raises(vt.VlmtraceError, match=r"holds several tables for csv \(second.csv, t.TSV\): name the one"):
        find_csv(tmp_path, HEADER, "csv")


def test_of_two_names_of_one_column_the_better_one_counts(tmp_path):
    path = write(tmp_path, "image_id,file_name,question\n7,a.png,why\n")
    names = {"file_name": "image", "image_id": "image", "question": "prompt"}
    assert read_csv(path, ["image", "prompt"], names=names).table.values.tolist() == [["a.png", "why"]]


def test_a_page_of_the_web_is_no_table(tmp_path):
    with pytest.raises(vt.VlmtraceError, match="is a page of the web, and not the file that it speaks of"):
        read_csv(write(tmp_path, "\n<!doctype HTML><html>..."), HEADER)
