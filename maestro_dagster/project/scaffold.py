"""`maestro init`: a starter project out of the shipped one, complete or not at all."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from maestro_dagster.errors import ProjectError

STARTER_FLOW = "python-release"
# The engine's files are in none of these: a project holds instances, the package holds kinds.
_FOLDERS = ("assets", "resources", "sensors", "policies")
_IGNORED = shutil.ignore_patterns("__pycache__", ".keep", "*.pyc")
_STARTER = Path(__file__).parent / "starter"


@dataclass(frozen=True, slots=True)
class NewProject:
    """What `maestro init` made. `hint` is base64 of the sha256 of the key's DER."""

    root: Path
    public_key: str
    hint: str
    fresh: bool = True  # False: the project was there, only the key is new


def shipped_project() -> Path:
    """The shipped project folders: inside the wheel, or the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    in_wheel = package / "_project"
    found = in_wheel if in_wheel.is_dir() else package.parent
    if not (found / "policies").is_dir():
        raise ProjectError(
            "this installation lacks the project folders",
            place=str(found),
            remedy="install the wheel again",
            code="installation-broken",
        )
    return found


def init_project(target: Path, *, algorithm: str = "ed25519") -> NewProject:
    """Makes a project with its key in `target`, which must be new or empty, or a project without a key.

    Such a project gets just the key. Raises ProjectError (`folder-not-empty`, `init-failed`); then
    nothing was left behind; EvidenceError (`key-exists`).
    """
    target = target.absolute()
    if _is_project(target):
        return _add_key(target, algorithm)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ProjectError(
            "the folder is not empty",
            place=str(target),
            remedy="choose a new or an empty folder, or a project that has lost its key",
            code="folder-not-empty",
        )
    with _coded(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.parent / f".{target.name}.{secrets.token_hex(4)}.part"
        try:
            draft.mkdir(mode=0o755)
            _fill(draft, target.name)
            public, hint = _make_key(draft, algorithm)
            _move(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return NewProject(target, public, hint)


def _is_project(folder: Path) -> bool:
    from maestro_dagster.project.root import open_project

    if not (folder / "pyproject.toml").is_file():
        return False
    try:
        open_project(folder)
    except ProjectError as error:
        if error.error_code == "project-missing":
            return False
        raise
    return True


def _add_key(root: Path, algorithm: str) -> NewProject:
    """The key of a project that was cloned, or whose state folder is gone. Touches nothing else of it."""
    from maestro_dagster.evidence.key import load_signer, make_key
    from maestro_dagster.project.root import open_project

    project = open_project(root)
    try:
        project.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ProjectError(
            f"the state folder cannot be made: {error.strerror}",
            place=str(project.home),
            remedy="check the space and the rights of the folder above it",
            code="init-failed",
        ) from error
    make_key(project.keys, algorithm)  # never overwrites
    signer = load_signer(project.keys)
    return NewProject(root, signer.public_pem.decode("ascii"), signer.hint, fresh=False)


def _fill(draft: Path, name: str) -> None:
    from maestro_dagster.project.recipe import record_recipe

    shipped = shipped_project()
    for folder in _FOLDERS:
        if (shipped / folder).is_dir():
            shutil.copytree(shipped / folder, draft / folder, ignore=_IGNORED)
    recipe = shipped / "recipes" / STARTER_FLOW
    if recipe.is_dir():
        shutil.copyfile(recipe / "flow.yaml", draft / "assets" / f"{STARTER_FLOW}.yaml")
        if (recipe / "advisories").is_dir():
            shutil.copytree(recipe / "advisories", draft / "advisories", ignore=_IGNORED)
        record_recipe(draft, STARTER_FLOW, f"assets/{STARTER_FLOW}.yaml")
    for source, place in (("pyproject.toml.in", "pyproject.toml"), ("README.md", "README.md")):
        text = (_STARTER / source).read_text(encoding="utf-8")
        (draft / place).write_text(text.replace("@NAME@", _package_name(name)), encoding="utf-8")
    shutil.copyfile(_STARTER / "gitignore", draft / ".gitignore")


def _make_key(draft: Path, algorithm: str) -> tuple[str, str]:
    """The key in the home that the new project will have; an existing one outside of it is kept."""
    from maestro_dagster.evidence.key import load_signer, make_key
    from maestro_dagster.project.root import open_project

    project = open_project(draft)
    folder = project.keys
    if project.home.is_relative_to(draft):
        project.home.mkdir(mode=0o700)  # it holds what was fetched, and who did what
    if folder.is_relative_to(draft) or not (folder / "maestro.pem").exists():
        make_key(folder, algorithm)
    signer = load_signer(folder)
    return signer.public_pem.decode("ascii"), signer.hint


def _move(draft: Path, target: Path) -> None:
    if not target.exists():
        draft.rename(target)
        return
    # Into the empty folder itself: it may be the working directory of the caller's shell.
    try:
        for path in sorted(draft.iterdir()):
            path.rename(target / path.name)
    except OSError:
        for path in target.iterdir():  # it was empty: whatever is there came from here
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _package_name(folder: str) -> str:
    """A name for `[project]`, after the folder (PEP 508: letters, digits, `.`, `_`, `-`)."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder).strip("._-")
    return name or "maestro-project"


@contextmanager
def _coded(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, shutil.Error) as error:
        raise ProjectError(
            f"the project could not be made: {error}",
            place=str(target),
            remedy="check the space and the rights of the folder above it; nothing was left behind",
            code="init-failed",
        ) from error
