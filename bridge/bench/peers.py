"""The peers of every op, which stand beside its workloads."""

from collections.abc import Sequence

from bridge.bench import workloads
from bridge.bench.peer import Peer
from bridge.core.op import NAMESPACE


def find(namespace: str = NAMESPACE) -> tuple[Peer, ...]:
    """Every peer of a library's ops, op by op."""
    return tuple(peer for module in workloads.modules(namespace) for peer in getattr(module, "PEERS", ()))


PEERS = find()


def select(names: list[str], known: Sequence[Peer] = PEERS) -> list[Peer]:
    """Peers of these names; none: all. ValueError: a name that no peer has."""
    there = sorted({peer.name for peer in known})
    for name in names:
        if name not in there:
            raise ValueError(f"no peer is called {name!r}; there are {', '.join(there) or 'none'}")
    return [peer for peer in known if not names or peer.name in names]
