"""The command line: a thin client of the daemon's socket. Heavy imports are in the commands that need them.

Exit codes: 0 yes or done, 1 no, not recovered or errors found, 2 wrong usage, 3 the daemon cannot be reached.
"""


def main() -> None:
    """The `rollbackd` program."""
    import sys

    from rollbackd.cli.commands import app

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not stop an order
    app(prog_name="rollbackd")
