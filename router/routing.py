"""Choose a version: a pure function of the record and the split, so that redelivery chooses the same one."""

import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Protocol

import msgspec

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import RequestHeaders
from inferlane.contracts.traffic_split import Served, Split, weights_in_force
from inferlane.errors import UnknownModelError
from models.catalog import Model
from models.live_catalog import AnyCatalog


class Splits(Protocol):
    """Looks up the split of a model; None if it has none."""

    def get(self, model: str, /) -> Split | None: ...


class Route(msgspec.Struct, frozen=True):
    """The version that serves a request."""

    model: str
    version: str


class ServedModels(Protocol):
    """Looks up the versions of a model that have workers, in the catalog or not; None if there are none."""

    def get(self, model: str, /) -> Served | None: ...


def route_to_served(
    headers: RequestHeaders, splits: Splits, served_models: ServedModels, lane: Lane | None = None
) -> Route | None:
    """Choose among the versions that have workers, for a record whose model the catalog lacks; None if there are none.

    While a catalog is changed, replicas have different ones: a version that this router lacks may already be served.
    """
    served = served_models.get(headers.model) if headers.model else None
    if headers.model is None or served is None:
        return None
    if headers.version is not None:
        return Route(headers.model, headers.version) if headers.version in served.versions else None
    weights = weights_in_force(
        splits.get(headers.model), served=served.versions, default_version=served.default_version, lane=lane
    )
    return Route(headers.model, choose(headers.routing_key or headers.request_id, weights)) if weights else None


def route(headers: RequestHeaders, splits: Splits, catalog: AnyCatalog, lane: Lane | None = None) -> Route:
    """Choose the version: a pinned version wins, else the split decides by the routing key, or else the request id.

    A split may have weights of its own for a lane.

    Raises:
        UnknownModelError: the catalog has no such model or version.
        UnusableVersionError: the version is in the catalog but cannot be served.
    """
    model = catalog.model(headers.model)
    if headers.version is not None:
        return Route(model.name, model.version(headers.version).version)
    weights = weights_of(model, splits, lane)
    if not weights:
        # Raises with the reason.
        return Route(model.name, model.unpinned(None).version)
    return Route(model.name, choose(headers.routing_key or headers.request_id, weights))


def deciding_split(headers: RequestHeaders, chosen: Route, splits: Splits) -> Split | None:
    """Return the split that chose the version by chance; None if there is none or the request is pinned."""
    return splits.get(chosen.model) if headers.version is None else None


def fallback_of(chosen: Route, split: Split) -> str:
    """Return the version that answers what the chosen one fails; empty if the split names no other."""
    return "" if split.fallback == chosen.version else split.fallback


def shadow_of(headers: RequestHeaders, chosen: Route, split: Split) -> str:
    """Return the version that gets a copy of the request; empty for none.

    Which requests the share is made of is decided by their ids, so that a redelivery decides alike.
    """
    if split.shadow is None or split.shadow.version == chosen.version:
        return ""
    digest = blake2b(headers.request_id.encode(), digest_size=8, person=b"shadow").digest()
    return split.shadow.version if int.from_bytes(digest, "big") * _SCALE < split.shadow.share else ""


def weights_of(model: Model, splits: Splits, lane: Lane | None = None) -> Mapping[str, float]:
    """Return the weights by which requests of the model that pin no version are routed."""
    return model.weights(splits.get(model.name), lane)


def choose(key: str, weights: Mapping[str, float]) -> str:
    """Weighted rendezvous hashing: each version draws `-ln(u) / weight` for the key, the smallest draw wins.

    The draws are exponential, so a version wins with the probability of its share of the weights. Changing a weight
    changes only that version's draws, so only the keys that must move do. Source: Schindelhauer and Schomaker,
    "Weighted Distributed Hash Tables", SPAA 2005.

    Raises:
        UnknownModelError: no weight is above 0.
    """
    candidates = [(version, weight) for version, weight in weights.items() if weight > 0]
    if not candidates:
        raise UnknownModelError("no version has a weight above 0")
    if len(candidates) == 1:
        return candidates[0][0]
    raw_key = key.encode()
    # The version name breaks a tie, so that the order of the weights does not matter.
    return min((_draw(raw_key, version, weight), version) for version, weight in candidates)[1]


_SCALE = 2.0**-64
_MAX_SALT_BYTES = 64


def _draw(raw_key: bytes, version: str, weight: float) -> float:
    # The version is BLAKE2's key, so that no two (key, version) pairs hash the same bytes. BLAKE2 keys have at most 64
    # bytes; a longer name is hashed first. Cutting it would give names with the same beginning the same draws.
    salt = version.encode()
    salt = salt if len(salt) <= _MAX_SALT_BYTES else blake2b(salt, digest_size=_MAX_SALT_BYTES).digest()
    digest = blake2b(raw_key, digest_size=8, key=salt).digest()
    uniform = (int.from_bytes(digest, "big") + 0.5) * _SCALE
    return -math.log(uniform) / weight
