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


async def test_lookups_that_do_not_end_have_a_bound_and_leave_room_for_names_that_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards the bound: a lookup outlives its call, and without a thread left each callback became a dead letter."""
    answers = threading.Event()

    def look_up(host: str, port: int, **_: Any) -> Any:
        assert host == "known.example" or answers.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = NameResolver()
    await resolver.resolve("known.example", 80)
    waiting = [asyncio.create_task(resolver.resolve(f"slow{number}.example", 80)) for number in range(1_000)]
    refused = [task for task in waiting if (await asyncio.wait({task}, timeout=0))[0]]
    assert len(await resolver.resolve("known.example", 80)) == 1
    assert [len(waiting) - len(refused), {type(task.exception()) for task in refused}] == [768, {OSError}]
    answers.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    # What has ended leaves its room to others.
    assert len(await resolver.resolve("new.example", 80)) == 1


async def test_a_name_for_which_no_thread_is_left_is_an_error_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OSError, match="no thread is left"):
        await NameResolver().resolve("name.example", 80)
