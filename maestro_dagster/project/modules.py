"""Import the project's Python files as `maestro_project.*`, without touching `sys.path`.

`assets`, `resources` and `sensors` are too common to be names of top-level modules, so the project's
folder becomes the `__path__` of one synthetic package.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from maestro_dagster.errors import MaestroError, ProjectError

PACKAGE = "maestro_project"
CODE_FOLDERS = ("assets", "resources", "sensors")


def import_project_modules(root: Path) -> list[ModuleType]:
    """Every module of the project, sorted by path. Raises ProjectError (`project-code`).

    Importing again re-reads the files: the definitions of a project that was edited are reloaded.
    """
    _mount(PACKAGE, root)
    importlib.invalidate_caches()
    modules = []
    for folder in CODE_FOLDERS:
        if not (root / folder).is_dir():
            continue
        _mount(f"{PACKAGE}.{folder}", root / folder)
        modules += [_import(name, root) for name in _module_names(root, folder)]
    return modules


def _import(name: str, root: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except MaestroError:
        raise
    except Exception as error:  # an operator's module may raise anything
        place = Path(*name.split(".")[1:]).with_suffix(".py")
        raise ProjectError(
            f"{place} cannot be imported: {type(error).__name__}: {error}",
            place=str(root / place),
            remedy="correct the file",
            code="project-code",
        ) from error


def _module_names(root: Path, folder: str) -> Iterator[str]:
    for path in sorted((root / folder).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if all(part.isidentifier() and not part.startswith("_") for part in parts):
            yield ".".join((PACKAGE, *parts))


def _mount(name: str, folder: Path) -> None:
    for loaded in [other for other in sys.modules if other == name or other.startswith(name + ".")]:
        del sys.modules[loaded]
    package = ModuleType(name, f"The folder {folder.name} of a Maestro project.")
    package.__path__ = [str(folder)]
    sys.modules[name] = package
