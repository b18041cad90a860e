"""The URL of a PostgreSQL, as it may be shown."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

_IN_QUERY = ("password", "sslpassword")  # libpq takes both there as well


def show_url(url: str) -> str:
    """Without user, password and options."""
    parts = urlsplit(url)
    host = f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
    return f"{parts.scheme}://{host}{parts.path}"


def hide_url(text: str, url: str) -> str:
    """`text` without the URL and its passwords: what a driver says may repeat any of them."""
    parts = urlsplit(url)
    pairs = (pair.partition("=") for pair in parts.query.split("&"))
    passwords = [parts.password, *(value for key, _, value in pairs if unquote(key) in _IN_QUERY)]
    for secret in (url, *passwords, *(unquote(each) for each in passwords if each)):
        if secret:
            text = text.replace(secret, "***")
    return text
