"""The peers of every op, as the workload modules define them."""

from collections.abc import Sequence

from bridge.base.text import listing
from bridge.bench import workloads
from bridge.bench.peer import Peer
from bridge.core.signature import NAMESPACE
from bridge.errors import UnknownNameError


def discover(namespace: str = NAMESPACE) -> tuple[Peer, ...]:
    """Every peer of a library's ops, op by op."""
    return tuple(peer for module in workloads.modules(namespace) for peer in getattr(module, "PEERS", ()))


PEERS = discover()


def select(names: list[str], known: Sequence[Peer] = PEERS) -> list[Peer]:
    """The peers of these names; all if there are no names. UnknownNameError: one is unknown."""
    there = sorted({peer.name for peer in known})
    for name in names:
        if name not in there:
            raise UnknownNameError(f"no peer is called {name!r}; there are {listing(there, name)}")
    return [peer for peer in known if not names or peer.name in names]
