"""The remedy for each error of Kafka and of the store: one table of all errors that their clients raise. Pure.

Every process uses it to decide whether to retry, to reconnect, to refuse the record, or to stop with the reason.
"""

import re
import ssl
from collections.abc import Mapping
from enum import StrEnum

from aiokafka import errors as kafka
from redis import exceptions as store


class Remedy(StrEnum):
    """What makes the same call succeed, if anything does."""

    # Time: the part is down, busy, full or in an election.
    RETRY = "retry"
    # Another connection: this one leads to a former leader or master, or has lost its session.
    RECONNECT = "reconnect"
    # Nothing: this record or request is always refused, and others are not.
    REFUSE = "refuse"
    # A person: credentials, rights, versions or settings are wrong.
    STOP = "stop"


class InvalidRecordError(kafka.BrokerResponseError):  # type: ignore[misc]  # aiokafka has no types
    """The broker found a record that its topic refuses, such as one without a key in a compacted topic."""

    errno = 87
    message = "INVALID_RECORD"


class UnsupportedCompressionError(kafka.BrokerResponseError):  # type: ignore[misc]  # as above
    """The topic refuses records that are compressed this way."""

    errno = 76
    message = "UNSUPPORTED_COMPRESSION_TYPE"


class FencedProducerError(kafka.BrokerResponseError):  # type: ignore[misc]  # as above
    """Another producer took over this one's id."""

    errno = 90
    message = "PRODUCER_FENCED"


# Error codes of a produce that aiokafka has no class for: it would treat them as retryable.
UNKNOWN_TO_CLIENT = (InvalidRecordError, UnsupportedCompressionError, FencedProducerError)

# The broker's words for "over max.message.bytes".
TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordTooLargeError, kafka.RecordListTooLargeError)

_KAFKA: Mapping[type[BaseException], Remedy] = {
    **dict.fromkeys(
        (
            kafka.KafkaError,
            kafka.BrokerResponseError,
            kafka.NoError,
            kafka.UnknownError,
            kafka.NoBrokersAvailable,
            kafka.NodeNotReadyError,
            kafka.KafkaProtocolError,
            kafka.CorrelationIdError,
            kafka.Cancelled,
            kafka.TooManyInFlightRequests,
            kafka.StaleMetadata,
            kafka.MetadataEmptyBrokerList,
            kafka.KafkaUnavailableError,
            kafka.KafkaTimeoutError,
            kafka.KafkaConnectionError,
            kafka.QuotaViolationError,
            kafka.CommitFailedError,
            kafka.NoOffsetForPartitionError,
            kafka.OffsetOutOfRangeError,
            kafka.LeaderNotAvailableError,
            kafka.RequestTimedOutError,
            kafka.BrokerNotAvailableError,
            kafka.ReplicaNotAvailableError,
            kafka.StaleControllerEpochError,
            kafka.StaleLeaderEpochCodeError,
            kafka.GroupLoadInProgressError,
            kafka.GroupCoordinatorNotAvailableError,
            kafka.NotEnoughReplicasError,
            kafka.NotEnoughReplicasAfterAppendError,
            kafka.RebalanceInProgressError,
            kafka.IllegalGenerationError,
            kafka.UnknownMemberIdError,
            kafka.MemberIdRequired,
            kafka.ConcurrentTransactions,
            kafka.OperationNotAttempted,
            kafka.KafkaStorageError,
            kafka.LogDirNotFound,
            kafka.ReassignmentInProgress,
            kafka.NonEmptyGroup,
            kafka.GroupIdNotFound,
            kafka.FetchSessionIdNotFound,
            kafka.InvalidFetchSessionEpoch,
            kafka.ListenerNotFound,
            # The record was written before; the broker says so to a repeated write.
            kafka.DuplicateSequenceNumber,
        ),
        Remedy.RETRY,
    ),
    **dict.fromkeys(
        (
            kafka.NotLeaderForPartitionError,
            kafka.NotCoordinatorForGroupError,
            kafka.NotControllerError,
            kafka.IllegalStateError,
            kafka.ConsumerStoppedError,
            # The sequence or the session of an idempotent producer is lost; a new producer has one of its own.
            kafka.ProducerClosed,
            kafka.ProducerFenced,
            kafka.OutOfOrderSequenceNumber,
            kafka.InvalidProducerEpoch,
            kafka.UnknownProducerId,
            kafka.InvalidProducerIdMapping,
            kafka.InvalidTxnState,
            kafka.TransactionCoordinatorFenced,
            FencedProducerError,
        ),
        Remedy.RECONNECT,
    ),
    **dict.fromkeys(
        (
            *TOO_LARGE,
            kafka.UnknownTopicOrPartitionError,
            kafka.InvalidTopicError,
            kafka.InvalidTimestampError,
            InvalidRecordError,
            UnsupportedCompressionError,
            kafka.CorruptRecordException,
            kafka.UnsupportedCodecError,
            kafka.UnsupportedForMessageFormatError,
            kafka.OffsetMetadataTooLargeError,
            kafka.InvalidCommitOffsetSizeError,
            kafka.InvalidFetchRequestError,
            kafka.InvalidRequestError,
            kafka.IllegalArgumentError,
            kafka.TopicAlreadyExistsError,
            kafka.InvalidPartitionsError,
            kafka.InvalidReplicationFactorError,
            kafka.InvalidReplicationAssignmentError,
            kafka.InvalidConfigurationError,
            kafka.PolicyViolationError,
        ),
        Remedy.REFUSE,
    ),
    **dict.fromkeys(
        (
            kafka.UnrecognizedBrokerVersion,
            kafka.IncompatibleBrokerVersion,
            kafka.UnsupportedVersionError,
            kafka.KafkaConfigurationError,
            kafka.IllegalOperation,
            kafka.AuthenticationMethodNotSupported,
            kafka.AuthenticationFailedError,
            kafka.UnsupportedSaslMechanismError,
            kafka.IllegalSaslStateError,
            kafka.SaslAuthenticationFailed,
            kafka.SecurityDisabled,
            kafka.TopicAuthorizationFailedError,
            kafka.GroupAuthorizationFailedError,
            kafka.ClusterAuthorizationFailedError,
            kafka.TransactionalIdAuthorizationFailed,
            kafka.DelegationTokenAuthDisabled,
            kafka.DelegationTokenNotFound,
            kafka.DelegationTokenOwnerMismatch,
            kafka.DelegationTokenRequestNotAllowed,
            kafka.DelegationTokenAuthorizationFailed,
            kafka.DelegationTokenExpired,
            kafka.InvalidPrincipalType,
            kafka.InvalidRequiredAcksError,
            kafka.InconsistentGroupProtocolError,
            kafka.InvalidGroupIdError,
            kafka.InvalidSessionTimeoutError,
            kafka.InvalidTransactionTimeout,
        ),
        Remedy.STOP,
    ),
}

_STORE: Mapping[type[BaseException], Remedy] = {
    **dict.fromkeys(
        (
            store.RedisError,
            # Its code has the details: `_STORE_CODES`.
            store.ResponseError,
            store.ConnectionError,
            store.TimeoutError,
            store.MaxConnectionsError,
            store.OutOfMemoryError,
            store.TryAgainError,
            store.ClusterError,
            store.ClusterDownError,
            store.SlotNotCoveredError,
            # Raised by a cluster's client if no node answers.
            store.RedisClusterException,
            store.WatchError,
            store.ExecAbortError,
            store.NoScriptError,
            store.LockError,
            store.LockNotOwnedError,
        ),
        Remedy.RETRY,
    ),
    **dict.fromkeys(
        (
            store.ReadOnlyError,
            store.MasterDownError,
            store.BusyLoadingError,
            store.PubSubError,
            store.InvalidResponse,
            store.ChildDeadlockedError,
        ),
        Remedy.RECONNECT,
    ),
    **dict.fromkeys((store.DataError, store.NoSuchFieldsetError), Remedy.REFUSE),
    **dict.fromkeys(
        (
            store.AuthenticationError,
            store.AuthenticationWrongNumberOfArgsError,
            store.AuthorizationError,
            store.ExternalAuthProviderError,
            store.NoPermissionError,
            store.ModuleError,
            # A cluster that was configured as a single node.
            store.AskError,
            store.MovedError,
            store.ClusterCrossSlotError,
            store.CrossSlotTransactionError,
            store.InvalidPipelineStack,
            store.IncorrectPolicyType,
        ),
        Remedy.STOP,
    ),
}

_OTHERS: Mapping[type[BaseException], Remedy] = {
    OSError: Remedy.RETRY,
    TimeoutError: Remedy.RETRY,
    ssl.SSLCertVerificationError: Remedy.STOP,
}

REMEDY_OF: Mapping[type[BaseException], Remedy] = {**_KAFKA, **_STORE, **_OTHERS}

# The store's errors that its client has no class for, by their first word. A script's error ends with its cause, as in
# `ERR user_script:3: -READONLY You can't write ...`, so the words are searched anywhere in the message.
_STORE_CODES: Mapping[str, Remedy] = {
    "READONLY": Remedy.RECONNECT,
    "MASTERDOWN": Remedy.RECONNECT,
    "LOADING": Remedy.RECONNECT,
    "UNBLOCKED": Remedy.RECONNECT,
    "WRONGTYPE": Remedy.REFUSE,
    "NOAUTH": Remedy.STOP,
    "WRONGPASS": Remedy.STOP,
    "NOPERM": Remedy.STOP,
    "NOPROTO": Remedy.STOP,
    "MOVED": Remedy.STOP,
    "CROSSSLOT": Remedy.STOP,
    "unknown command": Remedy.STOP,
    "syntax error": Remedy.STOP,
}
_CODE = re.compile("|".join(rf"\b{re.escape(code)}\b" for code in _STORE_CODES))


def remedy_of(error: BaseException) -> Remedy:
    """What mends `error`: by its own class, else by the nearest that it descends from; a stranger is worth a retry."""
    if type(error) is store.ResponseError and (found := _CODE.search(str(error))):
        return _STORE_CODES[found.group()]
    return next((REMEDY_OF[kind] for kind in type(error).__mro__ if kind in REMEDY_OF), Remedy.RETRY)
