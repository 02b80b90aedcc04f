"""Whether front and back end speak one version of their contract.

Usage: contract.py URL FILE: what the back end's health says, and the file that the front end was built with.
"""

import json
import sys
import urllib.request
from pathlib import Path


def main(url: str, file: Path) -> int:
    with urllib.request.urlopen(url, timeout=5) as answer:
        back = json.load(answer)["contract"]
    front = json.loads(file.read_text())["contract"]
    print(f"back end {back}, front end {front}")
    return 0 if back == front else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
