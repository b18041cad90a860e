from __future__ import annotations

import base64
import pickle
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from maestro_dagster.errors import EvidenceError, KeyMissingError, UsageError
from maestro_dagster.evidence.key import (
    ED25519,
    P256,
    load_signer,
    load_trusted,
    make_key,
    read_public_key,
)

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.mark.parametrize("algorithm", [ED25519, P256])
def test_what_a_key_signs_its_public_half_verifies(tmp_path: Path, algorithm: str) -> None:
    public = make_key(tmp_path / "keys", algorithm)
    signer = load_signer(tmp_path / "keys")
    (again,) = load_trusted([tmp_path / "keys" / "maestro.pub.pem"])
    assert public == again == signer.public_pem
    assert signer.algorithm == algorithm
    der = serialization.load_pem_public_key(public).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert signer.hint == base64.b64encode(sha256(der).digest()).decode()
    signature = signer.sign(b"text")
    assert signature == signer.sign(b"text")  # the same run exports the same bytes
    key = read_public_key(public)
    assert key.verifies(signature, b"text")
    assert not key.verifies(signature, b"text.")
    assert not key.verifies(b"", b"text")
    assert not key.verifies(signature[:-1], b"text")


def test_modes_and_form(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "keys"
    make_key(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "maestro.pem").stat().st_mode & 0o777 == 0o600
    assert (folder / "maestro.pem").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert sorted(path.name for path in folder.iterdir()) == ["maestro.pem", "maestro.pub.pem"]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    make_key(tmp_path)
    before = (tmp_path / "maestro.pem").read_bytes()
    with pytest.raises(EvidenceError) as caught:
        make_key(tmp_path)
    assert caught.value.error_code == "key-exists"
    assert (tmp_path / "maestro.pem").read_bytes() == before
    assert load_signer(tmp_path).public_pem == (tmp_path / "maestro.pub.pem").read_bytes()


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path)
    for mode in (0o640, 0o604, 0o660):
        (tmp_path / "maestro.pem").chmod(mode)
        with pytest.raises(KeyMissingError) as caught:
            load_signer(tmp_path)
        assert caught.value.error_code == "key-exposed"
        assert "chmod 600" in caught.value.remedy
        assert caught.value.exit_code == 2


def test_no_key(tmp_path: Path) -> None:
    with pytest.raises(KeyMissingError) as caught:
        load_signer(tmp_path)
    assert caught.value.error_code == "key-missing"
    assert "maestro init" in caught.value.remedy
    with pytest.raises(UsageError):
        make_key(tmp_path, "rsa")


def test_an_interrupted_make_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "maestro.pub.pem").write_bytes(b"left over")
    public = make_key(tmp_path)
    assert (tmp_path / "maestro.pub.pem").read_bytes() == public


def test_what_is_no_key_of_ours_is_refused(tmp_path: Path) -> None:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    other = rsa.generate_private_key(65537, 2048)
    curve = ec.generate_private_key(ec.SECP384R1())
    path = tmp_path / "maestro.pem"
    for data in (b"", b"junk", other.private_bytes(*form), curve.private_bytes(*form)):
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(KeyMissingError) as caught:
            load_signer(tmp_path)
        assert caught.value.error_code == "key-unusable"
    public = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for data in (
        b"",
        b"junk",
        other.public_key().public_bytes(*public),
        curve.public_key().public_bytes(*public),
    ):
        with pytest.raises(KeyMissingError):
            read_public_key(data)
    make_key(tmp_path / "real")
    with pytest.raises(KeyMissingError, match="private key"):
        load_trusted([tmp_path / "real" / "maestro.pem"])
    with pytest.raises(KeyMissingError):
        load_trusted([tmp_path / "none.pem"])


def test_an_ecdsa_signature_has_one_form_only(tmp_path: Path) -> None:
    make_key(tmp_path, P256)
    signer = load_signer(tmp_path)
    r, s = decode_dss_signature(signer.sign(b"text"))
    twin = encode_dss_signature(r, ORDER - s)
    serialization.load_pem_public_key(signer.public_pem).verify(twin, b"text", ec.ECDSA(hashes.SHA256()))
    assert not read_public_key(signer.public_pem).verifies(twin, b"text")
    assert read_public_key(signer.public_pem).verifies(twin, b"text", strict=False)


def test_a_signer_keeps_its_key_to_itself(tmp_path: Path) -> None:
    make_key(tmp_path)
    signer = load_signer(tmp_path)
    secret = (tmp_path / "maestro.pem").read_text().splitlines()[1]
    assert secret not in repr(signer)
    with pytest.raises(TypeError):
        pickle.dumps(signer)


def test_openssl_verifies_what_we_sign(tmp_path: Path) -> None:
    make_key(tmp_path, P256)
    (tmp_path / "text").write_bytes(b"text")
    (tmp_path / "sig").write_bytes(load_signer(tmp_path).sign(b"text"))
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", "maestro.pub.pem", "-signature", "sig", "text"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
