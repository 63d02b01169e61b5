"""What `Expect: 100-continue` changes for the connection."""

from typing import Any


def close_unless_continued(cycle: Any) -> None:
    """Let an answer that comes before `100 Continue` end the connection.

    Nobody can know then whether the client goes on with its body or with another request. RFC 9110, section 10.1.1.
    """
    send = cycle.send

    async def send_noting(message: Any) -> None:
        if cycle.waiting_for_100_continue:
            cycle.keep_alive = False
        await send(message)

    cycle.send = send_noting
