"""A real nginx with a configuration of its own, in the foreground, ended by its process id."""

import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollbackd.model import Release
from rollbackd.testing import BracketWorld, World, place
from rollbackd_adapters.nginx import NginxAdapter, NginxSettings
from tests.contract.worlds import script
from tests.servers import free_port, program, wait_until

CONFIG = """
daemon off;
worker_processes 1;
pid {path}/nginx.pid;
error_log {path}/error.log notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path {path}/tmp;
    proxy_temp_path {path}/tmp;
    fastcgi_temp_path {path}/tmp;
    uwsgi_temp_path {path}/tmp;
    scgi_temp_path {path}/tmp;
    map $uri $page {{ default ""; }}
    server {{
        listen 127.0.0.1:{port};
        include {path}/conf.d/*.conf;
        location / {{ return 200 "the shop"; }}
    }}
}}
"""


class Running:
    """An nginx that runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"http://127.0.0.1:{free_port()}"
        self.argv = [program("nginx"), "-p", str(path), "-c", str(path / "nginx.conf"), "-e", str(path / "error.log")]
        (path / "conf.d").mkdir(parents=True)
        (path / "tmp").mkdir()
        (path / "nginx.conf").write_text(CONFIG.format(path=path, port=self.url.rpartition(":")[2]))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: self.body() is not None, "nginx answers")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=10)

    def call(self, *arguments: str) -> None:
        subprocess.run([*self.argv, *arguments], check=True, capture_output=True)

    def reload(self) -> None:
        """As a person does, to the end: for a tenth of a second old workers take connections beside the new ones."""
        log = self.path / "error.log"
        ended = log.read_text().count("gracefully shutting down")
        self.call("-s", "reload")
        wait_until(lambda: log.read_text().count("gracefully shutting down") > ended, "the old worker ends")

    def body(self, path: str = "/") -> str | None:
        """What it answers, whatever the status; None when nothing does."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=2) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()
        except OSError:
            return None

    def reloads(self) -> int:
        return (self.path / "error.log").read_text().count("(SIGHUP) received")

    def settings(self, **more: Any) -> dict[str, Any]:
        own = {"test": [*self.argv, "-t"], "reload": [*self.argv, "-s", "reload"], "pid": self.path / "nginx.pid"}
        return {"adapter": "nginx", "timeout": "10s", **own, **more}


@contextmanager
def running(path: Path) -> Iterator[Running]:
    """From its start to its end."""
    nginx = Running(path)
    try:
        yield nginx
    finally:
        nginx.stop()


class PageWorld(BracketWorld):
    """A maintenance page before everything else."""

    def __init__(self, nginx: Running, *, confirm: bool = False) -> None:
        self.nginx = nginx
        self.file = nginx.path / "maintenance.conf"
        self.file.write_text('if ($page = "") { return 503 "back soon"; }\n')
        self.link = nginx.path / "conf.d" / "00-maintenance.conf"
        self._more: dict[str, Any] = {"maintenance": self.file, "link": self.link}
        if confirm:
            self._more |= {"confirm": {"url": nginx.url}, "page": "back soon"}
        if nginx.process is None:
            nginx.start()

    def adapter(self, **more: Any) -> NginxAdapter:
        settings = self.nginx.settings(**self._more | more)
        return NginxAdapter(NginxSettings.model_validate(settings), place(self.nginx.path))

    def inside(self) -> bool:
        body = self.nginx.body()
        assert body in {"back soon", "the shop"}
        assert (body == "back soon") is self.link.is_symlink()
        return body == "back soon"

    def crossings(self) -> int:
        return self.nginx.reloads()


class ColourWorld(World):
    """Traffic that goes to blue, green or grey; it is at green."""

    def __init__(self, nginx: Running, *, confirm: bool = False, **more: Any) -> None:
        self.nginx = nginx
        self.choices = {name: nginx.path / "upstreams" / f"{name}.conf" for name in ("blue", "green", "grey")}
        for name, path in self.choices.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(f'location = /colour {{ return 200 "{name} serves"; }}\n')
        self.link = nginx.path / "conf.d" / "checkout.conf"
        self.link.symlink_to(self.choices["green"])
        self._upstream: dict[str, Any] = {"link": self.link, "choices": self.choices, **more}
        self._more: dict[str, Any] = {}
        if confirm:
            self._more = {"confirm": {"url": f"{nginx.url}/colour"}}
            self._upstream["says"] = {name: f"{name} serves" for name in self.choices}
        if nginx.process is None:
            nginx.start()

    def adapter(self) -> NginxAdapter:
        settings = self.nginx.settings(upstream=self._upstream) | self._more
        return NginxAdapter(NginxSettings.model_validate(settings), place(self.nginx.path))

    def present(self) -> str:
        """What serves, which is what the link says."""
        colour = (self.nginx.body("/colour") or "nobody").split()[0]
        assert self.link.readlink() == self.choices[colour]
        return colour

    def target(self) -> Release:
        return Release("blue")

    def moved_by_somebody(self) -> None:
        self.link.unlink()
        self.link.symlink_to(self.choices["grey"])
        self.nginx.reload()

    def everything(self) -> object:
        return self.present(), self.nginx.reloads(), sorted(path.name for path in self.nginx.path.rglob("*"))

    def break_it(self) -> None:
        (self.nginx.path / "conf.d" / "broken.conf").write_text("nonsense;\n")

    def hang(self) -> None:
        self._more |= {"test": [script(self.nginx.path / "hangs", "sleep 1000")], "timeout": "500ms"}
