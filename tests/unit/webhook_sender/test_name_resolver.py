"""Names are looked up beside each other: one whose name server does not answer holds up no other."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from webhook_sender.name_resolver import NameResolver

SLOW = 200


async def test_names_that_are_not_answered_hold_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `NameResolver`: the threads of the event loop's pool were all waiting for such names."""
    answers = threading.Event()
    real = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **options: Any) -> Any:
        if host.startswith("slow"):
            assert answers.wait(60)
            host = "127.0.0.1"
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = NameResolver()
    waiting = [asyncio.create_task(resolver.resolve(f"slow{number}.example", 80)) for number in range(SLOW)]
    await asyncio.sleep(0)
    (found,) = await resolver.resolve("127.0.0.1", 443)
    assert (found["host"], found["port"]) == ("127.0.0.1", 443)
    assert not any(task.done() for task in waiting)
    answers.set()
    assert {one["hostname"] for found in await asyncio.gather(*waiting) for one in found} == {
        f"slow{number}.example" for number in range(SLOW)
    }


@pytest.mark.parametrize(("name", "error"), [("name.invalid", OSError), ("a" * 64 + ".example", UnicodeError)])
async def test_a_name_without_an_address_is_an_error(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await NameResolver().resolve(name, 80)
