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
    FREEZE_BROKER = "freeze the broker"
    COMPRESSED = "send compressed records"
    OVERSIZED = "send a record over the limit"
    KILLER = "send a record that kills its worker"
    VANISH = "let a crowd of clients vanish"
    ADD_PARTITIONS = "add partitions"
    DELETE_TOPIC = "delete a work topic"
    RESET_OFFSETS = "reset a pool's offsets"
    FLUSH_STORE = "empty the store"


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
    Fault.COMPRESSED: 3,
    Fault.OVERSIZED: 1,
    Fault.KILLER: 1,
    Fault.VANISH: 2,
    Fault.DELETE_TOPIC: 1,
    Fault.FLUSH_STORE: 1,
}
# What only a broker of several nodes can take, and what the embedded one does not know: more partitions, and
# a commit of somebody who is no member.
_NODE_DECK: Mapping[Fault, int] = {
    Fault.KILL_NODE: 2,
    Fault.RESTART_NODE: 1,
    Fault.FREEZE_NODE: 1,
    Fault.ADD_PARTITIONS: 1,
    Fault.RESET_OFFSETS: 1,
}
_ONE_BROKER_DECK: Mapping[Fault, int] = {Fault.FREEZE_BROKER: 1}
# What a sender may do to others without anything being killed, frozen or full.
SENDERS = frozenset({Fault.COMPRESSED, Fault.OVERSIZED, Fault.VANISH, Fault.CUT_CLIENT})


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
    # Only what senders do: nothing is killed, so that what they cost others can be read off.
    only_senders: bool = False


def schedule(seed: int, *, has_nodes: bool, only_senders: bool = False) -> Iterator[Fault]:
    """Faults without end, the same for the same seed: shuffled decks, so that each kind comes in every deck."""
    draw = random.Random(seed)
    counts = _counts(has_nodes=has_nodes)
    if only_senders:
        counts = {fault: count for fault, count in counts.items() if fault in SENDERS}
    while True:
        deck = [fault for fault, count in counts.items() for _ in range(count)]
        draw.shuffle(deck)
        yield from deck


def deck_size(*, has_nodes: bool) -> int:
    """How many faults it takes until each kind has come."""
    return sum(_counts(has_nodes=has_nodes).values())


def _counts(*, has_nodes: bool) -> Mapping[Fault, int]:
    return {**_DECK, **(_NODE_DECK if has_nodes else _ONE_BROKER_DECK)}
