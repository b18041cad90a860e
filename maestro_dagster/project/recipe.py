"""The shipped catalogue of flows: what there is, and copying one into a project with its digest.

`recipes/lock.json` of a project records each recipe that it took: its digest as shipped, its path, and the
version of the package that it came from.
"""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from maestro_dagster.errors import ManifestError, ProjectError

LOCK = Path("recipes") / "lock.json"
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".keep")


@dataclass(frozen=True, slots=True)
class RecipeView:
    """One shipped recipe. `path` is where the project has it, `changed` whether its files differ there."""

    name: str
    version: str
    description: str
    digest: str
    path: str | None
    changed: bool | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def list_recipes(root: Path | None) -> list[RecipeView]:
    """The shipped recipes, sorted; compared with the project at `root` when there is one."""
    taken = _read_lock(root) if root is not None else {}
    return [_view(folder, taken.get(folder.name), root) for folder in _shipped()]


def add_recipe(root: Path, name: str) -> RecipeView:
    """Copies a recipe into `recipes/<name>`, whole or not at all.

    Raises ProjectError (`recipe-missing`, `recipe-exists`, `recipe-failed`).
    """
    found = {folder.name: folder for folder in _shipped()}
    if name not in found:
        raise ProjectError(
            f"there is no recipe {name!r}",
            place=name,
            remedy=f"the recipes are: {', '.join(found) or '(none)'}",
            code="recipe-missing",
        )
    target = root / "recipes" / name
    taken = _read_lock(root).get(name, {}).get("path")
    if taken is not None and (root / taken).exists():
        raise _exists(name, root / taken)
    if target.exists():
        raise _exists(name, target)
    draft = target.parent / f".{name}.{secrets.token_hex(4)}.part"
    try:
        shutil.copytree(found[name], draft, ignore=_IGNORED)
        draft.rename(target)
        record_recipe(root, name, f"recipes/{name}")
    except (OSError, shutil.Error) as error:
        raise ProjectError(
            f"the recipe could not be copied: {error}",
            place=str(target),
            remedy="check the space and the rights of the project's folder",
            code="recipe-failed",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return next(view for view in list_recipes(root) if view.name == name)


def record_recipe(root: Path, name: str, path: str) -> None:
    """Notes in the lock which recipe the project took, and where it is."""
    from importlib.metadata import version

    folder = next(folder for folder in _shipped() if folder.name == name)
    entry = {
        "digest": digest_folder(folder),
        "path": path,
        "from": f"maestro-dagster {version('maestro-dagster')}",
    }
    lock = root / LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    draft = lock.with_name(f".{lock.name}.{secrets.token_hex(4)}.part")
    entries = {**_read_lock(root), name: entry}
    draft.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(lock)


def digest_folder(folder: Path) -> str:
    """`sha256:<hex>` over the sorted lines `<sha256 of a file>  <path>` of all files, as sha256sum prints."""
    lines = [
        f"{sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.name != ".keep"
    ]
    return f"sha256:{sha256(''.join(lines).encode()).hexdigest()}"


def _shipped() -> list[Path]:
    from maestro_dagster.project.scaffold import shipped_project

    return sorted(path.parent for path in (shipped_project() / "recipes").glob("*/flow.yaml"))


def _view(folder: Path, taken: dict[str, str] | None, root: Path | None) -> RecipeView:
    from maestro_dagster.manifest.read import read_flow

    try:
        flow = read_flow(folder / "flow.yaml")
        version, description = flow.version, flow.description
    except ManifestError as error:
        version, description = "", f"cannot be read: {error.fact}"
    path = taken["path"] if taken and root and (root / taken["path"]).exists() else None
    changed = None if path is None or root is None else _differs(folder, root / path)
    return RecipeView(folder.name, version, description, digest_folder(folder), path, changed)


def _differs(shipped: Path, own: Path) -> bool:
    if own.is_file():
        return own.read_bytes() != (shipped / "flow.yaml").read_bytes()
    return digest_folder(shipped) != digest_folder(own)


def _read_lock(root: Path) -> dict[str, dict[str, str]]:
    lock = root / LOCK
    try:
        entries = json.loads(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ProjectError(
            f"the record of recipes cannot be read: {error}",
            place=str(lock),
            remedy="restore it from the project's history, or remove it",
            code="recipe-lock",
        ) from error
    if not isinstance(entries, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in entries.values()
    ):
        raise ProjectError(
            "the record of recipes is damaged",
            place=str(lock),
            remedy="restore it from the project's history, or remove it",
            code="recipe-lock",
        )
    return entries


def _exists(name: str, place: Path) -> ProjectError:
    return ProjectError(
        f"the project has the recipe {name} already",
        place=str(place),
        remedy="edit it there, or remove it first",
        code="recipe-exists",
    )
