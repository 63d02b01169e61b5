"""Check that a version on disk is what its version.toml says, and that it can serve."""

from inferlane.errors import ConfigurationError
from models.catalog import ModelVersion
from workers.model_check import load_verified

# As many as a worker's first batch may have.
_ROWS = 256


def verify_version(version: ModelVersion, *, rows: int = _ROWS) -> None:
    """Do what a worker does before it serves: it is the same code. `rows` are those of its largest batch.

    Raises:
        ConfigurationError: the version could not be served; the message names the file and what was found.
    """
    try:
        load_verified(version, intra_op_num_threads=1, rows=rows)
    except ConfigurationError:
        raise
    except Exception as error:  # whatever a model does, those behind it are verified too
        raise ConfigurationError(f"{version.path}: {type(error).__name__}: {error}") from error
