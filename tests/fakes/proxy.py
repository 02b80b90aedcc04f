"""A small strict proxy: CONNECT for what is encrypted, whole URLs for what is not, and nobody without the password."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Proxy:
    """What came, and how it answers."""

    password: str = ""
    """`user:password`; empty: everybody may."""
    refuses: str = ""
    """A status line's end, such as `403 Forbidden`, that every request is answered with."""
    hangs: bool = False
    hosts: dict[str, int] = field(default_factory=dict)
    """Names that only it knows, each with the port here that it stands for."""
    got: list[str] = field(default_factory=list)
    """Method and target of each request."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.password}@127.0.0.1:{self.port}" if self.password else f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._serve(reader, writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.rstrip().split("\r\n")
        method, target, version = lines[0].split(" ")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        self.got.append(f"{method} {target}")
        if self.hangs:
            await reader.read()
            return
        wanted = "Basic " + base64.b64encode(self.password.encode()).decode()
        if self.password and headers.pop("Proxy-Authorization", "") != wanted:
            self._answer(writer, "407 Proxy Authentication Required", "Proxy-Authenticate: Basic realm=proxy\r\n")
        elif self.refuses:
            self._answer(writer, self.refuses)
        elif method == "CONNECT":
            host, _, port = target.rpartition(":")
            there, away = await self._connected(host.strip("[]"), int(port))
            writer.write(f"{version} 200 Connection established\r\n\r\n".encode())
            await self._both(reader, writer, there, away)
        else:
            parts = urlsplit(target)
            assert parts.scheme == "http", f"a proxy is asked with a whole URL, not {target}"
            there, away = await self._connected(parts.hostname or "", parts.port or 80)
            onward = parts._replace(scheme="", netloc="").geturl() or "/"
            rest = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if not name.startswith("Proxy-"))
            away.write(f"{method} {onward} {version}\r\n{rest}\r\n".encode())
            await self._both(reader, writer, there, away)

    async def _connected(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if host in self.hosts:
            host, port = "127.0.0.1", self.hosts[host]
        return await asyncio.open_connection(host, port)

    @staticmethod
    def _answer(writer: asyncio.StreamWriter, status: str, more: str = "") -> None:
        writer.write(f"HTTP/1.1 {status}\r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())

    @staticmethod
    async def _both(
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        away: asyncio.StreamWriter,
    ) -> None:
        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while piece := await source.read(2**16):
                    sink.write(piece)
                    await sink.drain()
            sink.close()

        await asyncio.gather(carry(reader, away), carry(there, writer))


@asynccontextmanager
async def proxying(proxy: Proxy | None = None) -> AsyncIterator[Proxy]:
    """Serve it on 127.0.0.1 until the end of the block."""
    proxy = proxy or Proxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
