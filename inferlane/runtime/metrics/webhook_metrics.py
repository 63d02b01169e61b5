"""Metrics of the webhooks process: its calls to receivers, and the callbacks that it gave up."""

from inferlane.runtime.metrics.instruments import counter, histogram

CALLS = counter("inferlane_webhooks_calls_total", "Calls of receivers of callbacks.", ("outcome",))
CALL = histogram("inferlane_webhooks_call_seconds", "Time of a call of a receiver.")
DELIVERY = histogram(
    "inferlane_webhooks_delivery_seconds", "Time from the end of a request to the delivery of its callback."
)
WAITING = counter("inferlane_webhooks_retries_total", "Callbacks that were written to a topic of retries.", ("reason",))
GIVEN_UP = counter("inferlane_webhooks_given_up_total", "Callbacks that became dead letters.", ("reason",))
