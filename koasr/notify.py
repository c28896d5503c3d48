"""How a night ended → whoever is to know it: a webhook, a file."""

import json
import re
from typing import Any
from urllib.parse import urlsplit

import requests
import tenacity

from koasr.errors import JobError
from koasr.storage import write_result

_TIMEOUT_S = (5.0, 20.0)
"""To connect, and to answer."""
_ATTEMPTS = 4
_MAY_PASS = {408, 425, 429}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_WAIT: tenacity.wait.wait_base = tenacity.wait_random_exponential(multiplier=1, max=20)


class _Unanswered(Exception):
    """Another try may be answered."""


def check_webhook(url: str) -> str:
    """The host of a webhook: all of it that may be shown, as the rest is a secret.

    Raises:
        JobError: What is told could be read on its way, or it is no URL.

    Example:
        >>> check_webhook("https://hooks.example.com/services/T0/secret")
        'hooks.example.com'
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        # Its message has the URL in it.
        host = ""
    if not host:
        raise JobError("the webhook is no URL: wanted https://…", 2) from None
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise JobError(f"the webhook at {host} is not https://", 2)
    return host


def post(url: str, document: dict[str, Any], text: str, *, attempts: int = _ATTEMPTS) -> None:
    """POST a document, with a `text` field, which chats show.

    Args:
        url: Of the webhook.
        document: Without any text of a transcript.
        text: One sentence.
        attempts: Where no answer came, or one that may pass.

    Raises:
        JobError: It was not taken. Names the host alone.
    """
    host = check_webhook(url)
    body = {**document, "text": plain(text)}

    def send() -> None:
        try:
            # A redirect could lead anywhere.
            answer = requests.post(url, json=body, timeout=_TIMEOUT_S, allow_redirects=False)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _Unanswered(f"did not answer ({type(error).__name__})") from None
        except (requests.RequestException, ValueError) as error:
            message = f"the webhook at {host} cannot be used ({type(error).__name__})"
            raise JobError(message) from None
        if answer.status_code >= 500 or answer.status_code in _MAY_PASS:
            raise _Unanswered(f"answered {answer.status_code}")
        if not 200 <= answer.status_code < 300:
            raise JobError(f"the webhook at {host} answered {answer.status_code}: check its URL")

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Unanswered),
        wait=_WAIT,
        stop=tenacity.stop_after_attempt(attempts),
        reraise=True,
    )
    try:
        retrying(send)
    except _Unanswered as error:
        raise JobError(f"the webhook at {host} {error}, asked {attempts} times") from None


def plain(text: str) -> str:
    """A line that no chat takes for markup or a mention, and no terminal for an order.

    Example:
        >>> plain("<!channel> @here [x](https://evil) lost \\x1b[2J")
        '!channel here x (https://evil) lost 2J'
    """
    printed = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(re.sub(r"[][<>&@]", " ", printed).split())


def write(uri: str, document: dict[str, Any], text: str) -> None:
    """Write the same to a file.

    Raises:
        JobError: It cannot be written there.
    """
    body = {**document, "text": plain(text)}
    write_result(uri, json.dumps(body, indent=2, ensure_ascii=False).encode())
