"""Values that are added up many at once: adding those of each small batch costs several times as much."""

from collections.abc import Callable

import numpy as np

# More would hold up the event loop when they are added.
_MOST_VALUES = 1024
_MOST_BATCHES = 64


class HeldValues:
    """Arrays that wait to be handed on as one. One thread at a time."""

    def __init__(self, hand_on: Callable[[np.ndarray], None]) -> None:
        """`hand_on` gets all held values, shape `(n,)`, when they are many, and at `release`."""
        self._hand_on = hand_on
        self._arrays: list[np.ndarray] = []
        self._values = 0

    def hold(self, values: np.ndarray) -> None:
        """Hold an array of shape `(n,)`, which must not be changed from now on."""
        self._arrays.append(values)
        self._values += len(values)
        if self._values >= _MOST_VALUES or len(self._arrays) >= _MOST_BATCHES:
            self.release()

    def release(self) -> None:
        """Hand on what is held, if anything."""
        if self._arrays:
            values = np.concatenate(self._arrays)
            self._arrays, self._values = [], 0
            self._hand_on(values)
