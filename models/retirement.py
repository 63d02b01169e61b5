"""Changes of versions that are in the store: a retired one is removed, another one becomes the default."""

from pathlib import Path

from inferlane.errors import ConfigurationError
from models.adding.publication import RETIRED, locked, preparation
from models.files import read_model_file, version_folders
from models.store import write_model


def remove_version(models_dir: Path, model: str, version: str) -> bool:
    """Remove a version from the store, its model with the last one, and keep its name; False if it was not there.

    It is gone by one rename: no reader sees a part of it.

    Raises:
        ConfigurationError: it is the default of a model that has others, or the store cannot be written to.
    """
    home = models_dir / model
    if not (home / version).exists():
        return False
    others = [path.name for path in version_folders(home) if path.name != version]
    if others and read_model_file(home).default_version == version:
        raise ConfigurationError(
            f"{home / 'model.toml'} says that {version} is the default version of {model}. Make another one the "
            f"default first: inferlane models default {model}/{others[0]}"
        )
    with preparation(models_dir) as scratch:
        try:
            with locked(models_dir):
                (models_dir / RETIRED / model / version).mkdir(parents=True, exist_ok=True)
                (home / version).rename(scratch / "version")
                if not version_folders(home):
                    home.rename(scratch / "model")
        except OSError as error:
            raise ConfigurationError(f"cannot remove {model} {version} from {str(models_dir)!r}: {error}") from error
    return True


def write_default(models_dir: Path, model: str, version: str) -> bool:
    """Make a version of the store the default of its model; False if the store does not have it.

    Raises:
        ConfigurationError: the store cannot be written to.
    """
    home = models_dir / model
    if not (home / version).exists():
        return False
    about = read_model_file(home)
    try:
        write_model(home, description=about.description, default_version=version, classes=about.classes)
    except OSError as error:
        raise ConfigurationError(f"cannot write {home / 'model.toml'}: {error}") from error
    return True
