"""The URL of a PostgreSQL: as it may be shown, and for those who know of no schema."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

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


def use_schema(url: str, schema: str) -> str:
    """The same database for a library that names no schema: its tables lie in `schema` and nowhere else.

    PostgreSQL itself looks into a schema with the name of the role first. Options that the URL has stay; of
    two that set the same, the server takes the later one.
    """
    ours = f"-csearch_path={schema}"
    head, _, query = url.partition("?")
    pairs, given = [], ""
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        if unquote(key) == "options":
            given = unquote(value)  # libpq takes the last of several
        else:
            pairs.append(pair)
    if given.split()[-1:] != [ours]:
        given = f"{given} {ours}".strip()
    return f"{head}?{'&'.join([*pairs, f'options={quote(given)}'])}"
