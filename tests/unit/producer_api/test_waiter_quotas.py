"""Quotas of waiting calls: a model that is slow and busy leaves slots for the others, in every order."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.errors import OverloadedError
from producer_api.predict.pending import WaiterQuotas

MODELS = ("a", "b", "c")


def fill(quotas: WaiterQuotas, model: str) -> int:
    """Take as many places as the model gets."""
    taken = 0
    while True:
        try:
            quotas.acquire(model)
        except OverloadedError:
            return taken
        taken += 1


def test_one_model_alone_gets_four_of_five_slots_and_the_next_ones_find_room() -> None:
    """Guards the share: without it a slow model holds all waiters, and nobody else is answered."""
    quotas = WaiterQuotas(10_000)
    assert fill(quotas, "a") == 8_000
    assert fill(quotas, "b") >= 1_500
    assert fill(quotas, "c") >= 300


def test_a_refusal_names_the_model_the_counts_and_the_setting() -> None:
    quotas = WaiterQuotas(10)
    fill(quotas, "a")
    with pytest.raises(OverloadedError, match=r"8 calls of a wait.*10 at most.*INFERLANE_MAX_WAITING_REQUESTS"):
        quotas.acquire("a")


@given(st.integers(1, 60), st.lists(st.tuples(st.sampled_from(MODELS), st.booleans()), max_size=300))
def test_a_model_with_nobody_waiting_is_refused_only_if_every_slot_is_taken(
    slots: int, steps: list[tuple[str, bool]]
) -> None:
    quotas = WaiterQuotas(slots)
    held: Counter[str] = Counter()
    for model, comes in steps:
        if not comes and held[model]:
            quotas.release(model)
            held[model] -= 1
            continue
        try:
            quotas.acquire(model)
        except OverloadedError:
            assert held[model] or held.total() == slots
        else:
            held[model] += 1
        assert held.total() <= slots
