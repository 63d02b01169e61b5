"""`Prefer` is read as RFC 7240 writes it, and what only looks like a preference is none."""

import pytest

from producer_api.predict.call_options import Preferences, read_preferences


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (b"", Preferences()),
        (b"wait=5", Preferences(wait_s=5)),
        (b"WAIT=5", Preferences(wait_s=5)),
        (b'wait="5"', Preferences(wait_s=5)),
        (b"wait = 5; strict", Preferences(wait_s=5)),
        (b"wait=1, wait=2", Preferences(wait_s=1)),
        (b"Respond-Async", Preferences(is_async=True)),
        (b"respond-async, wait=10", Preferences(wait_s=10, is_async=True)),
        (b'note="a, b", respond-async;x="y,z"', Preferences(is_async=True)),
        (b"x-wait=0", Preferences()),
        (b"timeout-wait=0", Preferences()),
        (b"xrespond-async", Preferences()),
        (b"no-respond-async", Preferences()),
        (b'note="respond-async"', Preferences()),
        (b'note="a, wait=0, b"', Preferences()),
        (b'note="\\", wait=0, "', Preferences()),
        (b"wait=-1", Preferences()),
        (b"wait=1.5", Preferences()),
        (b"wait=12345678", Preferences()),
        (b'wait="5', Preferences()),
        (b'"' * 30_000, Preferences()),
        (b" " * 30_000 + b"x", Preferences()),
    ],
    ids=repr,
)
def test_what_a_client_prefers(header: bytes, wanted: Preferences) -> None:
    assert read_preferences(header) == wanted
