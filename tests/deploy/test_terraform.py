"""The Terraform module: read by a real parser, by Terraform, and applied to a server that speaks AWS.

Terraform needs the AWS provider: set MAESTRO_TERRAFORM_PLUGINS to what `terraform providers mirror` made.
Applying takes minutes, in which the provider waits for what a real AWS does slowly.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deploy_support import find_tool, run_tool

_QUIET = {"TF_CLI_CONFIG_FILE": os.devnull, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
_OVERRIDE = """\
provider "aws" {
  region                      = "us-east-1"
  access_key                  = "test"
  secret_key                  = "test"
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
  endpoints {
    ec2            = "URL"
    iam            = "URL"
    rds            = "URL"
    s3             = "URL"
    s3control      = "URL"
    secretsmanager = "URL"
    sts            = "URL"
  }
}
"""


@pytest.fixture(scope="module")
def terraform() -> str:
    return find_tool("terraform", "install Terraform 1.6 or later")


@pytest.fixture(scope="module")
def workspace(deploy: Path, terraform: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the module with its provider."""
    plugins = os.environ.get("MAESTRO_TERRAFORM_PLUGINS")
    if not plugins:
        pytest.skip("no provider: set MAESTRO_TERRAFORM_PLUGINS to a mirror of hashicorp/aws")
    folder = tmp_path_factory.mktemp("terraform")
    for path in (deploy / "terraform").glob("*.tf"):
        shutil.copy(path, folder)
    run_tool(
        terraform, "init", "-backend=false", "-input=false", f"-plugin-dir={plugins}", cwd=folder, env=_QUIET
    )
    return folder


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """The URL of moto's server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def parsed(deploy: Path) -> dict[str, dict[str, Any]]:
    """Resources by "type.name"."""
    import hcl2

    found: dict[str, dict[str, Any]] = {}
    for path in (deploy / "terraform").glob("*.tf"):
        with path.open(encoding="utf-8") as stream:
            document = hcl2.load(stream)
        for block in document.get("resource", ()):
            for kind, named in block.items():
                for name, body in named.items():
                    found[f"{kind}.{name}".replace('"', "")] = body
    return found


def test_a_parser_reads_every_file(parsed: dict[str, dict[str, Any]]) -> None:
    assert {"aws_s3_bucket.store", "aws_db_instance.postgres"} <= set(parsed)


def test_no_role_is_called_as_the_schema(parsed: dict[str, dict[str, Any]]) -> None:
    from maestro_dagster.database.migration import SCHEMA

    role = str(parsed["aws_db_instance.postgres"]["username"]).strip('"')
    assert role == "maestro_app" != SCHEMA


def test_nothing_holds_a_password(deploy: Path, parsed: dict[str, dict[str, Any]]) -> None:
    assert parsed["aws_db_instance.postgres"]["manage_master_user_password"] is True
    for body in parsed.values():
        assert not {"password", "master_password", "secret_string"} & set(body)


def test_it_is_formatted(deploy: Path, terraform: str) -> None:
    run_tool(terraform, "fmt", "-check", "-diff", deploy / "terraform", env=_QUIET)


def test_terraform_finds_it_valid(workspace: Path, terraform: str) -> None:
    assert json.loads(run_tool(terraform, "validate", "-json", cwd=workspace, env=_QUIET))["valid"]


@pytest.mark.soak
def test_applied_it_locks_evidence_and_keeps_versions(workspace: Path, terraform: str, aws: str) -> None:
    import boto3
    from botocore.exceptions import ClientError

    def client(name: str) -> Any:
        return boto3.client(
            name,
            endpoint_url=aws,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    (workspace / "provider_override.tf").write_text(_OVERRIDE.replace("URL", aws), encoding="utf-8")
    subnets = client("ec2").describe_subnets()["Subnets"][:2]
    variables = {
        "name": "acme-maestro",
        "vpc_id": subnets[0]["VpcId"],
        "subnet_ids": [subnet["SubnetId"] for subnet in subnets],
        "client_security_group_ids": [],
        "evidence_lock_days": 1825,
    }
    (workspace / "terraform.tfvars.json").write_text(json.dumps(variables), encoding="utf-8")
    run_tool(terraform, "apply", "-auto-approve", "-input=false", "-no-color", cwd=workspace, env=_QUIET)

    s3 = client("s3")
    for kind in ("artifacts", "evidence", "backups"):
        bucket = f"acme-maestro-{kind}"
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
        assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    lock = s3.get_object_lock_configuration(Bucket="acme-maestro-evidence")["ObjectLockConfiguration"]
    assert lock["Rule"]["DefaultRetention"].items() >= {"Mode": "COMPLIANCE", "Days": 1825}.items()
    assert "aws:SecureTransport" in s3.get_bucket_policy(Bucket="acme-maestro-evidence")["Policy"]
    s3.delete_bucket_policy(Bucket="acme-maestro-evidence")  # moto denies whatever its condition is
    version = s3.put_object(Bucket="acme-maestro-evidence", Key="evidence/1.zip", Body=b"proof")["VersionId"]
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_object(Bucket="acme-maestro-evidence", Key="evidence/1.zip", VersionId=version)
    (database,) = client("rds").describe_db_instances()["DBInstances"]
    assert database["StorageEncrypted"]
    assert not database["PubliclyAccessible"]
    outputs = json.loads(run_tool(terraform, "output", "-json", cwd=workspace, env=_QUIET))
    assert outputs["evidence"]["value"] == "s3://acme-maestro-evidence/evidence"
    assert outputs["backups"]["value"] == "s3://acme-maestro-backups"
    policy = client("iam").get_policy_version(
        PolicyArn=outputs["maestro_policy_arn"]["value"], VersionId="v1"
    )["PolicyVersion"]["Document"]
    removers = [each for each in policy["Statement"] if "s3:DeleteObject" in each["Action"]]
    assert [each["Sid"] for each in removers] == ["Artifacts"]
    (backups,) = [each for each in policy["Statement"] if each["Sid"] == "Backups"]
    assert {"s3:GetObject", "s3:PutObject"} <= set(backups["Action"])
    assert backups["Resource"] == "arn:aws:s3:::acme-maestro-backups/*"


@pytest.mark.soak
def test_values_that_cannot_be_meant_are_refused(workspace: Path, terraform: str, tmp_path: Path) -> None:
    variables = {
        "name": "No Capitals",
        "vpc_id": "vpc-1",
        "subnet_ids": ["one"],
        "client_security_group_ids": [],
        "evidence_lock_days": 0,
    }
    path = tmp_path / "values.tfvars.json"
    path.write_text(json.dumps(variables), encoding="utf-8")
    command = (terraform, "plan", "-input=false", "-no-color", f"-var-file={path}")
    with pytest.raises(AssertionError, match=r"(?s)lower-case.*two zones.*1 to 36500|1 to 36500.*lower-case"):
        run_tool(*command, cwd=workspace, env=_QUIET)
