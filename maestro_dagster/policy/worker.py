"""The child process that holds regorus. Started by `child.py`; never imported by the rest.

Frames both ways: four bytes of length (big endian), then JSON. One request, one answer. Requests:

    {"op": "load", "key", "modules": [[path, text]], "data": {..}|null, "checked": bool, "v0": bool}
    {"op": "evaluate", "key", "input": JSON text or null, "rules": ["data.a.b", ..], "cpu_seconds"}
    {"op": "query", "key", "input", "query", "cpu_seconds"}

Answers: {"version", ..result} or {"error": {"kind": "language"|"load"|"evaluate"|"unloaded", "message"}}.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from importlib.metadata import version
from typing import Any, BinaryIO

_LENGTH = struct.Struct(">I")
_KEPT = 64  # loaded packs; the one loaded first makes room
_UNDEFINED = {"undefined": True}


def read_frame(stream: BinaryIO) -> dict[str, Any] | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    body = stream.read(_LENGTH.unpack(head)[0])
    return dict(json.loads(body))


def write_frame(stream: BinaryIO, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


class Worker:
    """Loaded packs by key. A key is the digest of what was loaded, so it never means two things."""

    def __init__(self) -> None:
        self.engines: dict[str, Any] = {}
        self.version = f"regorus {version('gordon-to-regorus')}"

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        operation = {"load": self.load, "evaluate": self.evaluate, "query": self.query}[request["op"]]
        try:
            return {"version": self.version, **operation(request)}
        except BaseException as error:
            # A panic of the engine is no Exception, so that nobody goes on with what it left behind.
            if type(error).__name__ != "PanicException":
                raise
            self.engines.pop(request["key"], None)
            return {"version": self.version, **_failure("evaluate", error)}

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        import regorus

        from maestro_dagster.policy.language import read_package

        engine = regorus.Engine()
        engine.set_rego_v0(request.get("v0", False))
        engine.set_gather_prints(True)
        try:
            for path, text in request["modules"]:
                engine.add_policy(path, text)
            if request.get("data") is not None:
                engine.add_data_json(json.dumps(request["data"]))
            trees = [item["ast"] for item in json.loads(engine.get_ast_as_json())]
            asked = _parse_query(request["query"]) if request.get("query") else []
        except (RuntimeError, ValueError) as error:
            return _failure("load", error)
        if request.get("checked", True):
            problems = _find_problems(request, trees, asked)
            if problems:
                return {"error": {"kind": "language", "message": "; ".join(problems[:5])}}
        while len(self.engines) >= _KEPT:
            self.engines.pop(next(iter(self.engines)))
        self.engines[request["key"]] = engine
        return {"packages": [read_package(tree) for tree in trees]}

    def evaluate(self, request: dict[str, Any]) -> dict[str, Any]:
        engine = self.engines.get(request["key"])
        if engine is None:
            return {"error": {"kind": "unloaded", "message": ""}}
        _limit_cpu(request["cpu_seconds"])
        try:
            if request.get("input") is not None:
                engine.set_input_json(request["input"])
            values = [_value(engine.eval_query_as_json(rule)) for rule in request["rules"]]
        except (RuntimeError, ValueError) as error:
            return _failure("evaluate", error)
        return {"values": values}

    def query(self, request: dict[str, Any]) -> dict[str, Any]:
        engine = self.engines.get(request["key"])
        if engine is None:
            return {"error": {"kind": "unloaded", "message": ""}}
        _limit_cpu(request["cpu_seconds"])
        try:
            if request.get("input") is not None:
                engine.set_input_json(request["input"])
            found = json.loads(engine.eval_query_as_json(request["query"]))
        except (RuntimeError, ValueError) as error:
            return _failure("evaluate", error)
        return {"result": found.get("result", [])}


def _value(text: str) -> dict[str, Any]:
    results = json.loads(text).get("result")
    if not results:
        return _UNDEFINED
    return {"value": results[0]["expressions"][0]["value"]}


def _parse_query(query: str) -> list[Any]:
    """The query as the body of a rule, for the allow-list only."""
    import regorus

    engine = regorus.Engine()
    engine.add_policy("query", f"package query\nimport rego.v1\nquery if {{\n{query}\n}}\n")
    return [item["ast"] for item in json.loads(engine.get_ast_as_json())]


def _find_problems(
    request: dict[str, Any], trees: list[dict[str, Any]], asked: list[dict[str, Any]]
) -> list[str]:
    from maestro_dagster.policy import language

    functions = frozenset(name for tree in trees for name in language.list_functions(tree))
    rules = frozenset(name for tree in trees for name in language.list_names(tree))
    files = [path for path, _ in request["modules"]]
    named = [*zip(files, trees, strict=True), *(("query", tree) for tree in asked)]
    found = [
        f"{name} {problem}"
        for name, tree in named
        for problem in language.find_problems(tree, functions, rules)
    ]
    found += language.find_text_problems([*named, ("data.json", request.get("data"))])
    return found + language.find_data_problems(request.get("data"))


def _failure(kind: str, error: BaseException) -> dict[str, Any]:
    # regorus puts a Rust backtrace behind its message; nobody who writes a pack can use it.
    message = str(error).split("Stack backtrace", 1)[0].strip()
    return {"error": {"kind": kind, "message": message[:2000]}}


def _limit_cpu(seconds: float) -> None:
    """The kernel ends an evaluation that runs on although the parent, who keeps the time, has died."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def limit_process(memory_bytes: int) -> None:
    """No core dumps, no files written, bounded memory: set before regorus is imported."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def serve(memory_bytes: int) -> None:
    limit_process(memory_bytes)
    worker = Worker()
    import regorus  # noqa: F401 - what takes its time is done before the clock of the first question runs

    write_frame(sys.stdout.buffer, {"version": worker.version})
    while (request := read_frame(sys.stdin.buffer)) is not None:
        write_frame(sys.stdout.buffer, worker.answer(request))
