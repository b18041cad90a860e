"""The settings of a project: `[tool.maestro]` in its pyproject.toml, each overridable by `MAESTRO_<NAME>`.

In the environment a list is separated by commas, a switch is `true` or `false`, and `none` clears an
optional value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal
from urllib.parse import urlsplit

from maestro_dagster.errors import ProjectError

Origin = Literal["default", "pyproject", "environment"]


def _setting(description: str, *, check: str, default: Any) -> Any:
    return field(default=default, metadata={"description": description, "check": check})


@dataclass(frozen=True, slots=True)
class Settings:
    """Paths are relative to the project's root where they are not absolute."""

    home: str = _setting("folder of the project's state", check="text", default=".maestro")
    tenant: str = _setting("tenant that usage is attributed to", check="name", default="default")
    # Not `project`: MAESTRO_PROJECT names the project's folder.
    project_name: str = _setting(
        "name of the project in usage and budgets, below the tenant", check="name", default="default"
    )
    env: str = _setting("environment: dev, staging, prod, ...", check="name", default="dev")
    artifact_store: str | None = _setting(
        "URL of the artifact store; none: the folder `artifacts` of the home",
        check="text?",
        default=None,
    )
    evidence: str | None = _setting(
        "URL of the evidence store; none: the folder `evidence` of the home", check="text?", default=None
    )
    lake: str | None = _setting(
        "URL of the usage lake; none: the folder `lake` of the home", check="text?", default=None
    )
    database: str | None = _setting(
        "PostgreSQL (`postgresql://...`) with journal, inbox, budgets, waiting usage and Dagster's storage; "
        "none: files of the home",
        check="database?",
        default=None,
    )
    budget_database: str | None = _setting(
        "PostgreSQL where several projects count their budgets together; none: that of `database`",
        check="database?",
        default=None,
    )
    iceberg: bool = _setting(
        "compaction commits each published day to an Iceberg table as well", check="switch", default=False
    )
    repositories: tuple[str, ...] = _setting(
        "Git repositories whose pushes start runs, each `PATH`, `URL` or `NAME=PATH`",
        check="list",
        default=(),
    )
    default_branch: str = _setting("branch that is meant when none is named", check="text", default="main")
    max_concurrent_runs: int = _setting("runs at once; 0: none starts", check="positive-or-0", default=2)
    network_allow_private: tuple[str, ...] = _setting(
        "hosts or CIDRs that steps and price lists may reach although they are private",
        check="list",
        default=(),
    )
    allow_flows_from_push: bool = _setting(
        "take flows from the pushed commit instead of from this project", check="switch", default=False
    )
    pii_allow_stricter_tier: bool = _setting(
        "accept retention tiers that are stricter than short-30d for personal data",
        check="switch",
        default=True,
    )
    policy_engine: str = _setting("engine of the packs", check="regorus|opa", default="regorus")
    opa_command: str = _setting(
        "path of the opa binary, for policy_engine = opa", check="any-text", default=""
    )
    advisories: str = _setting("folder of OSV records", check="text", default="advisories")
    advisories_max_age_days: int | None = _setting(
        "how old advisories may be before the scan denies; none: no limit",
        check="positive?",
        default=None,
    )
    trusted_keys: tuple[str, ...] = _setting(
        "public keys (PEM files) that `maestro verify` trusts besides the project's own",
        check="list",
        default=(),
    )
    request_region: str | None = _setting(
        "region that runs are requested from, for the residency pack", check="text?", default=None
    )
    model_base_url: str | None = _setting(
        "base URL of an OpenAI-compatible model server", check="url?", default=None
    )
    pods: bool = _setting(
        "runs that Dagster launches on Kubernetes: a segment with a step that asks for a pod gets one",
        check="switch",
        default=False,
    )
    server_hosts: tuple[str, ...] = _setting(
        "names by which the server of `maestro dev` may be called, besides localhost and addresses",
        check="list",
        default=(),
    )
    export_webhook: str | None = _setting(
        "URL that is told of each export that Dagster makes; none: nobody", check="url?", default=None
    )
    alert_webhook: str | None = _setting(
        "URL that is told of each threshold of a budget; none: nobody", check="url?", default=None
    )
    public_url: str | None = _setting(
        "URL under which people reach this server, for links in reports to forges; none: no links",
        check="url?",
        default=None,
    )
    otlp_endpoint: str | None = _setting(
        "URL that traces go to by OTLP over HTTP, such as http://localhost:4318/v1/traces; none: nowhere",
        check="url?",
        default=None,
    )
    otlp_headers_secret: str | None = _setting(
        "name of the secret with the headers for it, as `name=value,name=value`; none: no headers",
        check="name?",
        default=None,
    )
    log_format: str = _setting(
        "how the loop and its workers write what they say: text or json", check="text|json", default="text"
    )
    origins: Mapping[str, Origin] = field(default_factory=dict, metadata={"check": ""})

    def origin(self, name: str) -> Origin:
        return self.origins.get(name, "default")

    def table(self) -> list[dict[str, Any]]:
        """For `maestro settings`: `[{"name", "value", "origin", "variable", "description"}]`."""
        return [
            {
                "name": item.name,
                "value": _shown(getattr(self, item.name)),
                "origin": self.origin(item.name),
                "variable": variable(item.name),
                "description": item.metadata["description"],
            }
            for item in _settings()
        ]


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"MAESTRO_{name.upper()}"


def read_settings(table: Mapping[str, Any], environment: Mapping[str, str], place: str) -> Settings:
    """Checks and merges. Raises ProjectError (`setting-unknown`, `setting-invalid`); `place` is the file."""
    known = {item.name: item for item in _settings()}
    if unknown := sorted(set(table) - set(known)):
        near = difflib.get_close_matches(unknown[0].replace("-", "_"), known, n=1, cutoff=0.5)
        raise ProjectError(
            f"unknown setting {unknown[0]!r} in [tool.maestro]",
            place=place,
            remedy=f"did you mean {near[0]!r}?" if near else "`maestro settings` lists them all",
            code="setting-unknown",
        )
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for name, item in known.items():
        if (text := environment.get(variable(name))) is not None:
            values[name] = _checked(item, _from_text(item, text), f"environment variable {variable(name)}")
            origins[name] = "environment"
        elif name in table:
            values[name] = _checked(item, table[name], f"{place}, [tool.maestro] {name}")
            origins[name] = "pyproject"
    return Settings(**values, origins=origins)


def _settings() -> list[Field[Any]]:
    return [item for item in fields(Settings) if item.name != "origins"]


def _shown(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_shown(item) for item in value]
    if isinstance(value, str) and "://" in value:
        # A password may stand in a URL; a listing of settings is pasted into tickets.
        value = re.sub(r"(?i)(?<=[?&])(password|sslpassword)=[^&]*", r"\1=***", value)
        return re.sub(r"(?<=://)[^/]*@", "***@", value)
    return value


def _from_text(item: Field[Any], text: str) -> Any:
    check, text = item.metadata["check"], text.strip()  # what comes out of a file ends with a newline
    if check.endswith("?") and text.lower() in {"", "none"}:
        return None
    if check == "list":
        return [part.strip() for part in text.split(",") if part.strip()]
    if check == "switch":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if check.startswith("positive"):
        return int(text) if re.fullmatch(r"\d{1,9}", text) else text
    return text


def _is_url(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    parts = urlsplit(value)
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _is_database(value: Any) -> bool:
    if not isinstance(value, str) or any(letter.isspace() for letter in value):
        return False
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return False
    # An `@` behind the host is the rest of a password that was not percent-encoded.
    return parts.scheme == "postgresql" and port != 0 and "@" not in parts.path


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "text": ("a text that is not empty", _is_text),
    "any-text": ("a text", lambda value: isinstance(value, str)),
    "text?": ("a text that is not empty", lambda value: value is None or _is_text(value)),
    "url?": ("an http or https URL", lambda value: value is None or _is_url(value)),
    "database?": (
        "a URL that starts with postgresql://, its password percent-encoded",
        lambda value: value is None or _is_database(value),
    ),
    "name": (
        "1 to 64 letters, digits, '.', '_' or '-'",
        lambda value: isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value)),
    ),
    "name?": (
        "1 to 64 letters, digits, '.', '_' or '-'",
        lambda value: value is None or (isinstance(value, str) and bool(_NAME.fullmatch(value))),
    ),
    "list": (
        "a list of texts",
        lambda value: isinstance(value, list | tuple) and all(_is_text(part) for part in value),
    ),
    "positive-or-0": (
        "a whole number, 0 or more",
        lambda value: _is_number(value) or (value == 0 and value is not False),
    ),
    "positive": ("a whole number above 0", _is_number),
    "positive?": ("a whole number above 0", lambda value: value is None or _is_number(value)),
    "switch": ("true or false", lambda value: isinstance(value, bool)),
    "text|json": ("'text' or 'json'", lambda value: value in ("text", "json")),
    "regorus|opa": ("'regorus' or 'opa'", lambda value: value in ("regorus", "opa")),
}


def _checked(item: Field[Any], value: Any, place: str) -> Any:
    wanted, check = _CHECKS[item.metadata["check"]]
    if not check(value):
        raise ProjectError(
            f"the setting {item.name} is not {wanted}",
            place=place,
            remedy=f"{item.metadata['description']}; give {wanted}",
            code="setting-invalid",
        )
    return tuple(value) if isinstance(value, list) else value
