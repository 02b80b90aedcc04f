"""Whether somebody who logs in stays logged in: a session is begun, refreshed, and asked whose it is.

Usage: session.py URL. Whose it is, and how it was found out, is printed; it ends with 1 where a session is not taken.
"""

import json
import sys
import urllib.request


def main(base: str) -> int:
    session = ask(f"{base}/session", {"user": "probe"})["session"]
    session = ask(f"{base}/session/refresh", {}, session)["session"]
    print(f"refreshed, and still {ask(f'{base}/session', None, session)['user']}")
    return 0


def ask(url: str, body: dict[str, str] | None, session: str = "") -> dict[str, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Authorization": f"Bearer {session}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        found: dict[str, str] = json.load(answer)
        return found


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except OSError as error:
        sys.exit(f"{error}")
