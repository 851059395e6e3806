"""`python -m vlmtrace`: see vlmtrace/pipeline.py."""

from vlmtrace.pipeline.cli import main

main(prog_name="python -m vlmtrace")
