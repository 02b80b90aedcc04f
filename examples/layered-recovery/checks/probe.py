"""What a user does, as checks: log in, or go through all of it. `session` prints what the check `sessions` sends.

Usage: probe.py login|journey|session URL ENV_FILE, the last having PROBE_PASSWORD.
"""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def ask(url: str, body: Any = None, session: str = "") -> Any:
    """One request, answered 2xx."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {session}"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=5) as answer:
        return json.load(answer)


def main(what: str, url: str, env: Path) -> str:
    """:raises OSError: ValueError: KeyError: it does not work."""
    given = dict(line.split("=", 1) for line in env.read_text().splitlines() if "=" in line)
    session = ask(f"{url}/login", {"user": "probe", "password": given["PROBE_PASSWORD"]})["session"]
    if what == "session":
        return f"Bearer {session}"
    user = ask(f"{url}/api/me", session=session)["user"]
    if what == "login":
        return f"logged in as {user}"
    number = ask(f"{url}/api/order", {"net": 100}, session)["id"]
    newest = ask(f"{url}/api/orders")["orders"][0]
    if newest != {"id": number, "gross": 120}:
        raise ValueError(f"order {number} came back as {newest}")
    return f"order {number} came back"


if __name__ == "__main__":
    try:
        print(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.url} answers {error.code}")
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
