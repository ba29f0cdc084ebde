"""The peers of every op, as the workload modules define them."""

from collections.abc import Sequence

from bridge.bench import workloads
from bridge.bench.peer import Peer
from bridge.core.signature import NAMESPACE


def discover(namespace: str = NAMESPACE) -> tuple[Peer, ...]:
    """Every peer of a library's ops, op by op."""
    return tuple(peer for module in workloads.modules(namespace) for peer in getattr(module, "PEERS", ()))


PEERS = discover()


def select(names: list[str], known: Sequence[Peer] = PEERS) -> list[Peer]:
    """The peers of these names; all if there are no names. ValueError: an unknown name."""
    there = sorted({peer.name for peer in known})
    for name in names:
        if name not in there:
            raise ValueError(f"no peer is called {name!r}; there are {', '.join(there) or 'none'}")
    return [peer for peer in known if not names or peer.name in names]
