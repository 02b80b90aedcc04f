"""The way in over HTTP and the Unix socket. It understands, admits and answers; what is done is in `operations`."""

from rollbackd.api.application import build_app
from rollbackd.api.server import CannotListenError, Server

__all__ = ["CannotListenError", "Server", "build_app"]
