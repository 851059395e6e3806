"""`python -m vlmtrace`: see vlmtrace/pipeline/cli.py."""

from vlmtrace.pipeline.cli import main

if __name__ == "__main__":
    main(prog_name="python -m vlmtrace")
