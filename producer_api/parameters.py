"""Parameters of a call's query: each counts once, or the call is refused."""

from collections import Counter
from urllib.parse import parse_qsl

from fastapi import Request

from inferlane.quoting import quoted
from producer_api.problems import InvalidParameterError


async def refuse_repeated(request: Request) -> None:
    """Return if each parameter is there once: of two, a proxy in front may have read the other one.

    Raises:
        InvalidParameterError: one is there more than once.
    """
    query = request.scope["query_string"].decode("latin-1")
    if query.count("=") < 2:  # noqa: PLR2004 - what is there once cannot be repeated
        return
    for name, count in Counter(name for name, _ in parse_qsl(query, keep_blank_values=True)).items():
        if count > 1:
            raise InvalidParameterError(
                f"the parameter {quoted(name)} is there {count} times, so nobody knows which one counts; send it once"
            )
