"""What mends an error: every class that the clients of Kafka and the store can raise is in the table by name."""

import inspect
from types import ModuleType

import aiokafka.errors
import pytest
import redis.exceptions

from inferlane.runtime.error_remedies import REMEDY_OF, Remedy, remedy_of


def classes_of(module: ModuleType) -> list[type[BaseException]]:
    found = [kind for _, kind in inspect.getmembers(module, inspect.isclass)]
    return [kind for kind in found if issubclass(kind, Exception) and kind.__module__ == module.__name__]


@pytest.mark.parametrize("module", [aiokafka.errors, redis.exceptions], ids=lambda module: module.__name__)
def test_no_error_class_of_a_client_is_unclassified(module: ModuleType) -> None:
    """A new version of a client that brings a class fails here, until somebody has said what mends it."""
    known = classes_of(module)
    assert len(known) > 20
    assert [kind.__name__ for kind in known if kind not in REMEDY_OF] == []


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (aiokafka.errors.KafkaConnectionError(), Remedy.RETRY),
        (aiokafka.errors.NotEnoughReplicasError(), Remedy.RETRY),
        (aiokafka.errors.NotLeaderForPartitionError(), Remedy.RECONNECT),
        (aiokafka.errors.OutOfOrderSequenceNumber(), Remedy.RECONNECT),
        (aiokafka.errors.MessageSizeTooLargeError(), Remedy.REFUSE),
        (aiokafka.errors.UnknownTopicOrPartitionError(), Remedy.REFUSE),
        (aiokafka.errors.InvalidTimestampError(), Remedy.REFUSE),
        (aiokafka.errors.TopicAuthorizationFailedError(), Remedy.STOP),
        (aiokafka.errors.UnsupportedVersionError(), Remedy.STOP),
        (redis.exceptions.ReadOnlyError("READONLY"), Remedy.RECONNECT),
        (redis.exceptions.BusyLoadingError("LOADING"), Remedy.RECONNECT),
        (redis.exceptions.OutOfMemoryError("OOM"), Remedy.RETRY),
        (redis.exceptions.NoPermissionError("NOPERM"), Remedy.STOP),
        (redis.exceptions.AuthenticationError("WRONGPASS"), Remedy.STOP),
        (redis.exceptions.MovedError("3999 127.0.0.1:6381"), Remedy.STOP),
        (ConnectionResetError(), Remedy.RETRY),
        (TimeoutError(), Remedy.RETRY),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_errors_are_told_apart_by_what_mends_them(error: Exception, remedy: Remedy) -> None:
    assert remedy_of(error) is remedy


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("ERR user_script:3: -READONLY You can't write against a read only replica.", Remedy.RECONNECT),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Remedy.REFUSE),
        ("NOREPLICAS Not enough good replicas to write.", Remedy.RETRY),
        ("MISCONF Errors writing to the AOF file", Remedy.RETRY),
        ("ERR unknown command 'EVALSHA'", Remedy.STOP),
        ("ERR upstream failure", Remedy.RETRY),
    ],
)
def test_an_answer_of_the_store_without_a_class_is_told_by_its_code(text: str, remedy: Remedy) -> None:
    assert remedy_of(redis.exceptions.ResponseError(text)) is remedy


def test_a_class_that_a_later_client_adds_is_treated_as_its_parent() -> None:
    class NewerError(aiokafka.errors.SaslAuthenticationFailed):  # type: ignore[misc]  # aiokafka has no types
        pass

    assert remedy_of(NewerError()) is Remedy.STOP
