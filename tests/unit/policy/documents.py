"""Generated flows for the packs: the corners of each rule, more often than chance would bring them."""

from __future__ import annotations

import random
from typing import Any

from maestro_dagster.manifest.model import Flow
from maestro_dagster.policy.document import build_document

REGIONS = [
    None,
    "EU",
    "US",
    "eu",
    " US ",
    "RU",
    "KP",
    "ru",
    "RU-MOW",
    "KP_01",
    "PRK",
    "RUHR",
    "",
    "-",
    "日本",
]
CLASSES = [None, "MIT_OK", "OPEN_DATA_OK", "RESTRICTED_TOS", "PROPRIETARY_CLIENT", "EMBARGOED"]
TARGETS = [*CLASSES, "open_data_ok", "", "s3://bucket"]
TIERS = [None, "ephemeral-7d", "short-30d", "standard-365d", "long-1825d", "legal-hold"]
KEYS = [
    "url",
    "ssn",
    "SSN",
    "user_ssn",
    "userSsn",
    "className",
    "passport_no",
    "a/b~c",
    "prompt",
    "é",
    "cardNumber",
]
AMOUNTS = [None, "0", "0.000000001", "0.5", "0.500000001", "5", "4.999999999", "999999999999.999999999"]


def make_document(rng: random.Random) -> dict[str, Any]:
    flow = make_flow(rng)
    document = build_document(
        flow,
        request={"region": rng.choice(REGIONS)},
        estimated_cost_usd=rng.choice(AMOUNTS),
        budget_usd=rng.choice(AMOUNTS),
        effects={},
        estimates={task.id: rng.choice(AMOUNTS) for task in flow.tasks},
        now="2026-01-01T00:00:00Z",
        settings={"pii_allow_stricter_tier": rng.random() < 0.5},
    )
    if rng.random() < 0.05:  # what no caller of ours sends must not pass either
        document.pop(rng.choice(sorted(document)))
    return document


def make_flow(rng: random.Random) -> Flow:
    target = rng.choice(TARGETS)
    return Flow.model_validate(
        {
            "name": "generated",
            "version": "1.0.0",
            "region": rng.choice(REGIONS),
            "license_class": rng.choice(CLASSES),
            "retention_tier": rng.choice(TIERS),
            "contains_pii": rng.random() < 0.5,
            "legal_hold": rng.random() < 0.2,
            "export": None if target is None else {"target": target},
            "budget": {"usd": amount} if (amount := rng.choice(AMOUNTS)) else None,
            "params": {rng.choice(["topic", "ssn"]): {"data_class": rng.choice([None, "personal"])}},
            "labels": {rng.choice(KEYS): "x"},
            "tasks": [make_task(rng, f"t{number}") for number in range(rng.randint(1, 4))],
        }
    )


def make_task(rng: random.Random, step: str) -> dict[str, Any]:
    return {
        "id": step,
        "uses": "pkg:text/template@1.0.0",
        "with": {rng.choice(KEYS): [{rng.choice(KEYS): {"deep": rng.random()}}]},
        "license_class": rng.choice([None, None, *CLASSES]),
        "data_class": rng.choice([None, "public", "personal"]),
        "budget": {"usd": amount} if (amount := rng.choice(AMOUNTS)) else None,
    }
