"""What can go wrong with a store, in the operator's words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maestro_dagster.errors import StoreError


@contextmanager
def plain_errors(place: Path | str) -> Iterator[None]:
    """Turns the system's errors while writing into StoreError (`disk-full`, `artifact-write`)."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreError(
                "the disk is full, the artifact was not stored",
                place=str(place),
                remedy="free some space, then run `maestro retry`; nothing half-written is left behind",
                code="disk-full",
            ) from error
        raise StoreError(
            f"an artifact cannot be written: {error.strerror or error}",
            place=str(error.filename or place),
            remedy="check the owner and mode of the file and the folder",
            code="artifact-write",
        ) from error


def missing(digest: str, place: Path | str) -> StoreError:
    return StoreError(
        f"artifact {digest} is not in the store",
        place=str(place),
        remedy="run the step that made it again, or restore it from a backup",
        code="artifact-missing",
    )


def unreadable(digest: str, place: Path | str, error: Exception) -> StoreError:
    why = getattr(error, "strerror", None) or error
    return StoreError(
        f"artifact {digest} cannot be read: {why}",
        place=str(place),
        remedy="check the owner and mode of the file, or the credentials of the store",
        code="artifact-unreadable",
    )


def corrupt(digest: str, place: Path | str) -> StoreError:
    return StoreError(
        f"artifact {digest} does not have the content that its name promises",
        place=str(place),
        remedy="remove the file and run the step that made it again; check the disk",
        code="artifact-corrupt",
    )
