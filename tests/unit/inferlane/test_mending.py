"""What mends an error: every class that the clients of Kafka and the store can raise is in the table by name."""

import inspect
from types import ModuleType

import aiokafka.errors
import pytest
import redis.exceptions

from inferlane.runtime.error_remedies import MEND_OF, Mend, mend_of


def classes_of(module: ModuleType) -> list[type[BaseException]]:
    found = [kind for _, kind in inspect.getmembers(module, inspect.isclass)]
    return [kind for kind in found if issubclass(kind, Exception) and kind.__module__ == module.__name__]


@pytest.mark.parametrize("module", [aiokafka.errors, redis.exceptions], ids=lambda module: module.__name__)
def test_no_error_class_of_a_client_is_unclassified(module: ModuleType) -> None:
    """A new version of a client that brings a class fails here, until somebody has said what mends it."""
    known = classes_of(module)
    assert len(known) > 20
    assert [kind.__name__ for kind in known if kind not in MEND_OF] == []


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (aiokafka.errors.KafkaConnectionError(), Mend.RETRY),
        (aiokafka.errors.NotEnoughReplicasError(), Mend.RETRY),
        (aiokafka.errors.NotLeaderForPartitionError(), Mend.RECONNECT),
        (aiokafka.errors.OutOfOrderSequenceNumber(), Mend.RECONNECT),
        (aiokafka.errors.MessageSizeTooLargeError(), Mend.REFUSE),
        (aiokafka.errors.UnknownTopicOrPartitionError(), Mend.REFUSE),
        (aiokafka.errors.InvalidTimestampError(), Mend.REFUSE),
        (aiokafka.errors.TopicAuthorizationFailedError(), Mend.STOP),
        (aiokafka.errors.UnsupportedVersionError(), Mend.STOP),
        (redis.exceptions.ReadOnlyError("READONLY"), Mend.RECONNECT),
        (redis.exceptions.BusyLoadingError("LOADING"), Mend.RECONNECT),
        (redis.exceptions.OutOfMemoryError("OOM"), Mend.RETRY),
        (redis.exceptions.NoPermissionError("NOPERM"), Mend.STOP),
        (redis.exceptions.AuthenticationError("WRONGPASS"), Mend.STOP),
        (redis.exceptions.MovedError("3999 127.0.0.1:6381"), Mend.STOP),
        (ConnectionResetError(), Mend.RETRY),
        (TimeoutError(), Mend.RETRY),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_errors_are_told_apart_by_what_mends_them(error: Exception, mend: Mend) -> None:
    assert mend_of(error) is mend


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("ERR user_script:3: -READONLY You can't write against a read only replica.", Mend.RECONNECT),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Mend.REFUSE),
        ("NOREPLICAS Not enough good replicas to write.", Mend.RETRY),
        ("MISCONF Errors writing to the AOF file", Mend.RETRY),
        ("ERR unknown command 'EVALSHA'", Mend.STOP),
        ("ERR upstream failure", Mend.RETRY),
    ],
)
def test_an_answer_of_the_store_without_a_class_is_told_by_its_code(text: str, mend: Mend) -> None:
    assert mend_of(redis.exceptions.ResponseError(text)) is mend


def test_a_class_that_a_later_client_adds_is_treated_as_its_parent() -> None:
    class NewerError(aiokafka.errors.SaslAuthenticationFailed):  # type: ignore[misc]  # aiokafka has no types
        pass

    assert mend_of(NewerError()) is Mend.STOP
