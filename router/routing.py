"""Choosing a version: a pure function of the record, so that redelivery takes the same one."""

import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Protocol

import msgspec

from inferlane.contracts.record import RequestHeaders
from inferlane.contracts.splits import Served, Split, weights_in_force
from inferlane.errors import UnknownModelError
from models.catalog import Catalog, Model


class Splits(Protocol):
    """Where the split of a model is looked up."""

    def get(self, model: str, /) -> Split | None: ...


class Route(msgspec.Struct, frozen=True):
    """The version that serves a request."""

    model: str
    version: str


class ServedModels(Protocol):
    """The versions that have workers, whichever catalogue they have."""

    def get(self, model: str, /) -> Served | None: ...


def route_to_served(headers: RequestHeaders, splits: Splits, served_models: ServedModels) -> Route | None:
    """Choose among the versions that have workers, for a record that our own catalogue cannot place; None if none has.

    Replicas have different catalogues while it is being changed: what ours lacks may be served all the same.
    """
    served = served_models.get(headers.model) if headers.model else None
    if headers.model is None or served is None:
        return None
    if headers.version is not None:
        return Route(headers.model, headers.version) if headers.version in served.versions else None
    weights = weights_in_force(
        splits.get(headers.model), served=served.versions, default_version=served.default_version
    )
    return Route(headers.model, choose(headers.routing_key or headers.request_id, weights)) if weights else None


def route(headers: RequestHeaders, splits: Splits, catalog: Catalog) -> Route:
    """Choose the version: a pin wins, else the split decides by the routing key, or the request id if there is none.

    Raises:
        UnknownModelError: the catalog has no such model, or no such version of it.
        UnusableVersionError: it has, and cannot serve it.
    """
    model = catalog.model(headers.model)
    if headers.version is not None:
        return Route(model.name, model.version(headers.version).version)
    weights = weights_of(model, splits)
    if not weights:
        # Raises, with the reason.
        return Route(model.name, model.unpinned(None).version)
    return Route(model.name, choose(headers.routing_key or headers.request_id, weights))


def weights_of(model: Model, splits: Splits) -> Mapping[str, float]:
    """The weights by which requests of the model that pin no version are routed."""
    return model.weights(splits.get(model.name))


def choose(key: str, weights: Mapping[str, float]) -> str:
    """Weighted rendezvous hashing: each version draws `-ln(u) / weight` for the key, the smallest draw wins.

    Draws are exponential, so a version wins with a probability of its share of the weights; and changing a weight
    changes that version's draws only, so only keys that must move do. Source: Schindelhauer and Schomaker,
    "Weighted Distributed Hash Tables", SPAA 2005.

    Raises:
        UnknownModelError: no weight is over 0.
    """
    candidates = [(version, weight) for version, weight in weights.items() if weight > 0]
    if not candidates:
        raise UnknownModelError("no version has a weight over 0")
    if len(candidates) == 1:
        return candidates[0][0]
    raw_key = key.encode()
    # The name breaks a tie, so that the order of the weights never matters.
    return min((_draw(raw_key, version, weight), version) for version, weight in candidates)[1]


_SCALE = 2.0**-64
_MAX_SALT_BYTES = 64


def _draw(raw_key: bytes, version: str, weight: float) -> float:
    # The version is BLAKE2's salted key, so that no (key, version) pair can be spelled as another. The key has at most
    # 64 bytes; a longer name is hashed first and never cut, or two of the same head would draw alike.
    salt = version.encode()
    salt = salt if len(salt) <= _MAX_SALT_BYTES else blake2b(salt, digest_size=_MAX_SALT_BYTES).digest()
    digest = blake2b(raw_key, digest_size=8, key=salt).digest()
    uniform = (int.from_bytes(digest, "big") + 0.5) * _SCALE
    return -math.log(uniform) / weight
