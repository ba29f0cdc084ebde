"""The peers of every op, as the workload modules define them."""

from bridge.base.modules import modules_of
from bridge.bench.peer import Peer


def discover() -> tuple[Peer, ...]:
    """Every peer, op by op."""
    return tuple(peer for _, module in modules_of("bridge.bench.workloads") for peer in getattr(module, "PEERS", ()))


PEERS = discover()


def select(names: list[str]) -> list[Peer]:
    """The peers of these names; all if there are no names. ValueError: an unknown name."""
    known = sorted({peer.name for peer in PEERS})
    for name in names:
        if name not in known:
            raise ValueError(f"no peer is called {name!r}; there are {', '.join(known)}")
    return [peer for peer in PEERS if not names or peer.name in names]
