"""Requests to the hub that wait when it is busy: as long as it asks (Retry-After), but not for ever.

    hub_session.start()     # from here on every request of huggingface_hub in this process

The hub's own client waits as long as it is told, be it a day, and for some requests not at all.
"""

import time
from typing import Any

import httpx2
from huggingface_hub.utils import get_session, hf_raise_for_status, parse_ratelimit_headers, set_client_factory

from diptych.runtime import logs

BUSY = (429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each new try where the hub does not say how long to wait."""
LONGEST_WAIT = 310.0
"""Seconds that it may ask for: the hub counts requests over five minutes."""


class Client(httpx2.Client):
    """An HTTP client that sends a request again while the hub is busy."""

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """The response to a request.

        Raises:
            HfHubHTTPError: the hub is busy after all tries, or asks to wait longer than `LONGEST_WAIT`.
        """
        for number, pause in enumerate(PAUSES, 1):
            response = super().send(request, **options)
            if response.status_code not in BUSY:
                return response
            asked = asked_wait(response)
            wait = pause if asked is None else asked
            if wait > LONGEST_WAIT:
                hf_raise_for_status(response)
            response.close()
            logs.logger.warning("the hub is busy (%d): waiting %.0f s, try %d", response.status_code, wait, number)
            time.sleep(wait)
        response = super().send(request, **options)
        if response.status_code in BUSY:
            hf_raise_for_status(response)
        return response


def asked_wait(response: httpx2.Response) -> float | None:
    """Seconds that a response asks to wait before the next request, or None."""
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    after = response.headers.get("Retry-After", "").strip()
    return float(after) if after.isdecimal() else None


def start() -> None:
    """Have huggingface_hub send its requests by a `Client`."""
    session = get_session()
    if isinstance(session, Client):
        return
    hooks = session.event_hooks  # the hub's own: among them what refuses requests when HF_HUB_OFFLINE is set
    set_client_factory(lambda: Client(event_hooks=hooks, follow_redirects=True, timeout=None))
