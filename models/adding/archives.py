"""Archives of models, looked at before a library opens them."""

import zipfile
from pathlib import Path

from inferlane.errors import ConfigurationError

# Weights hardly get smaller by compression; zeros do, and a small archive may hold as many as it likes.
_LARGEST_RATIO, _ALWAYS_BYTES = 20, 256 * 1024 * 1024
_MIB = 1024 * 1024


def check_archive(path: Path) -> None:
    """Return if the file is no zip archive, or one whose content has a size that a model may have.

    Raises:
        ConfigurationError: its content would fill the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # A reader reads no more of an entry than it says here.
            unpacked_bytes = sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        return
    packed_bytes = path.stat().st_size
    if unpacked_bytes > max(_ALWAYS_BYTES, _LARGEST_RATIO * packed_bytes):
        raise ConfigurationError(
            f"{path} has {packed_bytes / _MIB:,.1f} MiB and its content {unpacked_bytes / _MIB:,.0f}, more than "
            f"{_LARGEST_RATIO} times as much, which no model has. If it is one, save it without compression"
        )
