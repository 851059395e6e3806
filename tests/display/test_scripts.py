"""The browser's modules: put together in one script for each widget, typed, and tested without a page."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vlmtrace.core import paths
from vlmtrace.display.scripts import modules, script

PACKAGE = paths.ROOT / "vlmtrace"
SOURCES = sorted(PACKAGE.rglob("*.js"))
WIDGETS = [path for path in SOURCES if "export default" in path.read_text()]
CHECKS = sorted((paths.ROOT / "tests").rglob("*.test.js"))

#: Deno holds TypeScript's compiler, and comes as a package of Python's.
DENO = shutil.which("deno", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
needs_deno = pytest.mark.skipif(DENO is None, reason="there is no deno: pip install -c constraints.txt deno")

#: What a module declares for all to see.
DECLARED = re.compile(r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", re.MULTILINE)


def name_of(path):
    return path.relative_to(paths.ROOT).as_posix()


def deno(*arguments):
    """Run deno without a connection; what it says where it fails."""
    environment = {**os.environ, "NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1"}
    found = subprocess.run(
        [DENO, *map(str, arguments)], cwd=paths.ROOT, env=environment, capture_output=True, text=True
    )
    return "" if found.returncode == 0 else found.stdout + found.stderr


@needs_deno
@pytest.mark.medium
def test_types_are_right_in_every_module():
    assert not deno("check", "--quiet", "--no-remote", "--no-npm", "vlmtrace")


@needs_deno
@pytest.mark.medium
def test_a_wrong_type_would_be_found(tmp_path):
    """Of a name that comes from another module, and of an argument that says nothing of itself."""
    wrong = tmp_path / "wrong.js"
    numbers = (PACKAGE / "display/static/kit/numbers.js").as_uri()
    wrong.write_text(f'import {{ percent }} from "{numbers}";\npercent("1");\nexport function f(a) {{ return a; }}\n')
    said = deno("check", "--quiet", "--no-remote", "--no-npm", "--config", paths.ROOT / "deno.json", wrong)
    assert "'string' is not assignable to parameter of type 'number'" in said and "'a' implicitly has an 'any'" in said


@needs_deno
@pytest.mark.parametrize("path", CHECKS, ids=name_of)
def test_what_the_modules_reckon(path):
    assert not deno("test", "--quiet", "--no-check", "--no-remote", "--no-npm", path)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_is_small_typed_and_keeps_the_rules(path):
    text = path.read_text()
    assert text.startswith("// @ts-check\n"), "its types are checked"
    assert len(text.splitlines()) <= 210, "it has one purpose"
    assert not re.search(r"@ts-(ignore|nocheck|expect-error)|@type \{any\}|<any>", text), "nothing is left untyped"
    assert not [line for line in text.splitlines() if len(line) > 125]
    for line in re.findall(r"^(?:import|export)\b.*", text, re.MULTILINE):
        assert re.match(
            r'import \{ .* \} from "\.\.?/|export (async function|function|class|const|default \{)', line
        ), line


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_imports_from_its_own_room_or_from_the_kit(path):
    room = path.relative_to(PACKAGE).parts
    own = PACKAGE.joinpath(*room[: 2 if room[0] == "methods" else 1])
    for module in modules(path)[:-1]:
        assert module.is_relative_to(own) or module.is_relative_to(PACKAGE / "display"), name_of(module)


@pytest.mark.parametrize("path", WIDGETS, ids=name_of)
def test_a_widgets_script_is_whole(path):
    """Nothing is left to import, all that is imported is there once, and before what imports it."""
    whole = script(path)
    assert not re.search(r"^(import|export (?!default))\b", whole, re.MULTILINE)
    names = DECLARED.findall(whole)
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
    assert whole.count("export default") == 1
    order = modules(path)
    for module in order:
        needed = {(module.parent / name).resolve() for name in re.findall(r'from "(\.[^"]+)";', module.read_text())}
        assert needed <= set(order[: order.index(module)]), name_of(module)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_each_module_is_used(path):
    assert any(path in modules(widget) for widget in WIDGETS)


def test_modules_that_import_each_other_in_a_circle_are_told(tmp_path):
    (tmp_path / "a.js").write_text('import { b } from "./b.js";\nexport const a = 1;\n')
    (tmp_path / "b.js").write_text('import { a } from "./a.js";\nexport const b = 1;\n')
    with pytest.raises(ValueError, match=r"a\.js imports itself: by way of a\.js, b\.js"):
        modules(tmp_path / "a.js")


def test_a_module_that_two_import_comes_once(tmp_path):
    (tmp_path / "kit.js").write_text("export const one = 1;\n")
    (tmp_path / "left.js").write_text('import { one } from "./kit.js";\nexport async function left() { return one; }\n')
    (tmp_path / "view.js").write_text(
        'import { one } from "./kit.js";\nimport {\n  left,\n} from "./left.js";\nexport default { one, left };\n'
    )
    assert script(tmp_path / "view.js") == (
        "const one = 1;\n\nasync function left() { return one; }\n\nexport default { one, left };\n"
    )
