"""Label values whose number is bounded, whatever clients and records say."""

from collections.abc import Collection, Iterable, Iterator

from inferlane import errors
from inferlane.contracts.outcomes import OTHER

NONE = "none"
"""Where a label has nothing to say: no error, no version chosen."""
UNKNOWN = "unknown"
"""A model or version that the catalog does not hold."""


# Of a model with more classes the rest is counted together: a series a class, a version and a worker adds up.
MAX_CLASSES = 100


class KnownPools:
    """The (model, version) pairs that may become labels."""

    def __init__(self, pools: Iterable[tuple[str, str]]) -> None:
        self._pools = frozenset(pools)
        self._models = frozenset(model for model, _ in self._pools)

    def labels(self, model: str | None, version: str | None) -> tuple[str, str]:
        """The labels of a model and version that somebody named; None is `NONE`, a strange name `UNKNOWN`."""
        if model not in self._models:
            return (UNKNOWN if model else NONE), (UNKNOWN if version else NONE)
        if version is None or (model, version) in self._pools:
            return model or NONE, version or NONE
        return model, UNKNOWN

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(sorted(self._pools))


def error_reasons(*, beside: Collection[str] = ()) -> frozenset[str]:
    """Every error code that the loaded code can give, and those named."""
    return frozenset({*_codes(errors.InferlaneError), *beside})


def bounded(value: str | None, known: Collection[str]) -> str:
    """`value` if it is known, `NONE` if it is None, else `OTHER`."""
    return NONE if value is None else value if value in known else OTHER


def class_labels(classes: Collection[str]) -> tuple[str, ...]:
    """The classes that have a series of their own, and `OTHER` for the rest and for indices that name none."""
    return (*list(classes)[:MAX_CLASSES], OTHER)


def _codes(kind: type[errors.InferlaneError]) -> Iterator[str]:
    yield kind.code
    for narrower in kind.__subclasses__():
        yield from _codes(narrower)
