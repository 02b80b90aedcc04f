"""Clients of a database that commit all the while and connect again at once: `postgres_clients.py DSN MANY DIRECTORY`.

Each writes into a file of its own when a commit was acknowledged. They end with their standard input.
"""

import sys
import threading
import time
from pathlib import Path

import psycopg

_PAUSE = 0.02


def client(dsn: str, file: Path, stop: threading.Event) -> None:
    with file.open("a", buffering=1) as log:
        while not stop.is_set():
            try:
                with psycopg.connect(dsn, autocommit=True, connect_timeout=20) as connection:
                    while not stop.is_set():
                        connection.execute("INSERT INTO commits DEFAULT VALUES")
                        log.write(f"{time.monotonic()}\n")
                        time.sleep(_PAUSE)
            except psycopg.Error:
                time.sleep(_PAUSE)


def main(dsn: str, many: str, directory: str) -> None:
    stop = threading.Event()
    threads = [
        threading.Thread(target=client, args=(dsn, Path(directory) / str(number), stop)) for number in range(int(many))
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
