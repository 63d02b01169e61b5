"""What class indices stand for: names by output. Two outputs of one version may name other classes, or none."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

ClassNames = Mapping[str, tuple[str, ...]]
"""By output: the name of each class, in the order of its indices or of the columns of its scores."""

NO_NAMES: ClassNames = MappingProxyType({})


def named(value: Any, names: tuple[str, ...]) -> Any:
    """Return a class index, or nested lists of them, as the names; an index that no name stands for is kept."""
    if isinstance(value, list):
        return [named(one, names) for one in value]
    return names[value] if 0 <= value < len(names) else value
