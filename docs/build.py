"""Build the documentation into docs/_build/html, without a connection and without a warning.

    python docs/build.py                      notebooks from data/runs/default and data/runs/tiny-llava
    python docs/build.py --run mine           … or from another run

Notebooks that neither run has executed are executed first, on a handful of pairs, into the run `docs` (minutes). A
warning of Sphinx or a link that leads nowhere ends the build with exit status 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
BUILD = DOCS / "_build"
SOURCE, HTML = BUILD / "source", BUILD / "html"

#: Of this folder, what is no page.
NOT_PAGES = (
    "_build",
    "generators",
    "__pycache__",
    "build.py",
    "measure_costs.py",
    "draw_finding.py",
    "link_check.py",
    "play_explorer.py",
    "simulate_statistics.py",
)

# The package of this checkout is described, whether or not another one is installed.
sys.path[:0] = [str(ROOT), str(DOCS)]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from generators import api, notebooks, reference  # noqa: E402
from link_check import broken_links  # noqa: E402


def assemble(run: str, llava_run: str, runs: Path) -> None:
    """Copy the written pages and add the generated ones."""
    shutil.rmtree(BUILD, ignore_errors=True)
    shutil.copytree(DOCS, SOURCE, ignore=shutil.ignore_patterns(*NOT_PAGES))
    notebooks.write(SOURCE / "notebooks", run, llava_run, runs)
    reference.write(SOURCE)
    api.write(SOURCE / "api")


def main() -> int:
    """Assemble, build, check the links."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="default", help="the run whose executed notebooks are shown")
    parser.add_argument("--llava-run", default="tiny-llava", help="the run that notebook 08 is taken from")
    parser.add_argument("--runs", type=Path, default=ROOT / "data" / "runs", help="the folder of the runs")
    options = parser.parse_args()
    assemble(options.run, options.llava_run, options.runs)
    sphinx = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-d", str(BUILD / "doctrees")]
    sphinx += [str(SOURCE), str(HTML)]
    status = subprocess.run(sphinx, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode
    if status:
        return status
    broken = broken_links(HTML)
    for line in broken:
        print(line, file=sys.stderr)
    if broken:
        return 1
    print(f"Open {(HTML / 'index.html').relative_to(ROOT)} in a browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
