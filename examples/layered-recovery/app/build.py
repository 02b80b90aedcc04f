"""The build of the platform: writes down which commit it was built from. Runs in the work tree, after each checkout."""

import json
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, check=True, capture_output=True, text=True)
    (HERE / "build.json.new").write_text(json.dumps({"commit": done.stdout.strip()}))
    (HERE / "build.json.new").replace(HERE / "build.json")


if __name__ == "__main__":
    main()
