"""TokenContents tokens: only the stack's own are read, for as long as they are good."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.outcome_token import OutcomeTokens, TokenContents, day_of, label_digest, request_digest
from inferlane.errors import InvalidRequestError

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0
TOKENS = OutcomeTokens(["secret"])


def outcome(day: int = day_of(NOW_S)) -> TokenContents:
    return TokenContents(
        model="iris",
        version="v2",
        segment=7,
        day=day,
        request=request_digest("r"),
        label=label_digest("setosa"),
    )


def test_a_token_says_what_was_signed_and_tells_the_predicted_class_from_others() -> None:
    read = TOKENS.read(TOKENS.sign(outcome()), now_s=NOW_S, max_age_s=DAY_S)
    assert read == outcome()
    assert read.is_label("setosa")
    assert not read.is_label("virginica")


@given(st.text(max_size=200))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        TOKENS.read(text, now_s=NOW_S, max_age_s=DAY_S)


def test_a_token_that_was_changed_or_signed_by_others_is_refused() -> None:
    token = TOKENS.sign(outcome())
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[-1] ^= 1
    changed = base64.urlsafe_b64encode(bytes(raw)).decode()
    for forged in (changed, OutcomeTokens(["other"]).sign(outcome())):
        with pytest.raises(InvalidRequestError, match="not signed by this stack"):
            TOKENS.read(forged, now_s=NOW_S, max_age_s=DAY_S)


def test_after_a_change_of_secrets_older_tokens_are_read_while_the_old_secret_stays() -> None:
    both = OutcomeTokens.of("new, secret")
    assert both is not None
    assert both.read(TOKENS.sign(outcome()), now_s=NOW_S, max_age_s=DAY_S).model == "iris"
    with pytest.raises(InvalidRequestError):
        TOKENS.read(both.sign(outcome()), now_s=NOW_S, max_age_s=DAY_S)
    assert OutcomeTokens.of(" , ") is None


def test_a_token_that_is_too_old_is_refused_with_its_age() -> None:
    token = TOKENS.sign(outcome(day_of(NOW_S) - 31))
    with pytest.raises(InvalidRequestError, match="31 days old, the limit is 30"):
        TOKENS.read(token, now_s=NOW_S, max_age_s=30 * DAY_S)
