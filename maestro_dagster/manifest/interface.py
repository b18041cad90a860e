"""What the manifest room needs of others: the catalogue of step kinds, passed in as an argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol


class KindCatalogue(Protocol):
    def uses(self) -> Iterable[str]:
        """The pinned names of all installed kinds, such as `pkg:http/get@1.0.0`."""

    def config_schema(self, uses: str) -> Mapping[str, Any] | None:
        """The JSON Schema of the kind's `with:`; None when no such kind is installed."""

    def is_asset(self, uses: str) -> bool:
        """Whether what the kind makes is worth finding again, or lives in the journal only."""
