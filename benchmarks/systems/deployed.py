"""Inferlane's stack on a broker of choice, and the kinds of its processes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.systems.inferlane import serve_inferlane
from benchmarks.systems.running import Running
from tests.support.brokers import make_broker
from tests.support.brokers.kinds import BrokerKind

_KINDS = {"api": "API", "router": "router", "worker": "workers"}
SERVING = tuple(_KINDS.values())
"""The kinds of process that answer requests, wherever they are deployed; the others belong to the local stack."""

# As a deployment has it: tests shorten it, to see soon that a process was killed.
_SESSION_TIMEOUT_MS = 30_000


@contextmanager
def serve_on(kind: BrokerKind, case: Case, folder: Path, **settings: object) -> Iterator[Running]:
    """The stack on that broker with those settings; the embedded broker is one of the stack's own processes."""
    environment = {f"INFERLANE_{name.upper()}": str(value) for name, value in settings.items()}
    with ExitStack() as stack:
        if kind is not BrokerKind.EMBEDDED:
            broker = stack.enter_context(make_broker(kind, folder))
            environment = broker.environment(session_timeout_ms=_SESSION_TIMEOUT_MS) | environment
        yield stack.enter_context(serve_inferlane(case, environment=environment))


def by_kind(figures: Mapping[str, float]) -> Mapping[str, float]:
    """Sums of what is given by process, whose name begins with its kind: `worker-iris-v1-1` is one of the workers."""
    sums: Counter[str] = Counter()
    for process, figure in figures.items():
        sums[_KINDS.get(process.partition("-")[0], process)] += figure  # type: ignore[assignment]  # any number adds up
    return sums
