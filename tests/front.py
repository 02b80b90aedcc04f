"""A real nginx in front of servers, with a door for each way in which people close theirs."""

import base64
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.authority import Authority
from tests.servers import free_port, program, wait_until

USER, PASSWORD, TOKEN, TENANT = "rollbackd", "p4ss:w0rd-of-ours", "t0ken-of-ours-0123456789", "team-a"
PAIR = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
NAME = "prometheus.internal"

_WHOLE = """
{user} daemon off; worker_processes 1; pid {path}/nginx.pid; error_log {path}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/f;
  uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
  server {{
    listen unix:{path}/page;
    location / {{ default_type application/json; return 200 '{{"ok": true, "version": "v1"}}'; }}
  }}
  {doors}
}}
"""
_DOOR = """
  server {{
    listen {listen};
    {closed}
    {places}
    location / {{ proxy_pass http://unix:{path}/page:/; }}
  }}
"""


@dataclass
class Front:
    """The doors by name, as addresses without a path."""

    urls: Mapping[str, str]
    authority: Authority
    client: tuple[Path, Path]
    process: subprocess.Popen[bytes]


def _doors(authority: Authority, password_file: Path) -> dict[str, tuple[str, str]]:
    """Of each door its scheme, and how it is closed."""
    by_number, by_name = authority.signed("server", "IP:127.0.0.1", "IP:::1"), authority.signed("named", f"DNS:{NAME}")

    def tls(signed: tuple[Path, Path]) -> str:
        return f"ssl_certificate {signed[0]}; ssl_certificate_key {signed[1]};"

    mutual = f"{tls(by_number)} ssl_client_certificate {authority.certificate}; ssl_verify_client on;"
    bearer = f'if ($http_authorization != "Bearer {TOKEN}") {{ return 401 "no entry for $http_authorization\\n"; }}'
    return {
        "plain": ("http", ""),
        "tls": ("https", tls(by_number)),
        "named": ("https", tls(by_name)),
        "mutual": ("https", mutual),
        "basic": ("http", f'auth_basic "closed"; auth_basic_user_file {password_file};'),
        "bearer": ("http", bearer),
        "tenant": ("http", f'if ($http_x_scope_orgid != "{TENANT}") {{ return 401 "no org id\\n"; }}'),
        "all": ("https", f"{mutual} {bearer}"),
    }


@contextmanager
def front(directory: Path, places: Mapping[str, str], *, host: str = "127.0.0.1") -> Iterator[Front]:
    """An nginx whose every door leads to the same places: paths, each with the URL behind it."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    authority = Authority(directory / "certificates")
    password_file = directory / "passwords"
    hashed = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], check=True, capture_output=True, text=True).stdout
    password_file.write_text(f"{USER}:{hashed}")
    behind = "".join(f"location {path}/ {{ proxy_pass {url}/; }}" for path, url in places.items())
    doors, urls = "", {}
    for name, (scheme, closed) in _doors(authority, password_file).items():
        port = free_port()
        urls[name] = f"{scheme}://{host}:{port}"
        listen = f"{host}:{port}{' ssl' if scheme == 'https' else ''}"
        doors += _DOOR.format(path=directory, listen=listen, closed=closed, places=behind)
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker could not read what is here
    (directory / "nginx.conf").write_text(_WHOLE.format(user=user, path=directory, doors=doors))
    argv = [
        program("nginx"),
        *map(str, ("-p", directory, "-c", directory / "nginx.conf", "-e", directory / "error.log")),
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def up() -> bool:
        assert process.poll() is None, (directory / "error.log").read_text() + (directory / "log").read_text()
        return (directory / "nginx.pid").exists() and bool((directory / "nginx.pid").read_text())

    try:
        wait_until(up, "nginx")
        yield Front(urls, authority, authority.signed("us"), process)
    finally:
        process.terminate()
        process.wait(timeout=10)
