"""The URL of a PostgreSQL, as it may be shown."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit


def show_url(url: str) -> str:
    """Without user, password and options."""
    parts = urlsplit(url)
    host = f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
    return f"{parts.scheme}://{host}{parts.path}"


def hide_url(text: str, url: str) -> str:
    """`text` without the URL and its password: what a driver says may repeat either."""
    password = urlsplit(url).password
    for secret in (url, password, unquote(password) if password else None):
        if secret:
            text = text.replace(secret, "***")
    return text
