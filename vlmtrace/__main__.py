"""`python -m vlmtrace`: see vlmtrace/pipeline/cli.py."""

import sys

if __name__ == "__main__":
    try:
        from vlmtrace.pipeline.cli import main
    except KeyboardInterrupt:
        sys.exit("Error: interrupted before anything started.")
    main(prog_name="python -m vlmtrace")
