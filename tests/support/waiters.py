"""Waiters of pending requests, as calls register them."""

import asyncio

from producer_api.predict.pending import PendingRequests, Waiter


def added(pending: PendingRequests, key: str) -> Waiter:
    """Return a waiter that was added for the result under `key`."""
    waiter: Waiter = asyncio.get_running_loop().create_future()
    pending.register(key, waiter)
    return waiter
