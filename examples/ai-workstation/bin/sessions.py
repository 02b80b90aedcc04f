"""Sessions of the workstation. Usage: sessions.py close | open | end.

`close` has no new ones started, `open` takes that back, `end` stops those that run. Each is harmless when repeated.
"""

import subprocess
import sys
from pathlib import Path

CLOSED = Path("/srv/workstation/closed")
LABEL = "workstation.session"


def end() -> None:
    """Stop each container that is a session; it has ten seconds to say goodbye."""
    listed = ("docker", "ps", "--quiet", f"--filter=label={LABEL}")
    running = subprocess.run(listed, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    if running:
        subprocess.run(["docker", "stop", *running], stdout=subprocess.DEVNULL, check=True, timeout=60)


def main(what: str) -> None:
    match what:
        case "close":
            CLOSED.touch()
        case "open":
            CLOSED.unlink(missing_ok=True)
        case "end":
            end()
        case _:
            sys.exit(f"{what}: not one of close, open, end")


if __name__ == "__main__":
    main(sys.argv[1])
