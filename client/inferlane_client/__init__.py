"""Client of Inferlane, the queue-based model server.

from inferlane_client import Client

with Client("http://127.0.0.1:8000") as client:
    print(client.predict([[5.1, 3.5, 1.4, 0.2]], model="iris").predictions)
"""

from inferlane_client.answers import (
    Answer,
    Prediction,
    ServedModel,
    ServedVersion,
    Status,
    TensorSignature,
    TrafficSplit,
)
from inferlane_client.async_client import AsyncClient
from inferlane_client.binary_tensors import TensorPrediction
from inferlane_client.call_errors import (
    CallError,
    Cancelled,
    ConnectionFailed,
    Expired,
    Failed,
    Forbidden,
    InvalidInput,
    InvalidRequest,
    KeyReused,
    NotFound,
    Overloaded,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unsuccessful,
)
from inferlane_client.client import Client
from inferlane_client.events import Event
from inferlane_client.handles import AsyncHandle, Handle
from inferlane_client.request import Request
from inferlane_client.retries import Retries
from inferlane_client.rollout_answers import Rollout, RolloutEvent, RolloutPhase, RolloutVerdict
from inferlane_client.rollout_calls import AsyncRollouts, Rollouts
from inferlane_client.server_connection import Tls

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncHandle",
    "AsyncRollouts",
    "CallError",
    "Cancelled",
    "Client",
    "ConnectionFailed",
    "Event",
    "Expired",
    "Failed",
    "Forbidden",
    "Handle",
    "InvalidInput",
    "InvalidRequest",
    "KeyReused",
    "NotFound",
    "Overloaded",
    "Prediction",
    "Request",
    "Retries",
    "Rollout",
    "RolloutEvent",
    "RolloutPhase",
    "RolloutVerdict",
    "Rollouts",
    "ServedModel",
    "ServedVersion",
    "Status",
    "TensorPrediction",
    "TensorSignature",
    "TimedOut",
    "Tls",
    "TooLarge",
    "TrafficSplit",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unsuccessful",
]
