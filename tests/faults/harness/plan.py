"""How much of everything, and the order of the faults. Pure."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What is done to a running part. A kill is SIGKILL, a freeze SIGSTOP and, seconds later, SIGCONT."""

    KILL_API = "kill an API"
    KILL_ROUTER = "kill a router"
    KILL_WORKER = "kill a worker"
    FREEZE_API = "freeze an API"
    FREEZE_ROUTER = "freeze a router"
    FREEZE_WORKER = "freeze a worker"
    FREEZE_STORE = "freeze the store"
    RESTART_STORE = "kill the store"
    FILL_STORE = "fill the store to maxmemory"
    CUT_CLIENT = "cut a waiting client's connection"
    RESIZE_POOL = "grow or shrink a worker pool"
    KILL_NODE = "kill a broker node"
    RESTART_NODE = "restart a broker node"
    FREEZE_NODE = "freeze a broker node"


# How often each is in a deck: what the promise is most about comes most.
_DECK: Mapping[Fault, int] = {
    Fault.KILL_API: 3,
    Fault.KILL_ROUTER: 3,
    Fault.KILL_WORKER: 4,
    Fault.FREEZE_API: 1,
    Fault.FREEZE_ROUTER: 1,
    Fault.FREEZE_WORKER: 2,
    Fault.FREEZE_STORE: 1,
    Fault.RESTART_STORE: 2,
    Fault.FILL_STORE: 1,
    Fault.CUT_CLIENT: 2,
    Fault.RESIZE_POOL: 2,
}
_NODE_DECK: Mapping[Fault, int] = {Fault.KILL_NODE: 2, Fault.RESTART_NODE: 1, Fault.FREEZE_NODE: 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run. `faults` and `requests` are what it does at least; `minutes` makes it go on for that long.

    After `limit_minutes` it ends with what it has done by then: a machine that is slow proves less, and the report says
    how much.
    `grace_s` is how long after its deadline a request may still be without an answer, as it may become due while
    what answers it is down.
    """

    seed: int = 1
    faults: int = 24
    requests: int = 400
    minutes: float = 0.0
    limit_minutes: float = 24 * 60.0
    rate_per_s: float = 15.0
    clients: int = 12
    apis: int = 2
    routers: int = 1
    workers: int = 1
    max_workers: int = 2
    grace_s: float = 120.0
    # How long the end may take in which everything that was accepted is answered.
    drain_s: float = 300.0


def schedule(seed: int, *, has_nodes: bool) -> Iterator[Fault]:
    """Faults without end, the same for the same seed: shuffled decks, so that each kind comes in every deck."""
    draw = random.Random(seed)
    counts = {**_DECK, **(_NODE_DECK if has_nodes else {})}
    while True:
        deck = [fault for fault, count in counts.items() for _ in range(count)]
        draw.shuffle(deck)
        yield from deck


def deck_size(*, has_nodes: bool) -> int:
    """How many faults it takes until each kind has come."""
    return sum(_DECK.values()) + (sum(_NODE_DECK.values()) if has_nodes else 0)
