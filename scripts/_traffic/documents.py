"""The JSON documents of the HTTP API, as far as the scripts read them; fields they do not know are ignored."""

from __future__ import annotations

from typing import Any

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """An RFC 9457 problem document with Inferlane's members `code` and `remedy`."""

    type: str = ""
    title: str = ""
    status: int = 0
    detail: str = ""
    code: str = ""
    remedy: str = ""


class Row(msgspec.Struct, frozen=True):
    """What a model said about one instance."""

    label: str | int | float | None = None
    probabilities: list[float] = []


class Prediction(msgspec.Struct, frozen=True):
    """The result of one request, or its state while there is none."""

    request_id: str
    status: str = ""
    model: str = ""
    version: str = ""
    predictions: list[Row] = []


class TensorSpec(msgspec.Struct, frozen=True):
    name: str = ""
    datatype: str = ""
    shape: list[Any] = []


class Version(msgspec.Struct, frozen=True):
    version: str
    inputs: list[TensorSpec] = []

    @property
    def features(self) -> int:
        """Numbers in one instance: the product of the fixed dimensions of the first input."""
        product = 1
        for size in self.inputs[0].shape if self.inputs else []:
            product *= size if isinstance(size, int) and size > 0 else 1
        return product


class Model(msgspec.Struct, frozen=True):
    name: str
    # True on the default model; some servers name the default version here instead.
    default: Any = None
    versions: list[Version] = []

    @property
    def version_names(self) -> list[str]:
        return [version.version for version in self.versions]


class Models(msgspec.Struct, frozen=True):
    models: list[Model]

    def named(self, name: str | None) -> Model | None:
        """Return the model with that name, or the default one if no name is given."""
        if name is None:
            return next((model for model in self.models if model.default is True), next(iter(self.models), None))
        return next((model for model in self.models if model.name == name), None)


class Split(msgspec.Struct, frozen=True):
    """Weights by version; the server answers them as shares that sum to 1."""

    weights: dict[str, float]
    model: str = ""


class Quantiles(msgspec.Struct, frozen=True):
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Resources(msgspec.Struct, frozen=True):
    workers: int | None = None
    cpu_cores: float | None = None
    memory_bytes: float | None = None


class VersionMetrics(msgspec.Struct, frozen=True):
    """What the outcome windows say about one version over the last `window_s` seconds."""

    version: str = ""
    window_s: float = 0
    age_s: float | None = None
    requests: int = 0
    rate_per_s: float | None = None
    error_rate: float | None = None
    outcomes: dict[str, int] = {}
    latency_ms: dict[str, Quantiles] = {}
    prediction_distribution: dict[str, float] = {}
    resources: Resources = Resources()
