"""A flow from request to evidence."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from maestro_dagster.engine.engine import Engine
from maestro_dagster.errors import DeniedError, JournalError, KeyMissingError, UsageError
from maestro_dagster.evidence.verify import verify_bundle

Perform = Callable[..., Any]
pytestmark = pytest.mark.parametrize("journal_kind", ["sqlite", "postgres"], indirect=True)


def read_claims(engine: Engine, run_id: str = "r1") -> dict[str, Any]:
    with zipfile.ZipFile(engine.services.evidence_folder / f"{run_id}.zip") as archive:
        lines = archive.read("signed-claims.jsonl").splitlines()
    claims = [json.loads(line) for line in lines]
    return {claim["step"]: claim for claim in claims}


def verify(engine: Engine, run_id: str = "r1") -> Any:
    signer = engine.services.signer
    assert signer
    return verify_bundle(engine.services.evidence_folder / f"{run_id}.zip", [signer.public_pem])


def test_a_chain_runs_and_its_evidence_verifies(
    engine: Engine, perform: Perform, support: ModuleType
) -> None:
    flow = support.make_flow(
        {"id": "one", "with": {"text": "${{ params.word }}", "scratch": True}},
        {"id": "two", "needs": ["one"], "with": {"text": "${{ steps.one.output }}!"}},
        {"id": "tree", "uses": support.TREE, "needs": ["two"]},
        params={"word": {"default": "hello"}},
    )
    outcomes, view = perform(flow)
    assert [(each.step, each.status, each.fresh) for each in outcomes] == [
        ("one", "done", True),
        ("two", "done", True),
        ("tree", "done", True),
    ]
    assert view.status == "succeeded"
    assert outcomes[1].artifact
    assert engine.services.store.read(outcomes[1].artifact.digest).startswith(b"hello! one=")
    report = verify(engine)
    assert (report.ok, report.claims, report.problems) == (True, 3, ())
    claims = read_claims(engine)
    assert claims["two"]["inputs"][0]["source"] == "step:one"
    assert [item["path"] for item in claims["tree"]["output"]["files"]] == ["a", "sub/b"]
    assert not list(engine.services.scratch_folder.iterdir())


def test_closing_twice_gives_the_same_bytes_even_after_the_bundle_was_lost(
    engine: Engine, perform: Perform, support: ModuleType
) -> None:
    perform(support.make_flow({"id": "one"}))
    path = engine.close("r1")
    before = path.read_bytes()
    assert engine.close("r1").read_bytes() == before
    path.unlink()
    assert engine.close("r1").read_bytes() == before


def test_a_failed_step_skips_what_needs_it_and_the_rest_goes_on(
    engine: Engine, perform: Perform, support: ModuleType
) -> None:
    flow = support.make_flow(
        {"id": "bad", "with": {"fail": "broken"}},
        {"id": "after", "needs": ["bad"]},
        {"id": "later", "needs": ["after"]},
        {"id": "apart"},
        {"id": "either", "needs": ["later", "apart"], "join": "any"},
    )
    _, view = perform(flow)
    found = {step.step: step.status for step in view.steps}
    assert found == {
        "bad": "failed",
        "after": "skipped",
        "later": "skipped",
        "apart": "done",
        "either": "done",
    }
    assert view.status == "failed"
    assert view.error
    assert view.error["code"] == "made-to-fail"
    claims = read_claims(engine)
    assert claims["after"]["reason"] == "it needs bad, which failed"
    assert claims["bad"]["error"]["remedy"] == "do better"
    assert verify(engine).ok


def test_a_branch_takes_its_way_and_a_join_any_comes_after(
    engine: Engine, perform: Perform, support: ModuleType
) -> None:
    flow = support.make_flow(
        {
            "id": "choose",
            "uses": "pkg:control/branch@1.0.0",
            "with": {
                "value": "${{ params.env }}",
                "cases": [{"equals": "prod", "steps": ["hard"]}],
                "default": ["soft"],
            },
        },
        {"id": "hard", "needs": ["choose"]},
        {"id": "soft", "needs": ["choose"]},
        {"id": "join", "needs": ["hard", "soft"], "join": "any"},
        {"id": "both", "needs": ["hard", "soft"]},
        params={"env": {"default": "dev"}},
    )
    _, view = perform(flow)
    assert {step.step: step.status for step in view.steps} == {
        "choose": "done",
        "hard": "skipped",
        "soft": "done",
        "join": "done",
        "both": "skipped",
    }
    assert view.status == "succeeded"
    assert read_claims(engine)["hard"]["reason"] == "the branch choose did not choose it"
    assert verify(engine).ok


def test_a_condition_that_does_not_hold_skips(engine: Engine, perform: Perform, support: ModuleType) -> None:
    flow = support.make_flow(
        {"id": "data", "with": {"json_": {"found": 0}}},
        {"id": "no", "needs": ["data"], "if": "steps.data.output.found > 0"},
        {"id": "yes", "needs": ["data"], "if": "steps.data.output.found == 0"},
    )
    _, view = perform(flow)
    assert {step.step: step.status for step in view.steps} == {"data": "done", "no": "skipped", "yes": "done"}


def test_a_map_runs_its_kind_for_each_item(engine: Engine, perform: Perform, support: ModuleType) -> None:
    inner = {"text": "${{ item.name }} at ${{ index }}"}
    flow = support.make_flow(
        {"id": "list", "with": {"json_": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}},
        {
            "id": "each",
            "uses": "pkg:control/map@1.0.0",
            "needs": ["list"],
            "with": {"uses": support.MAKE, "with": inner, "concurrency": 2},
        },
    )
    outcomes, view = perform(flow)
    assert view.status == "succeeded"
    artifact = outcomes[1].artifact
    assert artifact
    listed = json.loads(engine.services.store.read(artifact.digest))
    texts = [engine.services.store.read(item["digest"]).split(b" list=")[0] for item in listed]
    assert texts == [b"a at 0", b"b at 1", b"c at 2"]
    claim = read_claims(engine)["each"]
    assert [(item["index"], item["status"]) for item in claim["iterations"]] == [
        (0, "done"),
        (1, "done"),
        (2, "done"),
    ]
    assert verify(engine).ok


def test_a_map_with_too_many_items_fails(engine: Engine, perform: Perform, support: ModuleType) -> None:
    flow = support.make_flow(
        {
            "id": "each",
            "uses": "pkg:control/map@1.0.0",
            "with": {"items": [1, 2, 3], "max_items": 2, "uses": support.MAKE},
        }
    )
    outcomes, _ = perform(flow)
    assert outcomes[0].error
    assert outcomes[0].error["code"] == "map-too-many"


def test_one_bad_item_fails_the_map_and_names_it(
    engine: Engine, perform: Perform, support: ModuleType
) -> None:
    flow = support.make_flow(
        {
            "id": "each",
            "uses": "pkg:control/map@1.0.0",
            "with": {"items": ["", "x"], "uses": support.MAKE, "with": {"fail": "${{ item }}"}},
        }
    )
    outcomes, view = perform(flow)
    assert outcomes[0].error
    assert outcomes[0].error["code"] == "map-item-failed"
    assert "item 1" in outcomes[0].error["fact"]
    assert view.status == "failed"
    assert verify(engine).ok


def test_attempts_are_made_again_until_one_succeeds(
    engine: Engine, perform: Perform, support: ModuleType
) -> None:
    outcomes, view = perform(support.make_flow({"id": "flaky", "with": {"fail_first": 2}, "retries": 2}))
    assert (outcomes[0].status, outcomes[0].attempts) == ("done", 3)
    assert view.status == "succeeded"


def test_retries_run_out(engine: Engine, perform: Perform, support: ModuleType) -> None:
    outcomes, _ = perform(support.make_flow({"id": "flaky", "with": {"fail_first": 9}, "retries": 1}))
    assert (outcomes[0].status, outcomes[0].attempts) == ("failed", 2)


def test_an_error_for_good_is_not_tried_again(engine: Engine, perform: Perform, support: ModuleType) -> None:
    outcomes, _ = perform(support.make_flow({"id": "bad", "with": {"fail": "no"}, "retries": 5}))
    assert outcomes[0].attempts == 1


def test_a_step_is_stopped_at_its_time_limit(engine: Engine, perform: Perform, support: ModuleType) -> None:
    outcomes, _ = perform(support.make_flow({"id": "slow", "with": {"seconds": 60}, "timeoutSeconds": 1}))
    assert outcomes[0].error
    assert outcomes[0].error["code"] == "step-timeout"
    assert outcomes[0].duration_ms < 5000


def test_a_bug_in_a_kind_is_a_coded_error(engine: Engine, perform: Perform, support: ModuleType) -> None:
    outcomes, _ = perform(support.make_flow({"id": "bug", "with": {"crash": True}}))
    assert outcomes[0].error
    assert outcomes[0].error["code"] == "step-crashed"
    assert "Traceback" not in outcomes[0].error["fact"]
    lines = [line["line"] for line in engine.logs("r1", "bug")]
    assert any("Traceback" in line for line in lines)


def test_secrets_stay_out_of_logs_errors_and_evidence(
    open_engine: Callable[..., Engine], support: ModuleType
) -> None:
    engine = open_engine(secrets={"token": "s3cr3t-value"}.get)
    flow = support.make_flow(
        {"id": "leak", "secrets": ["token"], "with": {"secret": "token", "fail": "it was"}}
    )
    engine.request(support.make_request("r1", flow))
    outcomes = list(engine.stream_segment("r1", ["leak"]))
    bundle = engine.close("r1").read_bytes()
    engine.services.journal.close()
    assert outcomes[0].status == "failed"
    assert b"s3cr3t-value" not in bundle
    home = engine.services.evidence_folder.parent
    for path in home.rglob("*"):
        if path.is_file():
            assert b"s3cr3t-value" not in path.read_bytes(), path


def test_a_secret_that_was_not_declared_is_refused(
    open_engine: Callable[..., Engine], support: ModuleType
) -> None:
    engine = open_engine(secrets={"token": "s3cr3t-value"}.get)
    engine.request(support.make_request("r1", support.make_flow({"id": "leak", "with": {"secret": "token"}})))
    outcome = next(engine.stream_segment("r1", ["leak"]))
    assert outcome.error
    assert outcome.error["code"] == "secret-undeclared"


def test_costs_of_the_claims_sum_to_the_report(engine: Engine, perform: Perform, support: ModuleType) -> None:
    flow = support.make_flow(
        {"id": "call", "uses": support.CALL, "with": {"fail_first": 1}, "retries": 1},
        {"id": "burn", "with": {"text": "x", "burn": 0.03, "bytes_in": 1000}},
    )
    outcomes, view = perform(flow)
    assert view.status == "succeeded"
    total = sum(event.cost_nano for event in engine.services.spool.read_run("r1"))
    assert sum(each.cost_nano or 0 for each in outcomes) == total
    by_step = {each.step: each for each in outcomes}
    assert by_step["call"].cost_nano is not None
    assert by_step["call"].cost_nano >= 2 * 4321
    assert by_step["call"].tokens == 60
    kinds = [event.kind for event in engine.services.spool.read_run("r1") if event.step == "burn"]
    assert sorted(kinds) == ["compute", "memory", "network", "network", "storage"]
    burned = next(e for e in engine.services.spool.read_run("r1") if (e.step, e.kind) == ("burn", "compute"))
    assert 30 <= burned.cpu_ms < 200
    assert verify(engine).ok


def test_an_unknown_price_is_not_zero(open_engine: Callable[..., Engine], support: ModuleType) -> None:
    from maestro_dagster.costs.rate import RateCard

    rates = RateCard.from_document({"version": 1, "currency": "USD", "rates": []})
    engine = open_engine(rates=rates)
    engine.request(support.make_request("r1", support.make_flow({"id": "one"})))
    decision = engine.admit("r1")
    assert not decision.allow
    assert [each.rule for each in decision.violations] == ["price-unknown"]


def test_a_denied_run_starts_nothing_and_has_evidence(engine: Engine, support: ModuleType) -> None:
    flow = support.make_flow({"id": "one"}, {"id": "two", "needs": ["one"]}, name="denied")
    engine.request(support.make_request("r1", flow))
    assert not engine.admit("r1").allow
    assert engine.view("r1").status == "denied"
    claims = read_claims(engine)
    assert {claim["status"] for claim in claims.values()} == {"skipped"}
    assert verify(engine).ok
    with pytest.raises(DeniedError):
        list(engine.stream_segment("r1", ["one"]))
    assert not engine.admit("r1").allow


@pytest.mark.parametrize(
    ("task", "params", "rule"),
    [
        ({"uses": "pkg:no/such@1.0.0"}, {}, "kind-unknown"),
        ({"with": {"nonsense": 1}}, {}, "config-invalid"),
        ({"with": {"foreign": True}}, {}, "sandbox-unavailable"),
        ({"secrets": ["missing"]}, {}, "secret-missing"),
        ({}, {"word": 7}, "param-type"),
        ({}, {"word": "c"}, "param-enum"),
        ({}, {}, "param-missing"),
        ({}, {"word": "a", "extra": 1}, "param-unknown"),
    ],
)
def test_admission_says_what_is_wrong(
    engine: Engine, support: ModuleType, task: dict[str, Any], params: dict[str, Any], rule: str
) -> None:
    flow = support.make_flow({"id": "one", **task}, params={"word": {"required": True, "enum": ["a", "b"]}})
    given = params if params or rule == "param-missing" else {"word": "a"}
    engine.request(support.make_request("r1", flow, params=given))
    decision = engine.admit("r1")
    assert [each.rule for each in decision.violations] == [rule]
    assert not decision.allow


def test_isolation_none_is_admitted_and_said(engine: Engine, perform: Perform, support: ModuleType) -> None:
    perform(support.make_flow({"id": "one", "isolation": "none", "with": {"foreign": True}}))
    assert read_claims(engine)["one"]["isolation"] == "none"


def test_without_a_key_nothing_is_decided(open_engine: Callable[..., Engine], support: ModuleType) -> None:
    engine = open_engine(signer=None)
    engine.request(support.make_request("r1", support.make_flow({"id": "one"})))
    with pytest.raises(KeyMissingError):
        engine.admit("r1")
    assert engine.view("r1").status == "requested"


def test_a_budget_smaller_than_the_estimate_is_denied(engine: Engine, support: ModuleType) -> None:
    flow = support.make_flow({"id": "one"})
    engine.request(support.make_request("r1", flow, budget_nano=1))
    decision = engine.admit("r1")
    assert [each.rule for each in decision.violations] == ["budget-exceeded"]


def test_planning_writes_nothing(engine: Engine, support: ModuleType) -> None:
    assessment = engine.plan(support.make_request("r1", support.make_flow({"id": "one"})))
    assert assessment.decision.allow
    assert assessment.nano
    assert engine.list_runs() == []


def test_requests_are_known_by_their_id(engine: Engine, support: ModuleType) -> None:
    flow = support.make_flow({"id": "one"})
    requests = [support.make_request(f"r{number % 3}", flow) for number in range(6)]
    assert engine.request_many(requests) == [True, True, True, False, False, False]
    assert engine.requested() == ("r0", "r1", "r2")
    with pytest.raises(UsageError):
        engine.request(support.make_request("../up", flow))
    with pytest.raises(JournalError, match="no run"):
        engine.view("r9")


def test_a_retried_run_takes_over_what_was_done(
    engine: Engine, perform: Perform, support: ModuleType, tmp_path: Any
) -> None:
    witness = str(tmp_path / "witness")
    tasks = [
        {"id": "one", "with": {"witness": witness}},
        {"id": "two", "needs": ["one"], "with": {"witness": witness, "fail": "${{ params.fail }}"}},
        {"id": "three", "needs": ["two"], "with": {"witness": witness}},
    ]
    flow = support.make_flow(*tasks, params={"fail": {"default": ""}})
    perform(flow, params={"fail": "yes"})
    outcomes, view = perform(flow, "r2", reuse_from="r1", cause="retry")
    assert [each.status for each in outcomes] == ["reused", "done", "done"]
    assert outcomes[0].cost_nano == 0
    assert view.status == "succeeded"
    assert read_claims(engine, "r2")["one"]["reused_from"] == "r1"
    assert verify(engine, "r2").ok
    assert (tmp_path / "witness").read_text().split("\n").count("begin one -1") == 1


def test_a_selection_runs_only_that_and_reads_from_the_named_run(
    engine: Engine, perform: Perform, support: ModuleType
) -> None:
    flow = support.make_flow(
        {"id": "one"}, {"id": "two", "needs": ["one"]}, {"id": "three", "needs": ["two"]}
    )
    perform(flow)
    outcomes, view = perform(flow, "r2", reuse_from="r1", selection=("two",))
    found = {each.step: (each.status, each.fresh) for each in outcomes}
    assert found["two"] == ("done", True)
    assert found["one"] == ("reused", False)
    claims = read_claims(engine, "r2")
    assert claims["one"]["reason"] == "not selected"
    assert (claims["three"]["status"], claims["three"]["reason"]) == ("skipped", "not selected")
    assert view.status == "succeeded"
    assert verify(engine, "r2").ok


def test_segments_run_one_after_the_other(engine: Engine, support: ModuleType) -> None:
    flow = support.make_flow({"id": "one"}, {"id": "two", "needs": ["one"]})
    engine.request(support.make_request("r1", flow))
    with pytest.raises(JournalError) as caught:
        list(engine.stream_segment("r1", ["two"]))
    assert caught.value.error_code == "need-unfinished"
    assert [each.step for each in engine.stream_segment("r1", ["one"])] == ["one"]
    assert [each.step for each in engine.stream_segment("r1", ["two"])] == ["two"]
    assert [(each.step, each.fresh) for each in engine.stream_segment("r1", ["one", "two"])] == [
        ("one", False),
        ("two", False),
    ]


def test_a_run_closed_in_the_middle_says_so_of_every_step(engine: Engine, support: ModuleType) -> None:
    flow = support.make_flow({"id": "one"}, {"id": "two", "needs": ["one"]})
    engine.request(support.make_request("r1", flow))
    list(engine.stream_segment("r1", ["one"]))
    engine.close("r1")
    view = engine.view("r1")
    assert view.status == "failed"
    assert view.error
    assert view.error["code"] == "run-incomplete"
    assert read_claims(engine)["two"]["status"] == "cancelled"
    assert verify(engine).ok
    assert [each.fresh for each in engine.stream_segment("r1", ["one", "two"])] == [False, False]
    with pytest.raises(UsageError):
        list(engine.stream_segment("r1", ["nope"]))


def test_the_rate_window_is_shared_by_runs(engine: Engine, perform: Perform, support: ModuleType) -> None:
    rate = {"key": "k", "limit": 1, "per_seconds": 1.5}
    flow = support.make_flow({"id": "wait", "uses": "pkg:control/rate@1.0.0", "with": rate})
    perform(flow)
    outcomes, _ = perform(flow, "r2")
    assert outcomes[0].facts["waited_seconds"] > 0
    assert engine.services.journal.acquire_rate("k", 1, 1.5) > 0
    assert engine.services.journal.acquire_rate("other", 1, 1.5) == 0
