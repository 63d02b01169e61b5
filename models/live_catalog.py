"""The catalogue while a process runs: the store at its start, changed by the catalogue topic.

Each change creates a new immutable `Catalog`: a request uses the same one from its start to its end.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from inferlane.contracts.catalog_entry import CatalogEntry, VersionState
from inferlane.contracts.wire.class_names import NO_NAMES, ClassNames
from inferlane.errors import ConfigurationError
from models.catalog import Catalog, Fault, Model, ModelVersion
from models.catalog_entries import version_of_entry
from models.store_reader import keep_apart

_RETIRING = "it is being retired: requests that were accepted are finished, and new ones are refused"
# Versions whose class names are remembered after they are gone: their results can still be read for a while.
_MAX_REMEMBERED = 20_000


class Entries(Protocol):
    """The entries of the topic: `inferlane.runtime.catalog_table.CatalogTable`."""

    @property
    def entries(self) -> Mapping[str, CatalogEntry]:
        """Return the newest entry of each version by its key."""

    def on_change(self, call: Callable[[], None], /) -> None:
        """Call `call` after each change."""


class LiveCatalog:
    """Reads like a `Catalog`. Used from one event loop."""

    def __init__(self, base: Catalog, table: Entries, *, serves_retiring: bool = False) -> None:
        """`serves_retiring`: retiring versions are served as before, for whoever works on what is accepted already."""
        self._base = base
        self._table = table
        self._serves_retiring = serves_retiring
        self._listeners: list[Callable[[Catalog], None]] = []
        self._class_names: dict[tuple[str, str], ClassNames] = {}
        self.current = base
        self._update()
        table.on_change(self._update)

    def on_change(self, listener: Callable[[Catalog], None]) -> None:
        """Call `listener` with each new catalogue before anybody reads it, and now."""
        self._listeners.append(listener)
        listener(self.current)

    @property
    def models(self) -> Mapping[str, Model]:
        """The models that are served now."""
        return self.current.models

    @property
    def default_model(self) -> str:
        """The model that answers a request that names none."""
        return self.current.default_model

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What cannot be served now, and why."""
        return self.current.faults

    def model(self, name: str | None = None) -> Model:
        """Return the model called `name`, or the default model.

        Raises:
            UnknownModelError: there is none now.
            UnusableVersionError: there is one, and no version of it can be served.
        """
        return self.current.model(name)

    def all_versions(self) -> tuple[ModelVersion, ...]:
        """Return every version of every model that is served now."""
        return self.current.all_versions()

    def check_serves(self, lack: str) -> None:
        """Return if there is something to serve; `lack` is what the store lacks to be served without the topic.

        Raises:
            ConfigurationError: neither the store nor the topic has a model, or has heard of the default model.
        """
        names_default = any(entry.model == self.default_model for entry in self._table.entries.values())
        if lack and not (self.models and names_default):
            raise ConfigurationError(f"{lack} The catalogue topic does not have it either.")

    def class_names(self, model: str, version: str) -> ClassNames:
        """Return what the class indices that a version answers with stand for, also of one that was served earlier."""
        return self._class_names.get((model, version), NO_NAMES)

    def _update(self) -> None:
        fresh = overlaid(self._base, self._table.entries, known=self.current, serves_retiring=self._serves_retiring)
        for listener in self._listeners:
            listener(fresh)
        for version in fresh.all_versions():
            if len(self._class_names) < _MAX_REMEMBERED:
                self._class_names[version.model, version.version] = version.class_names
        self.current = fresh


AnyCatalog = Catalog | LiveCatalog
"""What is served, at one moment or from now on."""


def overlaid(
    base: Catalog, entries: Mapping[str, CatalogEntry], *, known: Catalog | None = None, serves_retiring: bool = False
) -> Catalog:
    """Return `base` with what the entries say: of a version that both know, the entries decide. Pure.

    `known` is an earlier catalogue, whose versions are used again where they are those of the entries.
    """
    if not entries:
        return base
    by_model: dict[str, list[CatalogEntry]] = {}
    for entry in entries.values():
        by_model.setdefault(entry.model, []).append(entry)
    models = dict(base.models)
    faults: list[Fault] = []
    for name, about in by_model.items():
        made = _Overlaid(base.models.get(name), (known or base).models.get(name))
        for entry in about:
            made.apply(entry, serves_retiring=serves_retiring)
        models[name] = made.model(name, about)
        faults += [
            Fault(model=name, version=version, reason=reason)
            for version, reason in models[name].faults.items()
            if any(entry.version == version for entry in about)
        ]
        if models[name].faults and not models[name].versions:
            reasons = "; ".join(f"{version}: {reason}" for version, reason in models[name].faults.items())
            faults.append(Fault(model=name, version=None, reason=f"it has no version that can be served. {reasons}"))
    models, clashes = keep_apart(models)
    named = {(entry.model, entry.version) for entry in entries.values()}
    kept = [
        fault
        for fault in base.faults
        if (fault.model, fault.version) not in named and not (fault.version is None and fault.model in models)
    ]
    return Catalog(models=models, default_model=base.default_model, faults=(*kept, *faults, *clashes))


class _Overlaid:
    """A model while the entries of its versions are applied to it."""

    def __init__(self, base: Model | None, known: Model | None) -> None:
        self._base = base
        self._known = known
        self._versions = dict(base.versions) if base else {}
        self._faults = dict(base.faults) if base else {}

    def apply(self, entry: CatalogEntry, *, serves_retiring: bool) -> None:
        """Do what the entry says of its version."""
        of_store = self._versions.pop(entry.version, None)
        self._faults.pop(entry.version, None)
        if entry.state is VersionState.RETIRED:
            return
        if entry.state is VersionState.RETIRING and not serves_retiring:
            self._faults[entry.version] = _RETIRING
            return
        of_known = self._known.versions.get(entry.version) if self._known else None
        for made in (of_store, of_known):
            if made is not None and made.digest == entry.digest:
                self._versions[entry.version] = made
                return
        try:
            self._versions[entry.version] = version_of_entry(entry)
        except ConfigurationError as error:
            self._faults[entry.version] = str(error)

    def model(self, name: str, entries: list[CatalogEntry]) -> Model:
        """Return the model with the versions and the default version that the entries leave."""
        left = [entry for entry in entries if entry.state is not VersionState.RETIRED]
        latest = max(left, key=lambda entry: entry.default_since, default=None)
        default = latest.version if latest is not None and latest.default_since else None
        description = self._base.description if self._base else latest.description if latest else ""
        return Model(
            name=name,
            description=description,
            default_version=default or (self._base.default_version if self._base else next(iter(self._versions), "")),
            versions=dict(sorted(self._versions.items())),
            faults=self._faults,
        )
