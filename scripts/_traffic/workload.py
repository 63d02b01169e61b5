"""What is sent: instances that fit the model, and routing keys."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRange:
    low: float
    high: float
    decimals: int


# Ranges of the sample models' training data; any other model is sent numbers between 0 and 1.
RANGES = {
    "iris": FeatureRange(low=0.1, high=8.0, decimals=1),
    "digits": FeatureRange(low=0, high=16, decimals=0),
}
UNIT_RANGE = FeatureRange(low=0.0, high=1.0, decimals=3)
# Different bodies. Fewer and a server that caches would look fast; more and `--check` sees each one seldom.
BODIES = 64


def draw_rows(model: str, *, features: int, rows: int, seed: int) -> list[list[float]]:
    """Draw instances from the model's range; the same arguments give the same rows."""
    span = RANGES.get(model, UNIT_RANGE)
    drawn = np.random.default_rng(seed).uniform(span.low, span.high, size=(rows, features))
    return [[float(number) for number in row] for row in np.round(drawn, span.decimals)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests are addressed; None leaves the choice to the server."""

    model: str
    version: str | None = None
    timeout_s: float = 10.0


class Workload:
    """Gives request `index` its body, encoded before the run so that the client's own work stays small."""

    def __init__(self, target: Target, *, features: int, rows: int, routing_keys: int, seed: int) -> None:
        self.target = target
        self._routing_keys = routing_keys
        drawn = draw_rows(target.model, features=features, rows=rows * BODIES, seed=seed)
        address: dict[str, object] = {"model": target.model, "timeout_s": target.timeout_s}
        if target.version is not None:
            address["version"] = target.version
        # Each is a whole object less its closing brace, so that a routing key can follow.
        self._openings = [
            msgspec.json.encode({"instances": drawn[first : first + rows], **address})[:-1]
            for first in range(0, rows * BODIES, rows)
        ]

    def body_number(self, index: int) -> int:
        """Return which of the `BODIES` bodies request `index` carries.

        A multiple of the number of keys would give each key the same few bodies for ever; the shift by one a round
        makes every key meet every body.
        """
        return (index + index // BODIES) % BODIES

    def routing_key(self, index: int) -> str | None:
        return f"user-{index % self._routing_keys}" if self._routing_keys else None

    def body(self, index: int) -> bytes:
        opening = self._openings[self.body_number(index)]
        key = self.routing_key(index)
        return opening + b"}" if key is None else opening + b',"routing_key":"' + key.encode() + b'"}'
