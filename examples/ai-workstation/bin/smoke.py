"""Whether somebody could work here: a session can begin, and the clone is whole. Usage: smoke.py HOST:PORT CLONE."""

import http.client
import subprocess
import sys


def session(address: str) -> str:
    """What stands against one, or ""."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/try")
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return f"no session can begin: {error}"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"no session can begin: {said}"


def clone(path: str) -> str:
    done = subprocess.run(
        ["git", "-C", path, "rev-list", "--objects", "--no-walk", "--quiet", "HEAD"],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    return "" if done.returncode == 0 else f"{path}: {done.stderr.strip() or 'damaged'}"


if __name__ == "__main__":
    sys.exit("; ".join(filter(None, (session(sys.argv[1]), clone(sys.argv[2])))) or 0)
