from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import pytest

from maestro_dagster.errors import KeyMissingError, StepError
from maestro_dagster.steps.cvss import name_level, score_vector
from maestro_dagster.steps.osv import is_affected, judge_severity
from maestro_dagster.steps.sbom_cyclonedx import SbomCyclonedx
from maestro_dagster.steps.scan_vulnerabilities import ScanVulnerabilities
from maestro_dagster.steps.sign_artifact import SignArtifact

NAME = "shop-1.2.3-py3-none-any.whl"


def wheel(
    requires: tuple[str, ...] = (), licence: str = "License-Expression: Apache-2.0", name: str = "shop"
) -> bytes:
    head = [f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.2.3\nSummary: A shop.", licence]
    text = "\n".join([*head, *(f"Requires-Dist: {item}" for item in requires)]) + "\n\nbody\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # A ZipInfo is dated 1980; a name would be dated now, and two calls could differ.
        archive.writestr(zipfile.ZipInfo("shop-1.2.3.dist-info/METADATA"), text)
    return buffer.getvalue()


async def make_sbom(
    bench: Any, requires: Any = (), files: Any = None, licence: Any = "License-Expression: Apache-2.0"
) -> Any:
    inputs = {"build": bench.tree({NAME: wheel(tuple(requires), licence), "shop-1.2.3.tar.gz": b"x"})}
    if files:
        inputs["checkout"] = bench.tree(files)
    return await bench.run(SbomCyclonedx, {}, inputs)


def document(bench: Any, result: Any) -> Any:
    data = bench.store.read(result.artifact.digest)
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    return json.loads(data)


def libraries(found: Any) -> Any:
    return {item["name"]: item.get("version") for item in found["components"] if item["type"] == "library"}


async def test_pinned_unpinned_and_extra_dependencies(bench: Any) -> None:
    result = await make_sbom(
        bench, ["Left_Pad==1.0", "attrs>=20", 'pytest; extra == "test"', "direct @ https://x.example/d.whl"]
    )
    found = document(bench, result)
    assert libraries(found) == {"left-pad": "1.0", "attrs": None, "direct": None}
    assert result.facts["unpinned"] == ["attrs", "direct"]
    assert found["metadata"]["component"]["purl"] == "pkg:pypi/shop@1.2.3"
    assert found["metadata"]["component"]["licenses"] == [{"expression": "Apache-2.0"}]
    assert result.sbom == result.artifact


LOCKS = {
    "requirements.txt": "attrs==23.1.0 \\\n    --hash=sha256:"
    + "a" * 64
    + "\nidna>=2\n-e ./x\n--index-url https://x\n",
    "poetry.lock": '[[package]]\nname = "Rich"\nversion = "13.0.0"\nfiles = []\n',
    "uv.lock": 'version = 1\n[[package]]\nname = "me"\nversion = "0"\nsource = { editable = "." }\n'
    '[[package]]\nname = "click"\nversion = "8.1.0"\nsource = { registry = "r" }\n'
    f'wheels = [{{ url = "u", hash = "sha256:{"b" * 64}" }}]\n',
    "pylock.toml": '[[packages]]\nname = "six"\nversion = "1.16.0"\n'
    f'[[packages.wheels]]\nhashes = {{sha256 = "{"c" * 64}"}}\n',
    "Pipfile.lock": '{"default": {"yarl": {"version": "==1.9.0"}}}',
    "requirements/dev.txt": "mypy==1.0\n",
    "docs/requirements.txt": "sphinx==1\n",
    "notes.txt": "hello world",
    "Cargo.lock": '[[package]]\nname = "serde"\nversion = "1.0.0"\n',
}


async def test_lock_files_of_all_kinds(bench: Any) -> None:
    found = document(bench, await make_sbom(bench, ["attrs"], LOCKS))
    assert libraries(found) == {
        "attrs": "23.1.0", "idna": None, "requirements.txt:4": None, "rich": "13.0.0", "click": "8.1.0",
        "six": "1.16.0", "yarl": "1.9.0", "mypy": "1.0",
    }  # fmt: skip
    hashes = {item["name"]: item["hashes"][0]["content"] for item in found["components"] if "hashes" in item}
    assert (hashes["attrs"], hashes["click"], hashes["six"]) == ("a" * 64, "b" * 64, "c" * 64)


async def test_the_same_inputs_make_the_same_document(bench: Any) -> None:
    first, again = [await make_sbom(bench, ["attrs==1"], LOCKS) for _ in range(2)]
    assert first.artifact == again.artifact


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("License-Expression: mit OR apache-2.0", [{"expression": "MIT OR Apache-2.0"}]),
        ("License-Expression: my own", [{"license": {"name": "my own"}}]),
        ("License: BSD, kind of", [{"license": {"name": "BSD, kind of"}}]),
        ("Keywords: none", None),
    ],
)
async def test_licences(bench: Any, licence: Any, expected: Any) -> None:
    found = document(bench, await make_sbom(bench, licence=licence))
    assert found["metadata"]["component"].get("licenses") == expected


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"a.py": ""}, "sbom-nothing"),
        ({NAME: b"no zip"}, "wheel-invalid"),
        ({NAME: wheel(name="other")}, "wheel-invalid"),
        ({"bad.whl": wheel()}, "wheel-invalid"),
        ({"uv.lock": "[[package"}, "lock-invalid"),
        ({"requirements.txt": b"\xff\xfe"}, "lock-invalid"),
    ],
)
async def test_bad_inputs_of_the_sbom(bench: Any, files: Any, code: str) -> None:
    with pytest.raises(StepError) as raised:
        await bench.run(SbomCyclonedx, {}, {"x": bench.tree(files)})
    assert raised.value.error_code == code


# --- scan


def advise(bench: Any, name: Any = "left-pad", **more: Any) -> Any:
    folder = bench.root / "advisories"
    folder.mkdir(exist_ok=True)
    record = {
        "id": f"EX-{name}",
        "modified": "2023-11-01T00:00:00Z",
        "summary": "a hole",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": name},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
            }
        ],
        **more,
    }
    (folder / f"{record['id']}.json").write_text(json.dumps(record))
    return record


async def scan(bench: Any, requires: Any, **config: Any) -> Any:
    sbom = await make_sbom(bench, requires)
    return await bench.run(ScanVulnerabilities, config, {"sbom": sbom.artifact})


async def test_a_vulnerable_dependency_is_named_with_its_remedy(bench: Any) -> None:
    advise(bench, database_specific={"example": True, "severity": "CRITICAL"})
    with pytest.raises(StepError) as raised:
        await scan(bench, ["left.pad==1.0"])
    error = raised.value
    assert error.error_code == "vulnerable"
    assert "left-pad 1.0 is named by EX-left-pad (critical: a hole)" in error.fact
    assert error.remedy == "use left-pad 1.1 or later"


async def test_a_fixed_version_passes_with_its_report(bench: Any) -> None:
    advise(bench, database_specific={"example": True})
    result = await scan(bench, ["left-pad==1.1"])
    report = json.loads(bench.store.read(result.artifact.digest))
    assert report["findings"] == []
    assert report["database"]["records"] == 1
    assert any("examples" in warning for warning in result.warnings)
    assert any("age limit" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("severity", "fail_on", "fails"),
    [("LOW", "high", False), ("LOW", "low", True), ("MODERATE", "medium", True), (None, "high", True),
     ("HIGH", "critical", False), (None, "critical", False)],
)  # fmt: skip
async def test_thresholds(bench: Any, severity: Any, fail_on: Any, fails: Any) -> None:
    advise(bench, **({"database_specific": {"severity": severity}} if severity else {}))
    if fails:
        with pytest.raises(StepError):
            await scan(bench, ["left-pad==1.0"], fail_on=fail_on)
    else:
        result = await scan(bench, ["left-pad==1.0"], fail_on=fail_on)
        assert result.facts["findings"] == 1


async def test_what_cannot_be_judged_fails_unless_allowed(bench: Any) -> None:
    advise(bench)
    with pytest.raises(StepError) as raised:
        await scan(bench, ["attrs>=1"])
    assert raised.value.error_code == "unresolved"
    result = await scan(bench, ["attrs>=1"], allow_unresolved=True)
    assert any("not judged: attrs" in warning for warning in result.warnings)


async def test_an_ignored_advisory_is_shown(bench: Any) -> None:
    advise(bench)
    result = await scan(bench, ["left-pad==1.0"], ignore={"EX-left-pad": "not reachable"})
    assert "ignored: EX-left-pad (not reachable)" in result.warnings


async def test_a_withdrawn_record_does_not_count(bench: Any) -> None:
    advise(bench, withdrawn="2023-11-02T00:00:00Z")
    assert (await scan(bench, ["left-pad==1.0"])).facts["findings"] == 0


async def test_the_database_fails_closed(bench: Any) -> Any:
    async def code() -> str:
        with pytest.raises(StepError) as raised:
            await scan(bench, [])
        return raised.value.error_code

    assert await code() == "advisories-missing"
    (bench.root / "advisories").mkdir()
    assert await code() == "advisories-empty"
    advise(bench)
    (bench.root / "advisories" / "half.json").write_text('{"id": "X", "modi')
    assert await code() == "advisories-invalid"
    (bench.root / "advisories" / "half.json").unlink()
    bench.max_age_days = 10  # the clock of the tests stands at 2023-11-14
    assert await code() == "advisories-stale"
    bench.max_age_days = 20
    assert (await scan(bench, [])).facts["database"]["age_days"] == 13
    advise(bench, database_specific={"example": True})
    assert await code() == "advisories-stale"  # examples have no age


async def test_a_changed_folder_is_read_again(bench: Any) -> None:
    advise(bench, name="other")
    assert (await scan(bench, ["left-pad==1.0"])).facts["findings"] == 0
    advise(bench)
    with pytest.raises(StepError):
        await scan(bench, ["left-pad==1.0"])


@pytest.mark.parametrize("data", [b"{}", b'{"bomFormat":"CycloneDX","components":[1]}', b"not json", b"[]"])
async def test_no_bill_of_materials(bench: Any, data: Any) -> None:
    advise(bench)
    with pytest.raises(StepError) as raised:
        await bench.run(ScanVulnerabilities, {}, {"x": bench.store.put_bytes(data, "application/json")})
    assert raised.value.error_code in {"sbom-invalid", "input-not-json"}


@pytest.mark.parametrize(
    ("vector", "score", "level"),
    [  # worked examples of the specification's calculator
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8, "critical"),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0, "critical"),
        ("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1, "medium"),
        ("CVSS:3.1/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N", 1.8, "low"),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0, "none"),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H", 7.5, "high"),
    ],
)
def test_scores(vector: Any, score: Any, level: Any) -> None:
    assert score_vector(vector) == score
    assert name_level(score) == level


@pytest.mark.parametrize(
    "vector", ["", "CVSS:4.0/AV:N", "CVSS:3.1/AV:N", "AV:N/AC:L/Au:N/C:P/I:P/A:P", "9.8"]
)
def test_vectors_that_cannot_be_scored_count_as_high(vector: Any) -> None:
    assert score_vector(vector) is None
    assert judge_severity({"severity": [{"type": "CVSS_V3", "score": vector}]}, "PyPI", "x") == "high"


@pytest.mark.parametrize(
    ("events", "version", "affected"),
    [
        ([{"introduced": "0"}, {"fixed": "2"}], "1.9", True),
        ([{"introduced": "0"}, {"fixed": "2"}], "2", False),
        ([{"introduced": "0"}, {"fixed": "2"}], "2.0rc1", True),
        ([{"introduced": "0"}, {"last_affected": "2"}], "2.0", True),
        ([{"introduced": "0"}, {"last_affected": "2"}], "2.0.1", False),
        ([{"fixed": "2"}, {"introduced": "1"}, {"introduced": "3"}, {"fixed": "4"}], "2.5", False),
        ([{"fixed": "2"}, {"introduced": "1"}, {"introduced": "3"}, {"fixed": "4"}], "3.5", True),
        ([{"introduced": "1"}], "1.0+cu118", True),
        ([{"introduced": "0"}, {"last_affected": "1.0"}], "1.0+cu118", True),
        ([{"introduced": "0"}, {"limit": "2"}], "3", False),
        ([{"introduced": "0"}], "0.0.0.dev1", True),
        ([], "1", False),
    ],
)
def test_ranges(events: list[dict[str, str]], version: str, affected: Any) -> None:
    entry = {
        "package": {"ecosystem": "PyPI", "name": "X.y"},
        "ranges": [{"type": "ECOSYSTEM", "events": events}],
    }
    assert is_affected({"id": "a", "affected": [entry]}, "PyPI", "x-Y", version) is affected


# --- sign


async def test_every_file_gets_a_bundle_that_others_can_verify(bench: Any, tmp_path: Any) -> None:
    from maestro_dagster.evidence.attestation import verify_attestation
    from maestro_dagster.evidence.key import load_signer, make_key

    public = make_key(tmp_path / "keys")
    bench.signer = load_signer(tmp_path / "keys")
    sbom = await make_sbom(bench)
    inputs = {"build": bench.tree({NAME: wheel(), "shop-1.2.3.tar.gz": b"x"}), "sbom": sbom.artifact}
    result = await bench.run(SignArtifact, {}, inputs)
    files = bench.files(result.artifact)
    assert set(files) == {f"{name}.sigstore.json" for name in ("sbom.cdx.json", "shop-1.2.3.tar.gz", NAME)}
    verify_attestation(files[NAME + ".sigstore.json"], wheel(), keys=[public])
    with pytest.raises(Exception, match="does not name"):
        verify_attestation(files[NAME + ".sigstore.json"], b"other", keys=[public])


async def test_without_a_key_nothing_is_signed(bench: Any) -> None:
    with pytest.raises(KeyMissingError):
        await bench.run(SignArtifact, {}, {"build": bench.tree({"a": "x"})})


async def test_two_files_of_one_name_are_refused(bench: Any, tmp_path: Any) -> None:
    from maestro_dagster.evidence.key import load_signer, make_key

    make_key(tmp_path / "keys")
    bench.signer = load_signer(tmp_path / "keys")
    with pytest.raises(StepError) as raised:
        await bench.run(SignArtifact, {}, {"a": bench.tree({"f": "1"}), "b": bench.tree({"f": "2"})})
    assert raised.value.error_code == "sign-ambiguous"
