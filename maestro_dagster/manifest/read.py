"""From a file to a flow, or to the list of what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from maestro_dagster.manifest import dialect as dialects
from maestro_dagster.manifest.diagnostic import Diagnostic, has_errors, refusal
from maestro_dagster.manifest.dialect import Dialect, Remark, Source
from maestro_dagster.manifest.document import (
    MAX_BYTES,
    DocumentError,
    EncodingError,
    Lines,
    decode,
    offset_of,
)
from maestro_dagster.manifest.interface import KindCatalogue
from maestro_dagster.manifest.model import Flow

MAX_FINDINGS = 1000  # more than that helps nobody


@dataclass(frozen=True, slots=True)
class ReadResult:
    """`flow` is None exactly when a diagnostic is an error."""

    flow: Flow | None
    diagnostics: tuple[Diagnostic, ...]
    dialect: Dialect | None = None


def read_flow(path: Path, catalogue: KindCatalogue | None = None) -> Flow:
    """The flow in a file. Raises ManifestError, whose `diagnostics` hold every finding."""
    result = lint_file(path, catalogue)
    if result.flow is None:
        raise refusal(result.diagnostics)
    return result.flow


def lint_file(path: Path, catalogue: KindCatalogue | None = None, name: str | None = None) -> ReadResult:
    """The flow in a file with all findings; never raises for what is in the file, or that it is missing."""
    shown = name or str(path)
    try:
        size = path.stat().st_size  # before reading: the file may be larger than memory
        if size > MAX_BYTES:
            return _failed(shown, too_large(size))
        if not path.is_file():
            return _failed(
                shown, DocumentError("file-unreadable", "this is no regular file", 0, "Name a file.")
            )
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        return _failed(
            shown,
            DocumentError(
                "file-unreadable", f"the file cannot be read: {reason}", 0, "Check the name and the rights."
            ),
        )
    except ValueError:  # a NUL in the name
        return _failed(shown, DocumentError("file-unreadable", "this is no file name", 0, "Name a file."))
    return read_flow_text(data, shown, catalogue)


def too_large(size: int) -> DocumentError:
    return DocumentError(
        "too-large",
        f"the file has {size} bytes, at most {MAX_BYTES} are read",
        0,
        "Split the flow, or move data out of it.",
    )


def read_flow_text(text: bytes, name: str, catalogue: KindCatalogue | None = None) -> ReadResult:
    """The flow in the bytes of a file called `name`, with all findings sorted by place.

    JSON when the name ends in `.json` or the text begins with `{`, else YAML.
    """
    if len(text) > MAX_BYTES:
        return _failed(name, too_large(len(text)))
    try:
        decoded = decode(text)
    except EncodingError as error:
        return _failed(name, error, error.readable)
    except DocumentError as error:
        return _failed(name, error)
    try:
        tree = parse_text(decoded, name)
        source = dialects.read_source(tree)
    except DocumentError as error:
        return _failed(name, error, decoded)
    return _check(source, name, decoded, catalogue)


def parse_text(text: str, name: str) -> object:
    """The tree of a text. Raises DocumentError."""
    if name.endswith(".json") or (not name.endswith((".yaml", ".yml")) and text.lstrip().startswith("{")):
        from maestro_dagster.manifest.json_document import parse_json

        return parse_json(text)
    from maestro_dagster.manifest.yaml_document import parse_yaml

    return parse_yaml(text)


def _check(source: Source, name: str, text: str, catalogue: KindCatalogue | None) -> ReadResult:
    from maestro_dagster.manifest.lint_name import find_hidden

    lines = Lines(text)
    flow: Flow | None = None
    remarks = list(source.remarks)
    try:
        flow = Flow.model_validate(source.document, by_alias=True, by_name=False)
    except ValidationError as error:
        from maestro_dagster.manifest.explain import explain_all

        found = error.errors(include_url=False)
        remarks += _placed(explain_all(found, source, MAX_FINDINGS), source)
    if flow is not None:
        remarks += _placed(_first(lint_flow(flow, catalogue)), source)
    diagnostics = [_diagnose(remark, source, name, lines) for remark in remarks]
    hidden = find_hidden(text)
    if hidden is not None:
        diagnostics.append(
            Diagnostic(
                name, *lines.place(hidden.offset), hidden.code, "warning", hidden.message, hidden.remedy
            )
        )
    ordered = tuple(sorted(dict.fromkeys(diagnostics)))
    return ReadResult(None if has_errors(ordered) else flow, ordered, source.dialect)


def lint_flow(flow: Flow, catalogue: KindCatalogue | None = None) -> Iterator[Remark]:
    """Everything that the schema cannot say. Checks that walk the graph wait until it is sound."""
    from maestro_dagster.manifest.lint_expression import check_expressions
    from maestro_dagster.manifest.lint_flow import check_settings
    from maestro_dagster.manifest.lint_graph import check_branches, check_ids_and_needs
    from maestro_dagster.manifest.lint_kind import check_kinds
    from maestro_dagster.manifest.lint_name import check_names

    broken = False
    for remark in check_ids_and_needs(flow):
        broken = broken or remark.severity == "error"
        yield remark
    yield from check_names(flow)
    yield from check_settings(flow)
    if not broken:
        yield from check_branches(flow)
        yield from check_expressions(flow)
    if catalogue is not None:
        yield from check_kinds(flow, catalogue)


def _first(remarks: Iterable[Remark]) -> list[Remark]:
    found: list[Remark] = []
    for remark in remarks:
        if len(found) == MAX_FINDINGS:
            found.append(Remark("too-many-errors", "there are more findings", "Mend the first ones.", ()))
            break
        found.append(remark)
    return found


def _placed(remarks: Iterable[Remark], source: Source) -> list[Remark]:
    """Remarks on the canonical document, with their paths in the text instead."""
    return [
        Remark(each.code, each.message, each.remedy, source.origin(each.path), each.severity, each.of_key)
        for each in remarks
    ]


def _diagnose(remark: Remark, source: Source, name: str, lines: Lines) -> Diagnostic:
    line, column = lines.place(offset_of(source.tree, remark.path, of_key=remark.of_key))
    return Diagnostic(name, line, column, remark.code, remark.severity, remark.message, remark.remedy)


def _failed(name: str, error: DocumentError, text: str | None = None) -> ReadResult:
    line, column = (0, 0) if text is None else Lines(text).place(error.offset)
    found = Diagnostic(name, line, column, error.code, "error", error.message, error.remedy)
    return ReadResult(None, (found,))


def read_stdin() -> bytes:
    """At most one byte more than is allowed, so that the size can be told."""
    return sys.stdin.buffer.read(MAX_BYTES + 1)
