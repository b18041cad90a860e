"""Where a price list comes from: the installed litellm, a file, or a URL."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from maestro_dagster.errors import CostError
from maestro_dagster.llm import price_map

LARGEST = 64 * 1024 * 1024  # bytes; such lists have some 3 MB
_TIMEOUT = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class PriceList:
    """A list as it was read. `name` says where from, without what is nobody's business."""

    name: str
    data: bytes


def read_list(source: str | None = None) -> PriceList:
    """The list of the installed litellm, of a file, or of an https URL (http on this machine only).

    Raises CostError (`price-list-missing`, `price-list-url`, `price-list-large`).
    """
    if source is None:
        return _read_installed()
    if "://" in source:
        return _read_url(source)
    return _read_file(Path(source))


def _read_installed() -> PriceList:
    path = price_map.find_shipped()
    if path is None:
        raise CostError(
            "no litellm with a price list is installed",
            remedy="install litellm, or give a list: --from FILE or --from URL",
            code="price-list-missing",
        )
    return PriceList(price_map.list_name(), _read_file(path).data)


def _read_file(path: Path) -> PriceList:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise CostError(
            f"the price list cannot be read: {error.strerror}",
            place=str(path),
            remedy="name a file in LiteLLM's form",
            code="price-list-missing",
        ) from error
    return PriceList(path.name, _bounded(data, str(path)))


def _read_url(url: str) -> PriceList:
    parts = _check_url(url)
    name = f"{parts.scheme}://{parts.netloc}{parts.path}"  # a query may hold a key
    opener = urllib.request.build_opener(_NoRedirect())
    try:
        with opener.open(url, timeout=_TIMEOUT) as answer:
            data = answer.read(LARGEST + 1)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise CostError(
            f"the price list cannot be fetched: {reason}",
            place=name,
            remedy="check the URL and the network, or give a file: --from FILE",
            code="price-list-missing",
        ) from None
    return PriceList(name, _bounded(data, name))


def _check_url(url: str) -> SplitResult:
    """Prices decide on money: nobody between here and there may change them."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname))
        valid = plain and bool(parts.hostname) and not parts.username and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise CostError(
            "a price list comes from an https URL without a user name",
            remedy="write https://host/path; http is for this machine only",
            code="price-list-url",
        )
    return parts


def _is_here(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def _bounded(data: bytes, place: str) -> bytes:
    if len(data) > LARGEST:
        raise CostError(
            f"the price list is larger than {LARGEST} bytes",
            place=place,
            remedy="give a list in LiteLLM's form",
            code="price-list-large",
        )
    return data


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect may lead anywhere: it becomes the error that it is for us."""

    def redirect_request(self, *_: object) -> None:
        return None
