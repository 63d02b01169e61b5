"""A command has the same bytes as redis-py's, and what cannot be sent is refused as by redis-py."""

from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Connection
from redis.exceptions import DataError

from inferlane.runtime.redis.connection import Failovers, _PlainConnection

ARGUMENTS = st.lists(
    st.text(max_size=20) | st.binary(max_size=20) | st.integers() | st.floats(allow_nan=False), max_size=5
)


def packed(connection: Connection, command: list[Any]) -> bytes:
    return b"".join(chain(connection.pack_command(*command)))


@given(name=st.sampled_from(["SET", "CONFIG GET", b"EVALSHA"]), arguments=ARGUMENTS)
def test_a_command_has_the_bytes_of_redis_py(name: Any, arguments: list[Any]) -> None:
    command = [name, *arguments]
    assert packed(_PlainConnection(failovers=Failovers()), command) == packed(Connection(), command)


def test_a_large_value_and_a_view_are_sent_whole() -> None:
    command = ["SET", "key", b"x" * 100_000, memoryview(b"y" * 10)]
    assert packed(_PlainConnection(failovers=Failovers()), command) == packed(Connection(), command)


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(DataError):
        _PlainConnection(failovers=Failovers()).pack_command("SET", "key", None)
