"""`python -m vlmtrace`: see vlmtrace/pipeline.py."""

from vlmtrace.pipeline import main

main(prog_name="python -m vlmtrace")
