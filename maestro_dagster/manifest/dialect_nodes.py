"""`nodes:` and `edges:`: flow.json.

The flow's name is `id`; a node has `type` and `config` for `uses` and `with`, and
`output.license_class`; what it needs are the edges that end in it. `data` may hold the governance
fields (`data.contains_pii`). All else is spelt as in `tasks`.
"""

from __future__ import annotations

from typing import Any

from maestro_dagster.manifest.dialect import Path, Source, add_needs, resolve_uses, top_level
from maestro_dagster.manifest.dialect_tasks import write_tasks
from maestro_dagster.manifest.document import Map, plain
from maestro_dagster.manifest.model import Flow

_DATA = {
    "contains_pii": "contains_pii",
    "legal_hold": "legal_hold",
    "retention_tier": "retention_tier",
    "purpose": "purpose",
    "region": "region",
    "license_class": "license_class",
    "classes": "data_classes",
}
_MOVED_BACK = {"uses": "type", "with": "config"}


class _Reader:
    def __init__(self, tree: Map) -> None:
        self.tree = tree
        self.needs_at: dict[tuple[int, int], int] = {}  # (node, position in its needs) -> edge
        self.moved: dict[str, Path] = {}  # key of the flow -> where it stood
        document = top_level(tree, frozenset({"nodes", "edges", "data", "output", "id"}))
        self.source = Source("nodes", tree, document, origin=self.origin)

    def origin(self, path: Path) -> Path:
        if not path or path[0] != "tasks":
            return (*self.moved.get(str(path[0]), path[:1]), *path[1:]) if path else path
        if len(path) < 3:  # noqa: PLR2004 - tasks, number, key
            return ("nodes", *path[1:])
        node, key, rest = path[1], path[2], path[3:]
        if key == "needs" and rest and (node, rest[0]) in self.needs_at:
            return ("edges", self.needs_at[int(node), int(rest[0])], "from")
        if key == "license_class":
            return ("nodes", node, "output", "license_class")
        return ("nodes", node, _MOVED_BACK.get(str(key), key), *rest)

    def read(self) -> Source:
        self.read_name()
        self.lift("data", _DATA)
        self.lift("output", {"license_class": "license_class"})
        nodes = plain(self.tree["nodes"])
        document = self.source.document
        if not isinstance(nodes, list):
            document["tasks"] = nodes  # for the schema to refuse
            return self.source
        document["tasks"] = [self.read_node(node, number) for number, node in enumerate(nodes)]
        self.read_edges(document["tasks"])
        for task in document["tasks"]:
            if isinstance(task, dict):
                add_needs(task, resolve_uses(task))
        return self.source

    def read_name(self) -> None:
        if "id" not in self.tree:
            return
        self.moved["name"] = ("id",)
        name = plain(self.tree["id"])
        if "name" in self.tree and self.tree["name"] != name:
            self.source.refuse(
                "twice", "the flow has an `id` and another `name`", "Keep `id`.", ("name",), of_key=True
            )
        self.source.document["name"] = name

    def lift(self, group: str, names: dict[str, str]) -> None:
        """Moves the governance fields of `group` to the flow itself."""
        if group not in self.tree:
            return
        fields = plain(self.tree[group])
        if not isinstance(fields, dict):
            self.source.refuse("wrong-type", f"`{group}` has to be a map", "Write it as an object.", (group,))
            return
        for key, value in fields.items():
            if key not in names:
                known = ", ".join(names)
                self.source.refuse(
                    "unknown-key", f"`{group}` knows no `{key[:60]}`", f"It knows {known}.", (group, key),
                    of_key=True,
                )  # fmt: skip
            elif names[key] in self.source.document and self.source.document[names[key]] != value:
                self.source.refuse(
                    "twice",
                    f"`{group}.{key}` and `{names[key]}` say two things",
                    "Keep one of them.",
                    (group, key),
                    of_key=True,
                )
            else:
                self.moved[names[key]] = (group, key)
                self.source.document[names[key]] = value

    def read_node(self, node: Any, number: int) -> Any:
        if not isinstance(node, dict):
            return node
        for wrong, right in (("needs", "`edges`"), ("uses", "`type`"), ("with", "`config`")):
            if wrong in node:
                self.source.refuse(
                    "dialect-mixed",
                    f"a node has no `{wrong}`; in this form it is {right}",
                    f"Move it to {right}, or write the flow with `tasks`.",
                    ("nodes", number, wrong),
                    of_key=True,
                )
        names = {"type": "uses", "config": "with"}
        task = {names.get(key, key): value for key, value in node.items() if key not in ("needs", "output")}
        output = node.get("output")
        if isinstance(output, dict) and set(output) <= {"license_class"}:
            if "license_class" in node:
                self.source.refuse(
                    "twice",
                    "the node has `license_class` twice",
                    "Keep the one in `output`.",
                    ("nodes", number, "license_class"),
                    of_key=True,
                )
            task |= output
        elif output is not None:
            self.source.refuse(
                "unknown-key",
                "`output` of a node is an object with `license_class` only",
                "Move the other keys to `config`.",
                ("nodes", number, "output"),
            )
        return task

    def read_edges(self, tasks: list[Any]) -> None:
        edges = plain(self.tree.get("edges", []))
        if not isinstance(edges, list):
            self.source.refuse(
                "wrong-type",
                "`edges` has to be a list",
                'Write {"from": "a", "to": "b"} for each.',
                ("edges",),
            )
            return
        places: dict[str, int] = {}
        for number, task in enumerate(tasks):
            if isinstance(task, dict) and isinstance(task.get("id"), str):
                places.setdefault(task["id"], number)
        for number, edge in enumerate(edges):
            if not isinstance(edge, dict) or set(edge) != {"from", "to"} or not _are_texts(edge):
                self.source.refuse(
                    "edge",
                    "an edge is an object with the two node ids `from` and `to`, and nothing else",
                    'Write {"from": "a", "to": "b"}.',
                    ("edges", number),
                )
            elif edge["to"] not in places:
                self.source.refuse(
                    "unknown-need",
                    f"the edge ends in `{edge['to'][:64]}`, which is no node",
                    "Name a node that exists.",
                    ("edges", number, "to"),
                )
            else:
                place = places[edge["to"]]
                needs = tasks[place].setdefault("needs", [])
                self.needs_at[place, len(needs)] = number
                needs.append(edge["from"])


def _are_texts(edge: dict[str, Any]) -> bool:
    return all(isinstance(value, str) for value in edge.values())


def read_nodes(tree: Map) -> Source:
    return _Reader(tree).read()


def write_nodes(flow: Flow) -> dict[str, Any]:
    form = write_tasks(flow)
    tasks = form.pop("tasks")
    name = form.pop("name")
    edges = [{"from": need, "to": task["id"]} for task in tasks for need in task.get("needs", [])]
    return {"id": name, **form, "nodes": [_write_node(task) for task in tasks], "edges": edges}


def _write_node(task: dict[str, Any]) -> dict[str, Any]:
    node = {"id": task["id"], "type": task["uses"]}
    for key, value in task.items():
        if key == "with":
            node["config"] = value
        elif key == "license_class":
            node["output"] = {"license_class": value}
        elif key not in ("id", "uses", "needs"):
            node[key] = value
    return node
