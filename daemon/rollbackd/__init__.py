"""rollbackd: takes a sick service back to its last good state, checks that it got well, and tells people."""

__version__ = "0.1.0"
