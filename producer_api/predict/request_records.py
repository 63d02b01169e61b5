"""The Kafka records of requests: their headers, and their key."""

from typing import TYPE_CHECKING

from inferlane.contracts.kafka_record import OutRecord, format_time
from inferlane.contracts.record import CALLBACK_URL, CALLER, JSON_LENGTH, PROOF, TRACE_PARENT, fixed_request_headers
from producer_api.predict.call import SOURCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.catalog import Catalog
    from models.live_catalog import AnyCatalog
    from producer_api.predict.call import Call

# Records of one batch that may go to one partition. The router reads all partitions, so this causes no delay.
_MAX_RUN = 1_000


class RequestRecords:
    """Makes the record of a checked call. One event loop."""

    def __init__(self, catalog: "AnyCatalog", *, topic: str, instance: str) -> None:
        """`instance` is that of the API process that waits for the results."""
        self._topic = topic
        self._instance = instance.encode()
        # The same for every request of a model, so built once.
        self._model_headers: dict[str, Sequence[tuple[str, bytes]]] = {}
        catalog.on_change(self._learn)

    def _learn(self, catalog: "Catalog") -> None:
        for name in catalog.models.keys() - self._model_headers.keys():
            self._model_headers[name] = (
                *fixed_request_headers(source=SOURCE.decode(), model=name),
                ("ce_replyto", self._instance),
            )

    def record(self, call: "Call") -> OutRecord:
        """Return the record of a request; of a routing key, all go to one partition."""
        headers = [
            *self._model_headers[call.model],
            ("ce_id", call.request_id.encode()),
            (PROOF, call.proof),
            ("ce_time", format_time(call.accepted_s)),
            ("ce_deadline", format_time(call.deadline_s)),
            (JSON_LENGTH, b"%d" % call.json_length),
        ]
        if call.caller:
            headers.append((CALLER, call.caller.encode()))
        if call.version is not None:
            headers.append(("ce_modelversion", call.version.encode()))
        if call.routing_key is not None:
            headers.append(("ce_routingkey", call.routing_key.encode()))
        if call.callback_url is not None:
            headers.append((CALLBACK_URL, call.callback_url.encode()))
        if call.trace_parent is not None:
            headers.append((TRACE_PARENT, call.trace_parent))
        key = (call.routing_key or call.request_id).encode()
        return OutRecord(self._topic, key, call.payload, headers, max_run=0 if call.routing_key else _MAX_RUN)
