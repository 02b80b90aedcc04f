"""Restarts the shop and waits until it answers with the release of this work tree.

Usage: restart.py PORT PIDFILE. It is the `then` of the git layer: what a deploy script would do.
"""

import json
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path


def main(port: int, pidfile: Path) -> int:
    wanted = json.loads((Path(__file__).parent / "release.json").read_text())["release"]
    os.kill(int(pidfile.read_text()), signal.SIGHUP)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                running = json.load(answer)["release"]
        except OSError:
            running = "nothing"
        if running == wanted:
            print(f"the shop runs {wanted}")
            return 0
        time.sleep(0.05)
    print(f"the shop runs {running}, not {wanted}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
