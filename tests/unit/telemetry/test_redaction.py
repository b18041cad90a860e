"""What is hidden, and what is left alone."""

from __future__ import annotations

import base64
import json
import random
import string
import threading
from pathlib import Path

import pytest

from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.redaction import HIDDEN, Redactor, spell_secret
from maestro_dagster.telemetry.span import Trace
from maestro_dagster.telemetry.trace import read_trace

LETTERS = string.ascii_letters + string.digits


@pytest.fixture
def redactor() -> Redactor:
    return Redactor()


def test_overlapping_secrets_leave_no_part_of_either(redactor: Redactor) -> None:
    redactor.add_all(["abcdefgh", "efghijkl", "ijkl"])
    assert redactor.hide("x abcdefghijkl y") == f"x {HIDDEN} y"
    assert redactor.hide("abcdefghefghijkl") == HIDDEN


@pytest.mark.parametrize("many", [0, 40, 400])
def test_few_and_many_secrets_are_hidden_alike(redactor: Redactor, many: int) -> None:
    chance = random.Random(many)
    redactor.add_all("".join(chance.choice(LETTERS) for _ in range(20)) for _ in range(many))
    redactor.add("correct horse")
    for text in ("correct horse", "a correct%20horse!", "x" * 5000 + "correct horse" + "y" * 5000):
        hidden = redactor.hide(text)
        assert "horse" not in hidden
        assert len(hidden) == len(text) - text.count("correct horse") * 10 or "%20" in text


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(4))
def test_a_secret_within_longer_base64_is_hidden(redactor: Redactor, before: int, after: int) -> None:
    secret = "tiger/lily+99?"
    redactor.add(secret)
    whole = base64.b64encode(b"u" * before + secret.encode() + b"v" * after).decode()
    assert HIDDEN in redactor.hide(whole)
    # What stays are the neighbours, and at most the bits that share a character with them.
    left = redactor.hide(whole).replace(HIDDEN, "")
    assert len(left) <= len(whole) - len(secret) * 4 // 3 + 4


def test_short_parts_and_ordinary_words_stay(redactor: Redactor) -> None:
    redactor.add("ab")
    redactor.add("{\n}\nlong-enough-line\n---\n")
    assert redactor.hide("ab { } ---") == "ab { } ---"
    assert redactor.hide("long-enough-line") == HIDDEN
    assert spell_secret("") == set()


def test_the_environment_is_known_by_its_names(redactor: Redactor) -> None:
    redactor.add_environment(
        {
            "STRIPE_API_KEY": "stripe-key-value",
            "github_token": "token-of-github",
            "PGPASSWORD": "not-by-this-name",
            "TOKENIZERS_PARALLELISM": "false-or-true",
            "SECRET_FILE": "/run/secrets/file",
            "APP_SECRET": "short",
            "KEYBOARD": "english-us",
        }
    )
    shown = redactor.hide("stripe-key-value token-of-github false-or-true /run/secrets/file short english-us")
    assert shown == f"{HIDDEN} {HIDDEN} false-or-true /run/secrets/file short english-us"


CREDENTIALS = [
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1B2_" * 8,
    "glpat-" + "a1B2" * 5,
    "AKIA" + "A1B2" * 4,
    "xoxb-123456789012-abcdefABCDEF",
    "sk-" + "a1B2" * 8,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "npm_" + "a1B2" * 9,
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNza\n",
]


@pytest.mark.parametrize("secret", CREDENTIALS)
@pytest.mark.parametrize("around", ["{}", "it is {}.", '"{}"', "a\\n{}", "x%0A{}", "key={}&b=1"])
def test_credentials_are_known_by_their_shape(redactor: Redactor, secret: str, around: str) -> None:
    assert secret[8:20] not in redactor.hide(around.format(secret))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://ada:hunter22@example.org/x.git", "https://***@example.org/x.git"),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer ***"),
        ('{"password": "hunter22"}', '{"password": "***"}'),
        ("api_key=abcdef123456 next", "api_key=*** next"),
        ("client-secret: abcdef123456", "client-secret: ***"),
        ("token: 12 of 14 tokens", "token: 12 of 14 tokens"),
        ("the password is required", "the password is required"),
        ("password: required", "password: required"),
        ("risk-assessment-of-the-whole-plan", "risk-assessment-of-the-whole-plan"),
        ("see https://example.org/a:b@c", "see https://example.org/a:b@c"),
        ("sha256:" + "0123456789abcdef" * 4, "sha256:" + "0123456789abcdef" * 4),
    ],
)
def test_shapes_are_cut_out_and_their_neighbours_stay(redactor: Redactor, text: str, left: str) -> None:
    assert redactor.hide(text) == left


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("write to ada.lovelace@example.org now", True),
        ("call +44 20 7946 0958", True),
        ("card 4111 1111 1111 1111", True),
        ("card 4111 1111 1111 1112", False),
        ("to DE89 3704 0044 0532 0130 00", True),
        ("to DE88 3704 0044 0532 0130 00", False),
        ("pkg:text/template@1.0.0", False),
        ("git@example.org:acme/shop.git", False),
        ("1767225600123 and 1795279541565246343", False),
        ("+1", False),
        ("trace 7bbff922c7af6b7680285242e504a143", False),
    ],
)
def test_personal_data_is_hidden_where_nothing_is_proven(redactor: Redactor, text: str, hidden: bool) -> None:
    assert ("[personal]" in redactor.hide_all(text)) is hidden
    assert redactor.hide(text) == text


def test_values_are_hidden_within_json(redactor: Redactor) -> None:
    redactor.add("hunter22x")
    found = redactor.hide_in({"a hunter22x": [1, None, ("hunter22x", True)], "b": {"c": 2.5}})
    assert found == {f"a {HIDDEN}": [1, None, [HIDDEN, True]], "b": {"c": 2.5}}
    assert json.loads(redactor.hide(json.dumps({"x": "hunter22x"}))) == {"x": HIDDEN}


def test_it_learns_while_others_hide(redactor: Redactor) -> None:
    stop = threading.Event()
    failed: list[BaseException] = []

    def hide() -> None:
        while not stop.is_set():
            try:
                assert "first-secret" not in redactor.hide("a first-secret b")
            except BaseException as error:  # noqa: BLE001
                failed.append(error)
                return

    redactor.add("first-secret")
    threads = [threading.Thread(target=hide) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(150):
        redactor.add(f"secret-number-{number}")
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert redactor.hide("secret-number-149") == HIDDEN


HOSTILE = [
    "-" * 20_000,
    "-----BEGIN A PRIVATE KEY-----" * 400,
    "a." * 20_000 + "@",
    "4" * 20_000,
    "+1 " * 8_000,
    "eyJ" * 8_000,
    "x:" * 10_000 + "://",
    "@" * 9_000,
]


@pytest.mark.timeout(20)  # what is quadratic takes minutes
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_take_no_quadratic_time(redactor: Redactor, text: str) -> None:
    assert redactor.hide_all(text)


def test_a_span_hides_what_was_learned_after_the_last_one(redactor: Redactor, tmp_path: Path) -> None:
    trace = Trace(tmp_path, "r1", redactor=redactor)
    for _ in range(2):
        with trace.span("a later-secret", name.CALL_SPAN, attributes={"said": ["later-secret"]}):
            redactor.add("later-secret")
    trace.close()
    assert "later-secret" not in str([span.body for span in read_trace(tmp_path, "r1")])
