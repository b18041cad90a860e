"""What runs call a repository that has a hook, and that no two of a project are called the same.

The names that were given lie beside the inbox's folders, in `names.json`: `{"shop": "/srv/git/shop.git"}`,
each with the folder that holds the repository's own data.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

from maestro_dagster.errors import EventError

_FILE = "names.json"


def name_of(repo: Path) -> str:
    """The folder's name in plain letters: `ré po.git` is `re-po`."""
    folder = repo.parent if repo.name == ".git" else repo
    taken_apart = unicodedata.normalize("NFKD", folder.name.removesuffix(".git"))
    plain = "".join(letter for letter in taken_apart if not unicodedata.combining(letter))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-") or "repository"


def check_name(name: str) -> None:
    """Raises EventError `repository-name-invalid`."""
    if not re.fullmatch(r"[A-Za-z0-9._/-]{1,128}", name):
        raise EventError(
            f"{name!r} cannot be the name of a repository",
            remedy="use letters, digits, dots, dashes, underscores and slashes, at most 128, with --name",
            code="repository-name-invalid",
        )


def refuse_same_name(
    name: str, git_dir: Path, inbox: Path, settings: Mapping[str, str], is_hooked: Callable[[Path], bool]
) -> None:
    """Raises EventError `repository-name-twice` when another repository of the project has the name.

    `settings` are the watched repositories, name -> path. A name is free again when its hook is gone.
    """
    other = settings.get(name)
    if other is not None and Path(other).resolve() not in {git_dir, git_dir.parent}:
        raise _twice(name, other)
    other = read_names(inbox).get(name)
    if other is not None and Path(other) != git_dir and is_hooked(Path(other)):
        raise _twice(name, other)


def keep_name(name: str, git_dir: Path, inbox: Path) -> None:
    """Notes it; a repository has one name, so an older one of it is free."""
    names = {known: place for known, place in read_names(inbox).items() if place != str(git_dir)}
    new = inbox / f"{_FILE}.new"
    try:
        new.write_text(json.dumps({**names, name: str(git_dir)}, indent=1), encoding="utf-8")
        new.replace(inbox / _FILE)
    except OSError as error:
        raise EventError(
            f"the repository's name cannot be noted: {error.strerror}",
            place=str(inbox / _FILE),
            remedy="mend the permissions of the inbox and run this again",
            code="hook-failed",
        ) from error


def read_names(inbox: Path) -> dict[str, str]:
    """Empty where none were given, or the file is torn: then only a check is missing."""
    try:
        found = json.loads((inbox / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: place for name, place in pairs if isinstance(place, str)}


def _twice(name: str, other: str) -> EventError:
    return EventError(
        f"another repository of this project is called {name!r} already",
        place=other,
        remedy="give this one another name: --name NAME",
        code="repository-name-twice",
    )
