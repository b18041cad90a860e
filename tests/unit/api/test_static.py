"""Hashed files: compressed once, kept by the browser, and nothing beside their folder."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from api_support import Served

from maestro_dagster.api import static
from maestro_dagster.api.static import HashedFiles

PREFIX = "/dagster/_next/static"
SCRIPT = b"console.log('x');\n" * 1000


@pytest.fixture
def files(served: Served, tmp_path: Path) -> Path:
    folder = tmp_path / "build" / "static"
    (folder / "chunks").mkdir(parents=True)
    (folder / "chunks" / "a-1f.js").write_bytes(SCRIPT)
    (folder / "logo.png").write_bytes(b"\x89PNG" * 1000)
    (tmp_path / "build" / "secret.js").write_text("secret")
    (folder / "link.js").symlink_to(tmp_path / "build" / "secret.js")
    served.slot.app = HashedFiles(folder, PREFIX)
    return folder


def test_a_script_is_sent_small_and_for_good(served: Served, files: Path) -> None:
    answer = served.call("GET", f"{PREFIX}/chunks/a-1f.js", headers={"accept-encoding": "gzip, br"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["vary"] == "accept-encoding"
    assert gzip.decompress(answer.body) == SCRIPT
    assert len(answer.body) < len(SCRIPT) / 20
    plain = served.call("GET", f"{PREFIX}/chunks/a-1f.js", headers={"accept-encoding": "identity"})
    assert plain.body == SCRIPT
    assert plain.headers["etag"] != answer.headers["etag"]
    known = served.call("GET", f"{PREFIX}/chunks/a-1f.js", headers={"if-none-match": plain.headers["etag"]})
    assert (known.status, known.body) == (304, b"")
    head = served.call("HEAD", f"{PREFIX}/chunks/a-1f.js")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(SCRIPT)))


def test_a_picture_is_sent_as_it_is(served: Served, files: Path) -> None:
    answer = served.call("GET", f"{PREFIX}/logo.png", headers={"accept-encoding": "gzip"})
    assert (answer.headers["content-type"], "content-encoding" in answer.headers) == ("image/png", False)


@pytest.mark.parametrize(
    "name",
    [
        *("no.js", "", "chunks", "link.js", "%00", "/etc/passwd", "%2fetc%2fpasswd", "a" * 300),
        *("./logo.png", "chunks/../logo.png", "x/../logo.png", "chunks//a-1f.js"),  # kept under one name only
        *("../secret.js", "%2e%2e/secret.js", "..%2fsecret.js", "chunks/..%2f..%2fsecret.js"),
    ],
)
def test_nothing_else_is_sent(served: Served, files: Path, name: str) -> None:
    answer = served.call("GET", f"{PREFIX}/{name}")
    assert (answer.status, answer.form["code"]) == (404, "not-found")


def test_what_is_kept_has_an_end(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "_KEPT_BYTES", 10_000)
    made = HashedFiles(files, PREFIX)
    for number in range(10):
        (files / f"{number}.js").write_bytes(bytes(3000))
        assert made._find(f"{number}.js", accepted=False).data == bytes(3000)
    assert sum(len(one.data) for one in made._kept.values()) == made._size <= 10_000
