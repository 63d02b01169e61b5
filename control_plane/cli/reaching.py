"""How a command finds the broker and the store: what the user set, else the stack that runs here."""

from typing import TYPE_CHECKING

from control_plane.local.profile import attached_settings
from inferlane.runtime.config import load_settings
from inferlane.runtime.runfile import RunFile

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from inferlane.runtime.runfile import RunRecord


def reach() -> "tuple[Settings, RunRecord | None]":
    """The settings of the environment, completed by those of the stack that runs here, and that stack if one does.

    Raises:
        ConfigurationError: a value is out of its range.
    """
    settings = load_settings()
    record = RunFile(settings.state_dir).read()
    if record is None or not record.is_running:
        return settings, None
    return attached_settings(settings, record.environment), record


def reachable_settings() -> "Settings":
    """The settings alone of `reach`."""
    return reach()[0]
