"""Only what the forge signed is taken: over the raw bytes, with any of the secrets, in its time."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from maestro_dagster.errors import EventError
from maestro_dagster.events.webhook_signature import TOLERANCE, verify_signature

Sign = Callable[..., dict[str, str]]

BODY = b'{"ref": "refs/heads/main"}'
NOW = 1_700_000_000.0
KEY = "whsec_" + base64.b64encode(b"k" * 24).decode()
FORGES = ("github", "gitlab", "gitea", "bitbucket", "bitbucket-server", "azure-devops")
# Gitlab and Azure DevOps show a password, which says nothing of the body.
SIGNING = ("github", "gitea", "bitbucket", "bitbucket-server")


def refusal(forge: str, secrets: list[str], headers: dict[str, str], body: bytes = BODY) -> str:
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        verify_signature(forge, secrets, lower, body, NOW)
    except EventError as error:
        shown = any(secret in str(error) for secret in secrets if secret.strip())
        return "the secret is shown" if shown else error.error_code
    return "taken"


@pytest.mark.parametrize("forge", FORGES)
def test_a_signed_delivery_is_taken_with_the_new_and_with_the_old_secret(
    forge: str, sign_delivery: Sign
) -> None:
    assert refusal(forge, ["key-new", "key-old"], sign_delivery(forge, "key-new", BODY)) == "taken"
    assert refusal(forge, ["key-new", "key-old"], sign_delivery(forge, "key-old", BODY)) == "taken"
    assert refusal(forge, ["key-new"], sign_delivery(forge, "key-old", BODY)) == "webhook-signature"


@pytest.mark.parametrize("forge", [*FORGES, "standard"])
def test_without_a_signature_nothing_is_taken(forge: str) -> None:
    secret = KEY if forge == "standard" else "hunter-22"
    assert refusal(forge, [secret], {}) == "webhook-unsigned"


@pytest.mark.parametrize("forge", FORGES)
@pytest.mark.parametrize("secrets", [[], [""], [" \n"], ["", ""]])
def test_an_empty_secret_verifies_nothing(forge: str, secrets: list[str], sign_delivery: Sign) -> None:
    assert refusal(forge, secrets, sign_delivery(forge, "", BODY)) == "webhook-secret-missing"


@pytest.mark.parametrize("forge", SIGNING)
@pytest.mark.parametrize("body", [BODY + b"\n", BODY.replace(b" ", b""), BODY[:-1], b""])
def test_the_raw_bytes_are_what_was_signed(forge: str, body: bytes, sign_delivery: Sign) -> None:
    assert refusal(forge, ["hunter-22"], sign_delivery(forge, "hunter-22", BODY), body) == "webhook-signature"


@pytest.mark.parametrize("forge", [*SIGNING, "gitlab", "azure-devops", "standard"])
@pytest.mark.parametrize(
    "value", ["sha256=", "sha1=00", "é" * 64, "sha256=" + "é" * 64, "\udcff", "Basic é", "v1,é"]
)
def test_a_header_that_is_none_is_refused(forge: str, value: str) -> None:
    names = ["x-hub-signature-256", "x-hub-signature", "x-gitea-signature", "x-gitlab-token", "authorization"]
    headers = dict.fromkeys([*names, "webhook-id", "webhook-signature"], value)
    headers["webhook-timestamp"] = str(int(NOW))
    assert refusal(forge, [KEY], headers) == "webhook-signature"


def test_sha1_alone_is_no_signature_of_github() -> None:
    told = hmac.new(b"hunter-22", BODY, hashlib.sha1).hexdigest()
    assert refusal("github", ["hunter-22"], {"X-Hub-Signature": f"sha1={told}"}) == "webhook-unsigned"


def test_a_secret_that_is_no_latin_text_is_compared_as_its_bytes() -> None:
    as_servers_hand_it_on = "schlüssel".encode().decode("latin-1")
    assert refusal("gitlab", ["schlüssel"], {"X-Gitlab-Token": as_servers_hand_it_on}) == "taken"


def test_forgejo_names_the_header_after_itself(sign_delivery: Sign) -> None:
    signature = sign_delivery("gitea", "hunter-22", BODY)["X-Gitea-Signature"]
    assert refusal("gitea", ["hunter-22"], {"X-Forgejo-Signature": signature}) == "taken"


def test_a_good_second_header_does_not_help_a_bad_first_one(sign_delivery: Sign) -> None:
    good = sign_delivery("github", "hunter-22", BODY)
    assert refusal("gitea", ["hunter-22"], {**good, "X-Gitea-Signature": "0" * 64}) == "webhook-signature"


class TestStandard:
    def sign(self, sign_delivery: Sign, **changes: object) -> dict[str, str]:
        return sign_delivery("standard", KEY, BODY, **{"now": NOW, **changes})

    def test_gives_the_id_that_was_signed(self, sign_delivery: Sign) -> None:
        headers = self.sign(sign_delivery, number="msg_7")
        assert verify_signature("standard", [KEY], headers, BODY, NOW) == "msg_7"
        assert refusal("standard", [KEY], {**headers, "webhook-id": "msg_8"}) == "webhook-signature"

    @pytest.mark.parametrize("seconds", [-TOLERANCE, TOLERANCE])
    def test_is_taken_within_the_tolerance(self, seconds: int, sign_delivery: Sign) -> None:
        assert refusal("standard", [KEY], self.sign(sign_delivery, now=NOW + seconds)) == "taken"
        late = self.sign(sign_delivery, now=NOW + seconds + seconds // TOLERANCE)
        assert refusal("standard", [KEY], late) == "webhook-stale"

    def test_an_old_time_that_was_changed_is_a_wrong_signature(self, sign_delivery: Sign) -> None:
        headers = {**self.sign(sign_delivery, now=NOW - 9999), "webhook-timestamp": str(int(NOW))}
        assert refusal("standard", [KEY], headers) == "webhook-signature"

    @pytest.mark.parametrize("stamp", ["", "now", "-1", "1e9", "1700000000.0", "९" * 10, "1" * 40])
    def test_a_time_that_is_none_is_refused(self, stamp: str, sign_delivery: Sign) -> None:
        headers = {**self.sign(sign_delivery), "webhook-timestamp": stamp}
        assert refusal("standard", [KEY], headers) == "webhook-unsigned"

    def test_one_of_several_signatures_is_enough_but_not_of_another_version(
        self, sign_delivery: Sign
    ) -> None:
        good = self.sign(sign_delivery)["webhook-signature"]
        several = {**self.sign(sign_delivery), "webhook-signature": f"v1,AAAA v2,xx {good}"}
        assert refusal("standard", [KEY], several) == "taken"
        other = {**several, "webhook-signature": good.replace("v1,", "v2,")}
        assert refusal("standard", [KEY], other) == "webhook-signature"
        many = {**several, "webhook-signature": "v1,AAAA " * 20 + good}
        assert refusal("standard", [KEY], many) == "webhook-signature"

    def test_a_public_key_verifies_version_1a_and_no_other(self, sign_delivery: Sign) -> None:
        private = Ed25519PrivateKey.generate()
        raw = private.public_key().public_bytes_raw()
        public = "whpk_" + base64.b64encode(raw).decode()
        content = f"msg_1.{int(NOW)}.".encode() + BODY
        signature = base64.b64encode(private.sign(content)).decode()
        headers = {**self.sign(sign_delivery), "webhook-signature": f"v1a,{signature}"}
        assert refusal("standard", [public], headers) == "taken"
        assert refusal("standard", [KEY], headers) == "webhook-signature"
        # Whoever knows the public key must not be able to use it as a shared one.
        for key in (raw, public.encode()):
            forged = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
            told = {**headers, "webhook-signature": f"v1,{forged}"}
            assert refusal("standard", [public], told) == "webhook-signature"

    @pytest.mark.parametrize("secret", ["whsec_", "whsec_!!", "é", "whpk_AAAA"])
    def test_a_secret_that_is_no_key_verifies_nothing(self, secret: str, sign_delivery: Sign) -> None:
        content = f"msg_1.{int(NOW)}.".encode() + BODY
        forged = base64.b64encode(hmac.digest(b"", content, hashlib.sha256)).decode()
        headers = {**self.sign(sign_delivery), "webhook-signature": f"v1,{forged}"}
        assert refusal("standard", [secret], headers) == "webhook-signature"

    def test_gitlab_with_a_signing_token_is_not_taken_by_its_password(self, sign_delivery: Sign) -> None:
        headers = self.sign(sign_delivery)
        assert refusal("gitlab", [KEY], headers) == "taken"
        content = f"msg_1.{int(NOW)}.".encode() + BODY
        typed = base64.b64encode(hmac.digest(b"what I typed in", content, hashlib.sha256)).decode()
        told = {**headers, "webhook-signature": f"v1,{typed}"}
        assert refusal("gitlab", ["what I typed in"], told) == "taken"
        wrong = {**headers, "webhook-signature": "v1,AAAA", "x-gitlab-token": KEY}
        assert refusal("gitlab", [KEY], wrong) == "webhook-signature"
