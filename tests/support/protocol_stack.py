"""A whole stack for clients of the Open Inference Protocol: keys, TLS, three models, two API processes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.certificates import write_certificates
from tests.support.keyed_stack import REPOSITORY, KeyedStack, running_stack
from tests.support.pair_model import write_pair


@contextmanager
def protocol_stack(folder: Path) -> Iterator[KeyedStack]:
    """Run one with the samples and a model of two inputs; its ports have TLS, by the authority in `ca.pem`."""
    models_dir = folder / "models"
    for name in ("iris", "digits"):
        shutil.copytree(REPOSITORY / ".inferlane" / "models" / name, models_dir / name)
    write_pair(models_dir)
    settings = {**write_certificates(folder), "INFERLANE_API_PROCESSES": "2"}
    with running_stack(folder, models_dir=models_dir, settings=settings) as stack:
        yield stack
