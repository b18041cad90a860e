"""Where the project is, and what it holds.

A project is a folder whose pyproject.toml has a `[tool.maestro]` table.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maestro_dagster.errors import ManifestError, ProjectError
from maestro_dagster.project.settings import Settings, read_settings
from maestro_dagster.project.unfinished import refuse_unfinished

FLOW_SUFFIXES = (".yaml", ".yml", ".json")
# Files of `dg` in the same folder: they configure components and are no flows.
_NOT_FLOWS = frozenset({"defs.yaml", "component.yaml"})


@dataclass(frozen=True, slots=True)
class Project:
    """An operator's project. All paths are absolute; `home` is the folder of its state."""

    root: Path
    settings: Settings
    home: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def policies(self) -> Path:
        return self.root / "policies"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    @property
    def evidence(self) -> Path:
        """The folder of bundles; with `evidence_url` it holds copies of what is there."""
        chosen = self.settings.evidence
        return self.home / "evidence" if chosen is None or "://" in chosen else self.path(chosen)

    @property
    def evidence_url(self) -> str | None:
        chosen = self.settings.evidence
        return chosen if chosen is not None and "://" in chosen else None

    @property
    def spool(self) -> Path:
        return self.home / "spool"

    @property
    def inbox(self) -> Path:
        return self.home / "inbox"

    @property
    def journal(self) -> Path:
        return self.home / "journal.sqlite"

    @property
    def budgets(self) -> Path:
        """The file that says who may spend what."""
        return self.root / "resources" / "budgets.yaml"

    @property
    def advisories(self) -> Path:
        return self.path(self.settings.advisories)

    @property
    def artifact_store(self) -> str:
        """URL or absolute path of the artifact store."""
        return self._location(self.settings.artifact_store, "artifacts")

    @property
    def lake(self) -> str:
        """URL or absolute path of the usage lake."""
        return self._location(self.settings.lake, "lake")

    @property
    def repositories(self) -> dict[str, str]:
        """The watched repositories: name -> path or URL."""
        return dict(_named_repository(entry, self.root) for entry in self.settings.repositories)

    def path(self, text: str) -> Path:
        """A path of the settings, made absolute against the root."""
        return (self.root / Path(text).expanduser()).resolve()

    def flow_files(self) -> tuple[Path, ...]:
        """Every file that should be a flow, sorted; none is read."""
        found = [path for path in self._walk(self.root / "assets") if path.name not in _NOT_FLOWS]
        found += sorted((self.root / "recipes").glob("*/flow.yaml"))
        return tuple(found)

    def flows(self) -> dict[str, Path]:
        """The flows by name. Raises ManifestError (one cannot be read), ProjectError (`flow-name-twice`)."""
        from maestro_dagster.manifest.read import read_flow

        named = [(read_flow(path).name, path) for path in self.flow_files()]
        refuse_same_names(self, named)
        return dict(named)

    def find_flow(self, text: str) -> Path:
        """The file of a flow, from a path, a file's stem, a recipe's folder or a flow's name."""
        if (given := Path(text)).is_file():
            return given.resolve()
        files = self.flow_files()
        for path in files:
            if text in (path.stem if path.name != "flow.yaml" else path.parent.name, self.relative(path)):
                return path
        for path in files:
            if _flow_name(path) == text:
                return path
        raise ProjectError(
            f"there is no flow {text!r}",
            place=str(self.root),
            remedy="give a file, or one of: "
            + (", ".join(self.relative(path) for path in files) or "(none)"),
            code="flow-missing",
        )

    def relative(self, path: Path) -> str:
        """`path` below the root, for messages and for the normal places of a project."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def _walk(self, folder: Path) -> Iterator[Path]:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder).parts
            if path.suffix in FLOW_SUFFIXES and path.is_file() and not any(p[0] in "._" for p in inside):
                yield path

    def _location(self, setting: str | None, folder: str) -> str:
        if setting is None:
            return str(self.home / folder)
        return setting if "://" in setting else str(self.path(setting))


def refuse_same_names(project: Project, named: Sequence[tuple[str, Path]]) -> None:
    """Raises ProjectError (`flow-name-twice`)."""
    found: dict[str, Path] = {}
    for name, path in named:
        if name in found:
            raise ProjectError(
                f"two flows are called {name}",
                place=f"{project.relative(found[name])} and {project.relative(path)}",
                remedy="rename one of them",
                code="flow-name-twice",
            )
        found[name] = path


def find_project(
    start: Path | None = None, environment: Mapping[str, str] | None = None, *, unfinished: bool = False
) -> Project:
    """The project around `start` (default: the working directory), or the one that MAESTRO_PROJECT names.

    `unfinished`: also one whose restore has not ended, which nobody but the restore may use.

    Raises ProjectError (`project-missing`, `project-unreadable`, `setting-unknown`, `setting-invalid`,
    `restore-unfinished`).
    """
    environment = os.environ if environment is None else environment
    if chosen := environment.get("MAESTRO_PROJECT"):
        root = Path(chosen).expanduser().resolve()
        return open_project(root, environment, "MAESTRO_PROJECT", unfinished=unfinished)
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if _maestro_table(folder / "pyproject.toml") is not None:
            return open_project(folder, environment, unfinished=unfinished)
    raise _missing(str(start))


def open_project(
    root: Path,
    environment: Mapping[str, str] | None = None,
    place: str = "",
    *,
    unfinished: bool = False,
) -> Project:
    """The project in exactly this folder. Raises ProjectError as `find_project`; `place`: who named it."""
    root = root.resolve()
    table = _maestro_table(root / "pyproject.toml")
    if table is None:
        raise _missing(f"{root} (from {place})" if place else str(root))
    environment = os.environ if environment is None else environment
    settings = read_settings(table, environment, str(root / "pyproject.toml"))
    home = (root / Path(settings.home).expanduser()).resolve()
    if not unfinished:
        refuse_unfinished(home)
    return Project(root, settings, home)


def _missing(place: str) -> ProjectError:
    return ProjectError(
        "there is no Maestro project here",
        place=place,
        remedy="change into one, set MAESTRO_PROJECT, or make one with `maestro init FOLDER`",
        code="project-missing",
    )


def _maestro_table(pyproject: Path) -> dict[str, Any] | None:
    try:
        text = pyproject.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ProjectError(
            f"pyproject.toml cannot be read: {error}",
            place=str(pyproject),
            remedy="make it a readable UTF-8 file",
            code="project-unreadable",
        ) from error
    if "maestro" not in text:
        return None  # not ours: whether it is valid TOML is not our business
    try:
        table = tomllib.loads(text).get("tool", {}).get("maestro")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ProjectError(
            f"pyproject.toml is not valid TOML: {error}",
            place=str(pyproject),
            remedy="repair the file",
            code="project-unreadable",
        ) from error
    if table is not None and not isinstance(table, dict):
        raise ProjectError(
            "tool.maestro is not a table",
            place=str(pyproject),
            remedy="write it as [tool.maestro]",
            code="setting-invalid",
        )
    return table


def _flow_name(path: Path) -> str | None:
    from maestro_dagster.manifest.read import read_flow

    try:
        return read_flow(path).name
    except ManifestError:
        return None  # another flow is looked for; `flow lint` reports this one


def _named_repository(entry: str, root: Path) -> tuple[str, str]:
    name, equals, location = entry.partition("=")
    if not equals or "/" in name or ":" in name:
        location = entry
        name = entry.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1].removesuffix(".git")
    if "://" not in location and not (":" in location and "/" not in location.split(":", 1)[0]):
        location = str((root / Path(location).expanduser()).resolve())
    return name, location
