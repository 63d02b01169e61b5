"""Whether a call may name a URL for its result."""

from typing import TYPE_CHECKING

from inferlane.contracts.callback_addresses import check_url
from inferlane.errors import CallbackRefusedError

if TYPE_CHECKING:
    from inferlane.runtime.settings import WebhookSettings


def check_callback_url(url: str, settings: "WebhookSettings") -> None:
    """Return if results are sent to this URL.

    Raises:
        CallbackRefusedError: they are not; the message says why.
    """
    if not settings.webhooks:
        raise CallbackRefusedError(
            "callback_url is given, and this deployment sends no callbacks; leave it out, or let the operator set "
            "INFERLANE_WEBHOOKS=on and run `inferlane webhooks`"
        )
    check_url(url, settings.webhook_networks)
