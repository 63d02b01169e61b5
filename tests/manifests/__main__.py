"""`python -m tests.manifests FILE…`: hold manifests to our rules; 1 if one breaks any."""

import sys
from pathlib import Path

from models.samples import SAMPLES
from tests.manifests.rules import faults


def main() -> int:
    versions = [(sample.name, recipe.version) for sample in SAMPLES for recipe in sample.recipes]
    default = [each for each in versions if each[0] == SAMPLES[0].name]
    found = [f"{name}: {fault}" for name in sys.argv[1:] for fault in faults(Path(name).read_text(), versions=default)]
    print("\n".join(found) or f"{len(sys.argv) - 1} files hold to our rules")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
