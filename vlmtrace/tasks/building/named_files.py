"""Which file a table means by a path, a name or a number: that one or a reason, never another of a like name.

`exact_file` finds what a path names. `NamedImages` also finds images that are called by less than their path:

1. the exact path, from the table's folder (or the one above it), with or without the file's ending;
2. else the one file of this whole name, in whatever folder; where the name has folders, these must be the file's, too;
3. else the one file of this number, written in digits alone or as COCO writes it (`COCO_val2014_000000000139.jpg`).

A table may name any file that its reader may open, above its own folder, too: images are only looked at.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vlmtrace.core.files import content_of
from vlmtrace.tasks.building.image_files import image_files

#: Words, by their beginning, in names of folders that hold what was made from photographs. A name without its folder
#: never means a file in one of them.
DERIVED = re.compile(
    r"(?<![a-z])(?:mask|segment|segm?(?![a-z])|thumb|preview|depth|disparity|panoptic|saliency|heatmap)"
    r"|^@eadir$"  # where a network drive keeps its thumbnails
)

#: A file's number: the whole of its name, or what follows a split as COCO and its kin write it.
NUMBERED = re.compile(r"(?:\w*?(?:train|val|test)(?:\d{4})?_)?0*(\d+)", re.IGNORECASE | re.ASCII)
NUMBER = re.compile(r"0*(\d{1,18})(?:\.0*)?", re.ASCII)

#: Folders of tables in published archives, and the folders beside them in which these keep their images.
PARTS = frozenset("questions annotations train val test".split())
IMAGE_FOLDERS = re.compile(
    r"(?:(?:train|val|test)_)?(?:images?|imgs?|photos?|pictures?|jpegimages)(?:_(?:train|val|test))?"
    r"|(?:train|val|test)\d{4}"
)


class NoFile(Exception):
    """Why no file is meant.

    Args:
        reason: for the account of set-aside rows
        ambiguous: whether several files may be meant
    """

    def __init__(self, reason: str, ambiguous: bool = False):
        super().__init__(reason)
        self.ambiguous = ambiguous


def plain_number(name: str) -> str:
    """A number as programs write it that take it for a fraction, without that fraction; any other name as it is.

    Args:
        name: what a table calls a file

    >>> plain_number("10.0"), plain_number("10"), plain_number("10.jpg")
    ('10', '10', '10.jpg')
    """
    return re.sub(r"^(\d+)\.0*$", r"\1", name, flags=re.ASCII)


def exact_file(folder: Path, name: str) -> Path | None:
    """The file that a path names.

    Args:
        folder: where relative paths start
        name: a path as tables write it: relative (`..` is followed) or absolute, with slashes or backslashes, as
            file:// address, or with %20 for a blank. A path that starts with the folder's own name is understood, too

    Returns:
        the file; None if there is none

    >>> exact_file(Path(__file__).parent, "building/named_files.py").name
    'named_files.py'
    """
    for path in _readings(folder, name):
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # too long a name, a NUL, a folder that may not be entered
            continue
    return None


def _readings(folder: Path, name: str) -> Iterator[Path]:
    """The paths that a name may be written for, as it stands first."""
    spellings = [name]
    if name.lower().startswith("file://"):
        spellings = [unquote(urlsplit(name).path)]
    if "\\" in name:
        spellings.append(name.replace("\\", "/"))
    if "%" in name:
        spellings += [unquote(one) for one in spellings]
    composed = [unicodedata.normalize(form, one) for one in spellings for form in ("NFC", "NFD")]
    for one in dict.fromkeys((*spellings, *composed)):
        path = Path(one)
        yield folder / path
        for n in range(1, min(len(path.parts), len(folder.parts))):
            if path.parts[:n] == folder.parts[-n:]:
                yield folder / Path(*path.parts[n:])


class NamedImages:
    """The images that a table names by path, file name or number.

    Args:
        folder: that of the table; images lie in it, or in folders below
        root: the folder of the data set, where it is known; what is not in the first folder may lie in this one
    """

    def __init__(self, folder: Path, root: Path | None = None):
        self.folder = folder
        self._root = None if root == folder else root
        self._known: dict[str, Path | NoFile] = {}

    @cached_property
    def _places(self) -> list[_Files]:
        """The table's folder, and that of the data set."""
        places = [_Files(self.folder, [self.folder])]
        if self._root is not None:
            places.append(_Files(self._root, [self._root]))
        elif self.folder.name.lower() in PARTS:
            places.append(_Files(self.folder.parent, _image_folders(self.folder.parent)))
        return places

    def __len__(self) -> int:
        return sum(len(files.paths) for files in self._places)

    @property
    def where(self) -> str:
        """Where images are looked for, for a sentence."""
        return " and ".join(str(folder) for files in self._places for folder in files.folders)

    def find(self, name: str) -> Path:
        """The image of this name.

        Args:
            name: a path, a file's name with or without its ending, or a number (139, 000139 or 139.0)

        Raises:
            NoFile: there is no such image, or several different ones are called so
        """
        if name not in self._known:
            try:
                self._known[name] = self._find(name.strip())
            except NoFile as reason:
                self._known[name] = reason
        found = self._known[name]
        if isinstance(found, NoFile):
            raise NoFile(str(found), found.ambiguous)
        return found

    def _find(self, name: str) -> Path:
        if re.match(r"(?:https?|ftp|s3|gs|data):", name, re.IGNORECASE):
            raise NoFile(f"{name[:80]!r} is no file of this machine: save the image, and name its file")
        plain = unicodedata.normalize("NFC", unquote(name).replace("\\", "/").removeprefix("./"))
        number = NUMBER.fullmatch(plain)
        # A number that a program has made a fraction of names the file that the number names.
        names = (plain, number[1]) if number else (plain,)
        for files in self._places:
            path = exact_file(files.base, name) if name else None
            if path is not None:
                return path
            found = [files.named(one) for one in dict.fromkeys(names)]
            found += [files.numbered(int(number[1]))] if number else []
            for candidates in found:
                if candidates:
                    return files.only(candidates, name)
        raise NoFile(f"there is no image {name!r}{self._hint(plain, number)}")

    def _hint(self, name: str, number: re.Match[str] | None) -> str:
        for files in self._places:
            last = Path(name).name
            alike = [*files.by_name.get(last, ()), *files.by_stem.get(last, ())]
            alike += files.ending.get(int(number[1]), ()) if number else ()
            if alike:
                return f" ({files.called(alike[0])} is not what this names: write that path if it is meant)"
        return ""


def _image_folders(folder: Path) -> list[Path]:
    """Folders of images in a folder that may hold much else."""
    try:
        inside = sorted(folder.iterdir())
        return [path for path in inside if IMAGE_FOLDERS.fullmatch(path.name.lower()) and path.is_dir()]
    except OSError:  # it may be closed
        return []


class _Files:
    """Images below some folders, by their names.

    Args:
        base: paths start here in sentences
        folders: where to look
    """

    def __init__(self, base: Path, folders: Sequence[Path]):
        self.base, self.folders = base, folders
        self.paths = [path for folder in folders for path in image_files(folder)]
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        self.by_stem: dict[str, list[Path]] = defaultdict(list)
        self.by_number: dict[int, list[Path]] = defaultdict(list)
        self.ending: dict[int, list[Path]] = defaultdict(list)
        for path in self.paths:
            self.by_name[_composed(path.name)].append(path)
            self.by_stem[_composed(path.stem)].append(path)
            found, last = NUMBERED.fullmatch(path.stem), re.search(r"0*(\d{1,18})$", path.stem, re.ASCII)
            if found and len(found[1]) <= 18:
                self.by_number[int(found[1])].append(path)
            elif last:
                self.ending[int(last[1])].append(path)

    @cached_property
    def _in_folder(self) -> dict[tuple[str, str], list[Path]]:
        """Files by their folder's name and their own, with and without the ending."""
        found: dict[tuple[str, str], list[Path]] = defaultdict(list)
        for path in self.paths:
            for name in (path.name, path.stem):
                found[_composed(path.parent.name), _composed(name)].append(path)
        return found

    def named(self, name: str) -> list[Path]:
        """Files whose path ends with this name, with or without the file's ending."""
        parts = Path(name).parts
        if not parts:
            return []
        if len(parts) == 1:
            found = self.by_name.get(name) or self.by_stem.get(name) or []
        else:
            both = self._in_folder.get((parts[-2], parts[-1]), [])
            found = [path for path in both if tuple(map(_composed, path.parent.parts[1 - len(parts) :])) == parts[:-1]]
        exact = [path for path in found if len(path.relative_to(self.base).parts) == len(parts)]
        return exact or [path for path in found if not self._is_derived(path, len(parts))]

    def numbered(self, number: int) -> list[Path]:
        """Files of this number."""
        return [path for path in self.by_number.get(number, []) if not self._is_derived(path, 1)]

    def _is_derived(self, path: Path, n_named: int) -> bool:
        """Whether the file lies in a folder of masks or thumbnails, those aside that the name has."""
        above = path.relative_to(self.base).parts[:-n_named]
        return any(DERIVED.search(part.lower()) for part in above)

    def only(self, candidates: Sequence[Path], name: str) -> Path:
        """The one of some files that is meant; copies of one file are one.

        Raises:
            NoFile: they are different files
        """
        first = min(candidates, key=lambda path: (len(path.parts), path))
        for other in candidates:
            if other != first and not _same(first, other):
                raise NoFile(
                    f"{name!r} may be {self.called(first)} or {self.called(other)}, which differ: write the path of "
                    "the one that is meant",
                    ambiguous=True,
                )
        return first

    def called(self, path: Path) -> str:
        """A file's path for a sentence."""
        return path.relative_to(self.base).as_posix()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _same(first: Path, second: Path) -> bool:
    return first.stat().st_size == second.stat().st_size and content_of(first) == content_of(second)
