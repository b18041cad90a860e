"""Every name that telemetry uses: spans, their attributes, metrics. Dashboards and alerts rely on them.

`cicd.*`, `vcs.*`, `gen_ai.*`, `http.*` and `error.type` are those of OpenTelemetry's semantic conventions
(https://opentelemetry.io/docs/specs/semconv/); they stand here as texts because the constants of its
packages move from release to release. What has no name there begins with `maestro.`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SERVICE = "maestro"
SCOPE = "maestro_dagster"  # the instrumentation scope of every span

# Resource
SERVICE_NAME = "service.name"
SERVICE_VERSION = "service.version"
SERVICE_NAMESPACE = "service.namespace"  # the tenant
ENVIRONMENT = "deployment.environment.name"

# Spans
PUSH_SPAN = "push"
RUN_SPAN = "run"
ADMISSION_SPAN = "admission"
SEGMENT_SPAN = "segment"
STEP_SPAN = "step"
CALL_SPAN = "call"
SPAN_KIND = "maestro.span.kind"  # one of the six above

PIPELINE_NAME = "cicd.pipeline.name"
PIPELINE_RUN_ID = "cicd.pipeline.run.id"
PIPELINE_RESULT = "cicd.pipeline.result"  # success, failure, cancellation, skip
PIPELINE_STATE = "cicd.pipeline.run.state"
PIPELINE_ACTION = "cicd.pipeline.action.name"
TASK_NAME = "cicd.pipeline.task.name"
TASK_RUN_ID = "cicd.pipeline.task.run.id"
TASK_RESULT = "cicd.pipeline.task.run.result"
WORKER_ID = "cicd.worker.id"
REPOSITORY = "vcs.repository.url.full"
REF_NAME = "vcs.ref.head.name"
REVISION = "vcs.ref.head.revision"
CHANGE_ID = "vcs.change.id"

GEN_AI_PROVIDER = "gen_ai.provider.name"
GEN_AI_OPERATION = "gen_ai.operation.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
GEN_AI_FINISH_REASONS = "gen_ai.response.finish_reasons"
GEN_AI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GEN_AI_CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"

HTTP_METHOD = "http.request.method"
HTTP_STATUS = "http.response.status_code"
URL_FULL = "url.full"  # without credentials, query and fragment
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
PROCESS_COMMAND = "process.executable.name"
PROCESS_EXIT = "process.exit.code"
ERROR_TYPE = "error.type"  # the code of a MaestroError

FLOW_VERSION = "maestro.flow.version"
FLOW_DIGEST = "maestro.flow.digest"
RUN_STATUS = "maestro.run.status"
RUN_CAUSE = "maestro.run.cause"
DAGSTER_RUN = "maestro.dagster.run_id"
EVENT_ID = "maestro.event.id"
SEGMENT_STEPS = "maestro.segment.steps"
STEP_USES = "maestro.step.uses"
STEP_ITERATION = "maestro.step.iteration"
STEP_ATTEMPT = "maestro.step.attempt"
STEP_STATUS = "maestro.step.status"
STEP_REASON = "maestro.step.reason"
ISOLATION = "maestro.isolation"
COST_USD = "maestro.cost.usd"  # a decimal as text: money is no float
TENANT = "maestro.tenant"
# The conventions know pipelines and tasks, but nobody who allows them.
POLICY_DECISION = "maestro.policy.decision"  # allow, deny
POLICY_PACKS = "maestro.policy.packs"  # `<pack>@<digest>` of each that was asked
POLICY_RULES = "maestro.policy.rules"  # that were broken
POLICY_ENGINE = "maestro.policy.engine"
POLICY_INPUT = "maestro.policy.input.digest"
RECOVERED = "maestro.recovered"  # the span's end was written down by another process than began it

MetricKind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What `/metrics` serves under this name. A histogram adds `_bucket`, `_sum` and `_count`."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds, without +Inf


_RUN_MS = (250, 500, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 1.2e5, 3e5, 6e5, 1.2e6, 3.6e6)
_START_MS = (50, 100, 250, 500, 1e3, 2e3, 3e3, 5e3, 1e4, 3e4, 6e4, 3e5)
_CALL_MS = (10, 25, 50, 100, 250, 500, 700, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4)
_HTTP_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.35, 0.5, 0.7, 1.0, 2.5, 5.0, 10.0)

RUNS = Metric(
    "maestro_runs_total",
    "counter",
    "Runs that have ended, by status: succeeded, failed, denied, cancelled.",
    ("flow", "status"),
)
RUNS_REQUESTED = Metric(
    "maestro_runs_requested_total",
    "counter",
    "Runs that were asked for, by cause: push, poll, schedule, manual, ...",
    ("flow", "cause"),
)
RUN_DURATION = Metric(
    "maestro_run_duration_ms",
    "histogram",
    "Milliseconds from a run's first step to its end.",
    ("flow",),
    _RUN_MS,
)
RUNS_OPEN = Metric(
    "maestro_runs_open", "gauge", "Runs that have not ended, by status: requested, running.", ("status",)
)
RUNS_STUCK = Metric(
    "maestro_runs_stuck", "gauge", "Runs that have begun and that no living process has held for 2 minutes."
)
RUN_OLDEST = Metric(
    "maestro_run_oldest_seconds", "gauge", "Seconds since the oldest run that has not ended was asked for."
)
STEPS = Metric(
    "maestro_steps_total",
    "counter",
    "Steps that have ended, by status: done, failed, skipped, cancelled, reused.",
    ("flow", "status"),
)
STEP_ATTEMPTS = Metric(
    "maestro_step_attempts_total",
    "counter",
    "Attempts of steps, by outcome: done, failed, cancelled, lost (their process died).",
    ("flow", "outcome"),
)
QUEUE_DEPTH = Metric(
    "maestro_queue_depth",
    "gauge",
    "What waits: events not yet turned into runs, runs not yet begun, reports not yet delivered.",
    ("queue",),  # events, runs, reports
)
QUEUE_OLDEST = Metric(
    "maestro_queue_oldest_seconds",
    "gauge",
    "Seconds that the oldest entry of a queue has waited.",
    ("queue",),
)
EVENTS = Metric(
    "maestro_events_total",
    "counter",
    "Events taken into the inbox, by source: hook, poll, webhook.",
    ("source", "kind"),
)
REPORTS = Metric(
    "maestro_reports_total",
    "counter",
    "Reports to forges, by outcome: delivered, given-up.",
    ("forge", "outcome"),
)
BUDGET_SPEND = Metric(
    "maestro_budget_spend_usd_total",
    "counter",
    "USD that ended steps have cost, models and compute. A step without a known price counts nothing.",
    ("flow",),
)
UNPRICED = Metric(
    "maestro_steps_unpriced_total", "counter", "Ended steps whose cost is not known in full.", ("flow",)
)
TOKENS = Metric("maestro_tokens_total", "counter", "Model tokens that ended steps used.", ("flow",))
BUDGET_LIMIT = Metric(
    "maestro_budget_limit_usd",
    "gauge",
    "The hard limit of a budget in its current period.",
    ("budget", "period"),
)
BUDGET_USED = Metric(
    "maestro_budget_used_ratio",
    "gauge",
    "Spent and reserved share of a budget's hard limit in its current period; 1 is all of it.",
    ("budget", "period"),
)
BUDGET_FROZEN = Metric("maestro_budget_frozen", "gauge", "Nodes of the budget tree that are frozen.")
POLICY_DECISIONS = Metric(
    "maestro_policy_decisions_total", "counter", "Admission decisions: allow, deny.", ("flow", "decision")
)
POLICY_DENIALS = Metric("maestro_policy_denials_total", "counter", "Runs that admission denied.", ("flow",))
RECEIPTS = Metric("maestro_receipts_total", "counter", "Ended runs that have a signed receipt.")
RECEIPTS_FAILED = Metric(
    "maestro_receipts_failed",
    "gauge",
    "Ended runs without a receipt: missing (none within a minute), lost (its file is gone).",
    ("reason",),
)
ROUTER_REQUESTS = Metric(
    "mc_router_requests_total", "counter", "Model calls that were made.", ("provider", "model")
)
ROUTER_SUCCESS = Metric(
    "mc_router_success_total", "counter", "Model calls that gave a usable answer.", ("provider", "model")
)
ROUTER_FAILURES = Metric(
    "mc_router_failures_total",
    "counter",
    "Model calls that failed. class: 5xx, 4xx, unreachable, degenerate, cancelled, other.",
    ("provider", "model", "class"),
)
ROUTER_LATENCY = Metric(
    "mc_router_latency_ms", "histogram", "Milliseconds of a model call.", ("provider", "model"), _CALL_MS
)
ERROR_BUDGET_BURN = Metric(
    "mc_error_budget_burn_percent",
    "gauge",
    "Bad minutes of the last 28 days in percent of the 30 that are allowed, by objective: "
    "availability (a run was lost to the platform), publish_to_start (over 5 % waited more than 5 s).",
    ("slo",),
)
PUBLISH_TO_START = Metric(
    "mc_publish_to_start_ms",
    "histogram",
    "Milliseconds from the event (else the request) to the run's start.",
    ("flow",),
    _START_MS,
)
HTTP_DURATION = Metric(
    "http_server_duration_seconds",
    "histogram",
    "Seconds that this server took to answer; code is the HTTP status.",
    ("method", "route", "code"),
    _HTTP_S,
)
SOURCE_UP = Metric(
    "maestro_source_up",
    "gauge",
    "1 when the records behind these figures could be read: journal, events, reports, budgets, evidence.",
    ("source",),
)
DISK_FREE = Metric("maestro_disk_free_bytes", "gauge", "Bytes free where the project's state is.")
INFO = Metric("maestro_info", "gauge", "Always 1; says which release serves.", ("version", "tenant", "env"))

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
