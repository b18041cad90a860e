"""The older names of step kinds, each bound to one pinned kind for ever.

Append-only: a released line never changes, for the digest of a signed flow depends on it. A newer
version of a kind gets no alias; flows name it by its package URL. Kinds that are not installed are
bound all the same, so that lint can say what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]
Rewrite = Callable[[Config], tuple[str, Config]]  # config -> suffix of `pkg:` and the kind's own config


@dataclass(frozen=True, slots=True)
class Resolved:
    """What an alias stands for. `needs` are the steps that its config named as context."""

    uses: str
    config: Config
    needs: tuple[str, ...] = ()


def resolve_alias(name: str, config: Mapping[str, Any]) -> Resolved | None:
    """The pinned kind and config behind an older name; None when it is no alias."""
    rewrite = ALIASES.get(name)
    if rewrite is None:
        return None
    suffix, own = rewrite(dict(config))
    needs: tuple[str, ...] = ()
    if suffix.startswith("llm/"):
        needs = take_context(own)
    return Resolved(f"pkg:{suffix}", own, needs)


def take_context(config: Config) -> tuple[str, ...]:
    """Removes `context_from` and gives the steps in it; what is no list of texts stays, to be refused."""
    steps = config.get("context_from")
    if isinstance(steps, str):
        steps = [steps]
    if not isinstance(steps, list) or not all(isinstance(each, str) for each in steps):
        return ()
    del config["context_from"]
    return tuple(steps)


def _plain(suffix: str) -> Rewrite:
    return lambda config: (suffix, config)


def _model(suffix: str) -> Rewrite:
    def rewrite(config: Config) -> tuple[str, Config]:
        policy = config.get("policy")
        if isinstance(policy, dict):
            policy, route = dict(policy), config.get("route")
            route = dict(route) if isinstance(route, dict) else {}
            if "latencyP95" in policy:
                route["max_p95_ms"] = policy.pop("latencyP95")
            if policy.pop("minimizeCost", None) is True:
                route["minimise"] = "cost"
            config = {key: value for key, value in config.items() if key not in ("policy", "route")}
            config |= {"route": route} if route else {}
            config |= {"policy": policy} if policy else {}
        return suffix, config

    return rewrite


def _http(config: Config) -> tuple[str, Config]:
    method = config.get("method", "GET")
    if isinstance(method, str) and method.upper() == "GET":
        return "http/get@1.0.0", {key: value for key, value in config.items() if key != "method"}
    return "http/request@1.0.0", config


def _tool(config: Config) -> tuple[str, Config]:
    name = config.get("name")
    if not isinstance(name, str):
        return "tool/python@1.0.0", config
    rest = {key: value for key, value in config.items() if key != "name"}
    suffix = _TOOLS.get(name)
    return (suffix, rest) if suffix else ("tool/python@1.0.0", {"entry": name, **rest})


def _scan(config: Config) -> tuple[str, Config]:
    names = {"threshold": "fail_on"}
    return "scan/vulnerabilities@1.0.0", {names.get(key, key): value for key, value in config.items()}


def _sign(config: Config) -> tuple[str, Config]:
    # What is signed is a Sigstore bundle, which cosign verifies; another provider stays, to be refused.
    if config.get("provider") == "cosign":
        config = {key: value for key, value in config.items() if key != "provider"}
    return "sign/artifact@1.0.0", config


def _file(config: Config) -> tuple[str, Config]:
    mode = config.get("mode")
    rest = {key: value for key, value in config.items() if key != "mode"}
    if mode == "write" or (mode is None and "content" in config):
        return "file/write@1.0.0", rest
    return "file/read@1.0.0", rest if mode == "read" else config


_TOOLS: Mapping[str, str] = {
    "rssParse": "feed/parse@1.0.0",
    "jsonQuery": "json/query@1.0.0",
    "template": "text/template@1.0.0",
}

ALIASES: Mapping[str, Rewrite] = {
    # the pipeline form
    "llm.plan": _model("llm/plan@1.0.0"),
    "llm.generate": _model("llm/generate@1.0.0"),
    "web.scrape": _plain("web/scrape@1.0.0"),
    "build.container": _plain("build/container@1.0.0"),
    "security.scan": _scan,
    "supplychain.sign": _sign,
    "registry.push": _plain("registry/push@1.0.0"),
    "cd.rollout": _plain("cd/rollout@1.0.0"),
    # the node types of flow.json
    "http": _http,
    "tool": _tool,
    "llm": _model("llm/generate@1.0.0"),
    "prompt": _model("llm/generate@1.0.0"),
    "file": _file,
    "branch": _plain("control/branch@1.0.0"),
    "parallel": _plain("control/parallel@1.0.0"),
    "rate-limit": _plain("control/rate@1.0.0"),
}
