"""What can be served: models, their versions and signatures, and which of them a split may send requests to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inferlane.contracts.naming import Lane
from inferlane.contracts.traffic_split import Split, weights_in_force
from inferlane.contracts.wire.class_names import NO_NAMES, ClassNames
from inferlane.contracts.wire.tensors import Signature
from inferlane.errors import (
    InvalidSplitError,
    UnknownModelError,
    UnusableVersionError,
    quoted,
)
from models.described_classes import label_of, names_of_outputs
from models.execution import ON_CPU, Execution
from models.steps.declared_steps import Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version that a pool of workers can serve."""

    model: str
    version: str
    path: Path
    signature: Signature
    # What a row may be, in the order of the indices; and the names that outputs declare for themselves.
    classes: tuple[str, ...]
    digest: str
    size_bytes: int
    quantization: str
    declared_classes: ClassNames = field(default_factory=dict)
    # A run takes a single row, because the answer to a row would depend on the rows beside it.
    rows_alone: bool = False
    execution: Execution = ON_CPU
    # What runs before and after the graph, whose own signature it has; and the files beside the model.
    steps: Steps | None = None
    files: tuple[str, ...] = ()
    metrics: Mapping[str, float | str] = field(default_factory=dict)
    quantized: Mapping[str, float | str] = field(default_factory=dict)
    # The class names of each output that has some, and the output that says the class of each row.
    class_names: ClassNames = field(init=False)
    label_output: str | None = field(init=False)

    def __post_init__(self) -> None:
        """Find out once which output has which names: each answer asks for them."""
        outputs = self.signature.outputs
        names = names_of_outputs(outputs, self.declared_classes, self.classes)
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "label_output", label_of(outputs, names))

    @property
    def graph(self) -> Signature:
        """The signature of the graph itself; without steps it is that of the version."""
        return self.signature if self.steps is None else self.steps.graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a version, or with no version a whole model, is not served."""

    model: str
    version: str | None
    reason: str

    def __str__(self) -> str:
        """`iris v2: …`, for a person."""
        return f"{self.model}{f' {self.version}' if self.version else ''}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model and the versions of it that can be served, by name; `faults` has the reasons of the others."""

    name: str
    description: str
    default_version: str
    versions: Mapping[str, ModelVersion]
    faults: Mapping[str, str] = field(default_factory=dict)

    def version(self, name: str) -> ModelVersion:
        """Return the version called `name`.

        Raises:
            UnknownModelError: there is none.
            UnusableVersionError: there is one, and it cannot be served.
        """
        try:
            return self.versions[name]
        except KeyError:
            pass
        if name in self.faults:
            raise UnusableVersionError(
                f"version {name!r} of model {self.name!r} cannot be served: {self.faults[name]}. "
                f"These are served: {', '.join(self.versions)}"
            )
        known = ", ".join(self.versions)
        raise UnknownModelError(f"model {self.name!r} has no version {quoted(name)}; it has: {known}")

    def weights(self, split: Split | None, lane: Lane | None = None) -> Mapping[str, float]:
        """The weights by which requests that pin no version are routed (`contracts.traffic_split.weights_in_force`)."""
        return weights_in_force(split, served=self.versions, default_version=self.default_version, lane=lane)

    def check_together(self, split: Split) -> None:
        """Return if there are requests that every version with traffic takes, and the fallback.

        Raises:
            InvalidSplitError: there are none, so a part of the unpinned requests would always fail.
        """
        first, *others = self.weights(split)
        for other in (*others, split.fallback or first):
            reason = self.versions[first].signature.misfit(self.versions[other].signature)
            if reason:
                raise InvalidSplitError(
                    f"versions {first!r} and {other!r} of model {self.name!r} cannot share traffic: {reason}. Requests "
                    "that name no version would fail in one of them. Send all traffic to one, and let clients name the "
                    "other"
                )

    def unpinned(self, split: Split | None) -> ModelVersion:
        """The version that most unpinned requests go to: whose signature they are read by.

        Raises:
            UnusableVersionError: the default version cannot be served, and no split names another.
        """
        weights = self.weights(split)
        return self.version(max(weights, key=weights.__getitem__) if weights else self.default_version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Every model of the store, which one answers a request that names none, and what cannot be served."""

    models: Mapping[str, Model]
    default_model: str
    faults: tuple[Fault, ...] = ()

    def model(self, name: str | None = None) -> Model:
        """Return the model called `name`, or the default model.

        Raises:
            UnknownModelError: there is none.
            UnusableVersionError: there is one, and no version of it can be served.
        """
        wanted = name or self.default_model
        try:
            return self.models[wanted]
        except KeyError:
            pass
        if reasons := [fault.reason for fault in self.faults if (fault.model, fault.version) == (wanted, None)]:
            raise UnusableVersionError(f"model {wanted!r} cannot be served: {reasons[0]}")
        raise UnknownModelError(f"no model {quoted(wanted)}; there are: {', '.join(self.models)}")

    def on_change(self, listener: Callable[["Catalog"], None]) -> None:
        """Call `listener` now: this catalogue never changes, other than a `LiveCatalog`."""
        listener(self)

    def all_versions(self) -> tuple[ModelVersion, ...]:
        """Every version of every model that can be served, in the order of their names."""
        return tuple(version for model in self.models.values() for version in model.versions.values())

    def class_names(self, model: str, version: str) -> ClassNames:
        """What the class indices that a version answers with stand for, by output; empty if nobody says."""
        known = self.models[model].versions.get(version) if model in self.models else None
        return known.class_names if known is not None else NO_NAMES
