"""The AsyncAPI 3 document of the topics, made from the contracts: names, headers and payloads. Pure.

Source: AsyncAPI Specification 3.0.0; its Kafka bindings 0.5.0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inferlane.contracts import topic_headers as headers
from inferlane.contracts.naming import CALLBACK_STAGES, Lane, Names
from inferlane.contracts.topic_payloads import Document, payload_schemas, ref

VERSION = "3.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """A kind of record. `payload` is a schema, or None where the value is empty."""

    name: str
    about: str
    headers: tuple[headers.Header, ...]
    payload: Document
    content_type: str = "application/json"
    open_headers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Channel:
    """A topic: its address, its messages, and the client's action on it: send, receive or neither."""

    key: str
    address: str
    about: str
    messages: Sequence[_Message]
    action: str | None = None
    parameters: Mapping[str, str] | None = None


def asyncapi_document(names: Names, *, version: str, servers: Sequence[str], protocol: str = "kafka") -> Document:
    """Return the document of a stack; `servers` are brokers as host:port, `protocol` is kafka or kafka-secure."""
    channels = _channels(names)
    messages = {message.name: message for channel in channels for message in channel.messages}
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "Inferlane: topics",
            "version": version,
            "description": "Any program that can produce to Kafka can request predictions: docs/topics.md. An "
            "operation is what a program of yours does; the other topics are for Inferlane's own processes.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {f"broker{number}": {"host": host, "protocol": protocol} for number, host in enumerate(servers, 1)},
        "channels": {channel.key: _channel(channel) for channel in channels},
        "operations": {
            f"{channel.action}_{channel.key}": {
                "action": channel.action,
                "summary": channel.about,
                "channel": {"$ref": f"#/channels/{channel.key}"},
                "messages": [{"$ref": f"#/channels/{channel.key}/messages/{each.name}"} for each in channel.messages],
            }
            for channel in channels
            if channel.action is not None
        },
        "components": {
            "messages": {name: _message(message) for name, message in messages.items()},
            "schemas": payload_schemas(),
        },
    }


def _channel(channel: _Channel) -> Document:
    described: Document = {
        "address": channel.address,
        "title": channel.key,
        "description": channel.about,
        "messages": {each.name: {"$ref": f"#/components/messages/{each.name}"} for each in channel.messages},
    }
    if channel.parameters:
        described["parameters"] = {name: {"description": about} for name, about in channel.parameters.items()}
    return described


def _message(message: _Message) -> Document:
    return {
        "name": message.name,
        "title": message.about,
        "contentType": message.content_type,
        "headers": headers.headers_schema(message.headers, open_ended=message.open_headers),
        "payload": message.payload,
        "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": "0.5.0"}},
    }


_BYTES: Document = {"type": "string", "format": "binary"}
_BINARY = "application/octet-stream"


def _requests(kind: str, known: tuple[headers.Header, ...], about: str) -> tuple[_Message, ...]:
    """Return the three forms that a request's value may have; a producer may add headers of its own."""
    return (
        _Message(
            name=f"{kind}Rows",
            about=f"{about} as rows (V1)",
            headers=known,
            payload=ref("RowsRequest"),
            open_headers=True,
        ),
        _Message(
            name=f"{kind}Tensors",
            about=f"{about} as tensors (V2, JSON)",
            headers=known,
            payload=ref("TensorRequest"),
            open_headers=True,
        ),
        _Message(
            name=f"{kind}Binary",
            about=f"{about} as binary tensors (V2): a TensorRequest, then the bytes of the tensors",
            headers=known,
            payload=_BYTES,
            content_type=_BINARY,
            open_headers=True,
        ),
    )


_RESULTS = (
    _Message(name="result", about="A result as JSON (V2)", headers=headers.RESULT, payload=ref("TensorResponse")),
    _Message(
        name="binaryResult",
        about="A result as binary tensors: a TensorResponse, then the bytes of the tensors",
        headers=headers.RESULT,
        payload=_BYTES,
        content_type=_BINARY,
    ),
    _Message(
        name="failure",
        about="The error of a request that did not succeed; the value is empty",
        headers=headers.RESULT,
        payload={"type": "string", "maxLength": 0},
    ),
)
_CALLBACK = _Message(name="callback", about="The body that is sent", headers=headers.CALLBACK, payload=ref("Callback"))
_CALLBACK_RETRY = _Message(
    name="callbackRetry",
    about="A callback that waits for another try",
    headers=headers.CALLBACK_RETRY,
    payload=ref("Callback"),
)
_DEAD_LETTER = _Message(
    name="deadLetter",
    about="The record as it was, with its own headers, and why it was not served",
    headers=headers.DEAD_LETTER,
    payload=_BYTES,
    content_type=_BINARY,
    open_headers=True,
)


def _table(name: str, about: str, payload: Document, known: tuple[headers.Header, ...] = ()) -> _Message:
    return _Message(name=name, about=about, headers=known, payload=payload)


def _channels(names: Names) -> tuple[_Channel, ...]:
    request = _requests("request", headers.REQUEST, "A request")
    routed = _requests("routed", headers.ROUTED, "A request for one version")
    return (
        _Channel(
            key="requests",
            address=names.ingress[Lane.REQUESTS],
            about="Requests whose result a client waits for",
            messages=request,
            action="send",
        ),
        _Channel(
            key="bulk",
            address=names.ingress[Lane.BULK],
            about="Requests where throughput counts",
            messages=request,
            action="send",
        ),
        _Channel(
            key="results",
            address=names.results,
            about="Results of bulk requests, and of those that no client waits for",
            messages=_RESULTS,
            action="receive",
        ),
        _Channel(
            key="feedback",
            address=names.feedback,
            about="What became of predictions",
            messages=[
                _table("feedback", "The right class of a prediction, or a reward", ref("Feedback"), headers.FEEDBACK)
            ],
            action="send",
        ),
        _Channel(
            key="deadLetters",
            address=names.dead_letters,
            about="Records that could not be served",
            messages=[_DEAD_LETTER],
            action="receive",
        ),
        _Channel(
            key="splits",
            address=names.splits,
            about="The traffic splits, compacted by model",
            messages=[_table("split", "The weights of a model's versions", ref("Split"))],
            action="receive",
        ),
        *_own_channels(names, routed),
    )


def _own_channels(names: Names, routed: Sequence[_Message]) -> tuple[_Channel, ...]:
    """Return the topics of Inferlane's own processes."""
    rollouts = (
        _table("rollout", "The state of a rollout", ref("RolloutState")),
        _table("rolloutCommand", "What a person asks of a rollout", ref("Command")),
    )
    return (
        _Channel(
            key="work",
            address=f"{names.prefix}.{{model}}.{{version}}.{{lane}}",
            about="Requests for the workers of one version",
            messages=routed,
            parameters={"model": "The model.", "version": "The version.", "lane": "requests or bulk."},
        ),
        _Channel(
            key="outcomes",
            address=names.outcomes,
            about="Summaries of the workers",
            messages=[
                _table("outcomeSummary", "What a worker did in a second", ref("OutcomeSummary"), headers.OUTCOME)
            ],
        ),
        _Channel(
            key="catalog",
            address=names.catalog,
            about="The versions that are served, compacted",
            messages=[_table("catalogEntry", "A version and its state", ref("ServedVersion"))],
        ),
        _Channel(
            key="rollouts", address=names.rollouts, about="Rollouts and commands to them, compacted", messages=rollouts
        ),
        _Channel(
            key="callbacks",
            address=names.callbacks,
            about="Results on their way to callback URLs",
            messages=[_CALLBACK],
        ),
        *(
            _Channel(
                key=f"callbackRetries{stage}",
                address=names.callback_retries(stage),
                about="Callbacks that wait for another try",
                messages=[_CALLBACK_RETRY],
            )
            for stage in range(1, CALLBACK_STAGES + 1)
        ),
    )
