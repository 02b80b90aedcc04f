"""A layer of any adapter on another host, or the same layer on several hosts, over OpenSSH.

The other side runs `rollbackd layer --stdio`, made for a forced command, and serves only what its own configuration
names; it saves first what its adapter destroys. Host keys are checked always. An effect goes on over there when the
connection is lost: asking again says RUNNING, DONE or NOT_STARTED, and it never happens twice.

Several hosts are one layer: it has a release when all of them have it, and a change is done when it is done on all. A
fleet that differs has no release: nothing is called good, nothing recovered, until the hosts agree again.
"""

from rollbackd_adapters.remote.layer import RemoteAdapter
from rollbackd_adapters.remote.settings import RemoteSettings

__all__ = ["RemoteAdapter", "RemoteSettings"]
