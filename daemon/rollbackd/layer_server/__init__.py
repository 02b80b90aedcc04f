"""Serves this host's layers to an ops host, over standard input and output: the far side of adapter `remote`.

It serves the layers that its own configuration names, and nothing else; whoever connects chooses no program and no
path. An effect that was begun is carried to its end, also when the connection is lost meanwhile.
"""

from rollbackd.layer_server.serve import LayerServer, converse, serve_stdio
from rollbackd.layer_server.settings import Served, ServedErrors, load

__all__ = ["LayerServer", "Served", "ServedErrors", "converse", "load", "serve_stdio"]
