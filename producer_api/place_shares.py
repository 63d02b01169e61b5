"""No model takes every place in which clients wait. Pure."""

from inferlane.errors import OverloadedError

# A model may hold this many times what is free: 4/5 of all places alone, 4/9 each beside another that is as hot. Small
# leaves places empty that one model could use, large leaves little to models that come later.
_TIMES_FREE = 4


class PlaceShares:
    """Counts the places that the calls of each model hold.

    Source: Choudhury and Hahne, Dynamic Queue Length Thresholds for Shared-Memory Packet Switches, 1998.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._held: dict[str, int] = {}
        self._taken = 0

    def take(self, model: str) -> None:
        """Let a call of the model wait; `give_back` must follow.

        Raises:
            OverloadedError: the model holds its share, or every place is taken.
        """
        held, free = self._held.get(model, 0), self._places - self._taken
        if free <= 0 or held >= _TIMES_FREE * free:
            raise OverloadedError(
                f"{held} calls of {model} wait in this process, of {self._taken} in all and {self._places} at most "
                "(INFERLANE_MAX_WAITING_REQUESTS), so that others find room; send again later, or submit with "
                "`Prefer: respond-async`"
            )
        self._held[model] = held + 1
        self._taken += 1

    def give_back(self, model: str) -> None:
        """Note that a call of the model waits no more."""
        self._held[model] -= 1
        self._taken -= 1
        if not self._held[model]:
            del self._held[model]
