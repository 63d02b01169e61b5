"""The shared worker of the local stack: which small versions it serves, and the state of each."""

from pathlib import Path
from typing import TYPE_CHECKING

from control_plane.local.readiness import hosted_versions
from inferlane.errors import UnavailableError
from inferlane.runtime.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.local.probe import Target
    from control_plane.local.readiness import HostedStatus

SHARED_POOL = "worker-shared"
"""The name of its pool."""
_SERVING, _FAILED = "serving", "failed"


def label_of(target: "Target") -> str:
    """Return the name of a version in the roster and the status of the process."""
    return f"{target.model}/{target.version}"


class SharedPool:
    """Decides which versions share the process, and writes its roster file. Used from one event loop."""

    def __init__(self, state_dir: Path, *, max_model_bytes: int, workers: int) -> None:
        """A version with files of at most `max_model_bytes` shares; none if each is to have several `workers`."""
        self.roster = state_dir / "shared-worker.roster"
        self._max_model_bytes = max_model_bytes if workers == 1 else 0
        self._targets: dict[str, Target] = {}
        self._statuses: Mapping[str, HostedStatus] = {}
        # Versions that keep a pool of their own for as long as the stack runs.
        self._left: set[str] = set()

    @property
    def is_used(self) -> bool:
        """Whether any version may share the process."""
        return self._max_model_bytes > 0

    def wants(self, target: "Target") -> bool:
        """Return whether the version should share the process."""
        return target.shareable_bytes <= self._max_model_bytes and label_of(target) not in self._left

    def holds(self, target: "Target") -> bool:
        """Return whether the version shares the process."""
        return label_of(target) in self._targets

    @property
    def labels(self) -> tuple[str, ...]:
        """The versions that share the process."""
        return tuple(sorted(self._targets))

    def add(self, target: "Target") -> None:
        """Add the version to the process; call `tell` next."""
        self._targets[label_of(target)] = target

    def remove(self, target: "Target", *, for_good: bool = False) -> None:
        """Remove the version from the process; call `tell` next. `for_good`: it has a pool of its own from now on."""
        self._targets.pop(label_of(target), None)
        if for_good:
            self._left.add(label_of(target))

    def tell(self) -> None:
        """Write the roster file, which the process follows.

        Raises:
            OSError: the file cannot be written, and is unchanged.
        """
        self.roster.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.roster, "".join(f"{label}\n" for label in self.labels).encode(), mode=0o600)

    async def look(self, ops_url: str) -> bool:
        """Read the status of the versions from the process; return whether it has changed."""
        before = self._statuses
        try:
            self._statuses = await hosted_versions(ops_url)
        except UnavailableError:
            # The process starts, or is busy; the caller looks again.
            return False
        return self._statuses != before

    def serves(self, target: "Target") -> bool:
        """Return whether the process reports that it serves the version."""
        status = self._statuses.get(label_of(target))
        return status is not None and status.state == _SERVING

    def fault(self, target: "Target") -> str:
        """Return why the process cannot serve the version; empty if it can, or still tries for the first time."""
        status = self._statuses.get(label_of(target))
        return "" if status is None else status.reason

    def is_settled(self, target: "Target") -> bool:
        """Return whether the version is served, or has failed, or is gone if it was to leave."""
        status = self._statuses.get(label_of(target))
        if not self.holds(target):
            return status is None
        return status is not None and status.state in {_SERVING, _FAILED}
