"""The console script, and `python -m nih`. It imports nothing of weight before it can answer an interrupt."""

import gc
import sys

_ALLOCATIONS = 50_000
"""New objects after which garbage is looked for. With Python's 700, an eighth of the time in which torch and transformers are
imported went into looking through what stays for good."""


def main() -> None:
    """Run the command line; an interrupt at any moment, also while it is imported, is one sentence and exit code 130."""
    gc.set_threshold(_ALLOCATIONS, 20, 50)
    try:
        from nih.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        print("interrupted; the same command resumes a run", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
