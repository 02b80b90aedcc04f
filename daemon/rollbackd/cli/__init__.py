"""The command line: a thin client of the daemon's socket. Heavy imports are in the commands that need them.

Exit codes: 0 yes or done, 1 no, not recovered or errors found, 2 wrong usage, 3 the daemon cannot be reached.
"""


def main() -> None:
    """The `rollbackd` program."""
    import gc
    import os
    import sys

    gc.set_threshold(100_000, 20, 20)  # of what is imported nothing is garbage

    from rollbackd.cli.commands import app

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not stop an order
    try:
        try:
            app(prog_name="rollbackd")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # whoever read it has seen enough
            where = error.filename or "what it says cannot be written"
            print(f"rollbackd: {where}: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still kept for it is tried again at the exit
        sys.exit(1)
