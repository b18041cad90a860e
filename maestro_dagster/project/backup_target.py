"""Where backups lie: a folder or the URL of an object store, and in it the signed statements of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_dagster.errors import CostError, ProjectError
from maestro_dagster.project.backup_statement import SUFFIX, is_backup_id

if TYPE_CHECKING:
    from maestro_dagster.costs.folder import LocalFolder, RemoteFolder

LISTING = "`maestro backup TARGET --list` names those that there are"


def check_target(target: str) -> None:
    """Raises ProjectError (`backup-target`) for what names no place: nothing is made of it, anywhere."""
    scheme, separator, rest = target.partition("://")
    if separator:
        if scheme and (scheme == "memory" or rest.split("/")[0] or scheme in {"file", "local"}):
            return
        raise target_error("the URL names no bucket", target)
    if not target.strip():
        raise target_error("no place is named", "TARGET")


def is_inside(target: str, home: Path) -> bool:
    return "://" not in target and Path(target).resolve().is_relative_to(home)


def target_error(fact: str, place: str) -> ProjectError:
    return ProjectError(
        fact,
        place=place,
        remedy="give another folder, or the URL (`s3://bucket/prefix`) of an object store",
        code="backup-target",
    )


class Statements:
    """The signed statements of a target. Raises ProjectError (`backup-target`)."""

    def __init__(self, folder: LocalFolder | RemoteFolder, place: str) -> None:
        self._folder = folder
        self._place = place

    def ids(self) -> list[str]:
        """Oldest first."""
        names = self._ask(self._folder.names)
        found = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
        return sorted(name for name in found if is_backup_id(name))

    def require_bucket(self) -> None:
        """Raises ProjectError (`backup-target`) where not even the bucket is there."""
        from maestro_dagster.costs.folder import RemoteFolder

        if self._place.startswith("s3://") and isinstance(self._folder, RemoteFolder):
            files, bucket = self._folder.files, self._place.removeprefix("s3://").split("/")[0]
            if not self._ask(lambda: files.exists(bucket.rpartition("@")[2])):
                raise target_error(
                    "there is no such bucket, or these credentials may not see it", self._place
                )

    def place(self, backup: str) -> str:
        """Path or URL of a statement, as it may be shown."""
        return f"{self._place.rstrip('/')}/backups/{backup}{SUFFIX}"

    def read(self, backup: str) -> bytes:
        """Raises ProjectError (`backup-missing`) too."""
        try:
            return bytes(self._ask(lambda: self._folder.read(f"{backup}{SUFFIX}")))
        except FileNotFoundError:
            raise ProjectError(
                f"there is no backup {backup!r}", place=self._place, remedy=LISTING, code="backup-missing"
            ) from None

    def create(self, name: str, data: bytes) -> bool:
        return bool(self._ask(lambda: self._folder.create(name, data)))

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except FileNotFoundError:
            raise
        except (CostError, OSError) as error:
            why = error.fact.rpartition(": ")[2] if isinstance(error, CostError) else error.strerror
            raise target_error(f"the backup's place cannot be used: {why}", self._place) from error


def open_statements(target: str) -> Statements:
    from maestro_dagster.costs.folder import open_folder
    from maestro_dagster.objects.bucket import hide_password

    check_target(target)
    try:
        return Statements(open_folder(target).child("backups"), hide_password(target))
    except CostError as error:
        raise target_error("the backup's place cannot be opened", hide_password(target)) from error


def list_backups(target: str) -> Iterator[str]:
    """Ids of the backups in a target, oldest first. They are not looked into."""
    yield from open_statements(target).ids()
