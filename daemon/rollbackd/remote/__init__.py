"""Layers on other hosts: the protocol, and the far side of adapter `remote` that serves this host's layers.

The far side serves the layers that its own configuration names, and nothing else; whoever connects chooses no program
and no path. An effect that was begun is carried to its end, also when the connection is lost meanwhile.
"""
