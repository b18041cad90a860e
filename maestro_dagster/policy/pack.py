"""Policy packs on disk: `<folder>/<pack>/*.rego` and `data.json`.

Every folder that holds a `.rego` file is a pack, and is enforced. Its rules stand in the package
`maestro.<pack>`; its `data.json` is seen as `data.<pack>`, where `opa test policies/` sees it too.
Files called `*_test.rego` are tests and are never loaded for a verdict.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maestro_dagster.errors import PolicyError

MAX_FILE_BYTES = 1024 * 1024
MAX_FILES = 200
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Pack:
    """One pack as read. `problem` is set when it cannot be used; it then denies, it is never left out.

    `digest` is over the enforced files (rules and data.json), as `sha256:<hex>`.
    """

    name: str
    digest: str
    modules: tuple[tuple[str, str], ...] = ()  # path for messages, text
    tests: tuple[tuple[str, str], ...] = ()
    data: dict[str, Any] | None = None
    problem: PolicyError | None = None

    @property
    def package(self) -> str:
        return f"data.maestro.{self.name}"


def read_packs(folder: Path) -> tuple[Pack, ...]:
    """All packs of a folder, sorted by name. Raises PolicyError when the folder cannot be read."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        loose = [entry.name for entry in entries if entry.suffix == ".rego" and entry.is_file()]
        packs = [entry for entry in entries if entry.is_dir() and any(entry.rglob("*.rego"))]
    except OSError as error:
        raise PolicyError(
            f"the policies cannot be read: {error.strerror}",
            place=str(folder),
            remedy="create the folder with at least one pack, for example by `maestro init`",
            code="policies-missing",
        ) from error
    if loose:
        raise PolicyError(
            f"{loose[0]} stands outside a pack",
            place=str(folder),
            remedy="move it into a folder of its own: policies/<pack>/<pack>.rego",
            code="policy-outside-pack",
        )
    return tuple(read_pack(entry) for entry in packs)


def read_pack(folder: Path) -> Pack:
    """One pack. A pack that cannot be read comes back with its problem."""
    digest = hashlib.sha256()
    try:
        files = sorted(
            path for path in folder.rglob("*") if path.suffix == ".rego" or path.name == "data.json"
        )
        texts = [
            (f"{folder.name}/{path.relative_to(folder)}", _read(path)) for path in _bounded(files, folder)
        ]
        enforced = [(name, text) for name, text in texts if not name.endswith("_test.rego")]
        for name, text in enforced:
            encoded = text.encode()
            digest.update(f"{name}\0{len(encoded)}\0".encode() + encoded)
        return Pack(
            name=folder.name,
            digest=f"sha256:{digest.hexdigest()}",
            modules=tuple(pair for pair in enforced if pair[0].endswith(".rego")),
            tests=tuple(pair for pair in texts if pair[0].endswith("_test.rego")),
            data=_data(folder, texts),
            problem=_check_shape(folder, texts, enforced),
        )
    except PolicyError as error:
        return Pack(name=folder.name, digest=f"sha256:{digest.hexdigest()}", problem=error)


def _bounded(files: Sequence[Path], folder: Path) -> Sequence[Path]:
    if len(files) > MAX_FILES:
        raise PolicyError(f"the pack has {len(files)} files, more than {MAX_FILES}", place=str(folder))
    return files


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise PolicyError(
                f"the file is larger than {MAX_FILE_BYTES} bytes",
                place=str(path),
                remedy="split it, or keep tables outside of the pack",
            )
        return data.decode("utf-8")
    except OSError as error:
        raise PolicyError(f"the file cannot be read: {error.strerror}", place=str(path)) from error
    except UnicodeDecodeError as error:
        raise PolicyError("the file is not UTF-8", place=str(path), remedy="save it as UTF-8") from error


def _data(folder: Path, texts: Sequence[tuple[str, str]]) -> dict[str, Any] | None:
    """`data.json` becomes `data.<pack>`."""
    text = dict(texts).get(f"{folder.name}/data.json")
    if text is None:
        return None
    try:
        return {folder.name: json.loads(text, parse_constant=_refuse_constant)}
    except (ValueError, RecursionError) as error:
        raise PolicyError(
            f"data.json is not JSON: {error}", place=str(folder), remedy="mend the file"
        ) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _check_shape(
    folder: Path, texts: Sequence[tuple[str, str]], enforced: Sequence[tuple[str, str]]
) -> PolicyError | None:
    place = str(folder)
    if not _NAME.fullmatch(folder.name):
        remedy = "use lower-case letters, digits and underscores: the name is part of the package"
        return PolicyError(f"{folder.name!r} cannot be the name of a pack", place=place, remedy=remedy)
    nested = [name for name, _ in texts if name.count("/") > 1]
    if nested:
        remedy = "move it up: every file of a pack stands directly in its folder"
        return PolicyError(f"{nested[0]} stands in a sub-folder", place=place, remedy=remedy)
    if not any(name.endswith(".rego") for name, _ in enforced):
        return PolicyError(
            "the pack has tests but no rules", place=place, remedy="add its rules or remove it"
        )
    return None
