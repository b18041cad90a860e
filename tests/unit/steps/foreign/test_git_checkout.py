from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.errors import StepError
from maestro_dagster.events.mirror import find_mirror
from maestro_dagster.steps.git_checkout import CARD, GitCheckout
from maestro_dagster.steps.interface import Network


async def check_out(bench: Any, repository: Any, **config: Any) -> Any:
    return await bench.run(GitCheckout, {"repository": str(repository), **config})


async def test_exactly_one_commit_with_its_history(bench: Any, make_repository: Any) -> None:
    repository, git = make_repository({"a.txt": "one\n", "bin/run": "#!/bin/sh\n"})
    first = git("rev-parse", "HEAD")
    (repository / "a.txt").write_text("two\n")
    git("rm", "-q", "bin/run")
    git("commit", "-q", "-am", "second")
    second = git("rev-parse", "HEAD")
    (repository / "a.txt").write_text("three\n")
    git("commit", "-q", "-am", "third")
    bench.git = {"repository": str(repository), "sha": second, "before": first, "ref": "refs/heads/main",
                 "branch": "main"}  # fmt: skip
    result = await bench.run(GitCheckout, {})
    files = bench.files(result.artifact)
    card = json.loads(files.pop(CARD))
    assert files == {"a.txt": b"two\n"}
    assert (card["commit"], card["branch"], card["source_date_epoch"]) == (second, "main", 1704164645)
    assert [commit["subject"] for commit in card["commits"]] == ["second"]
    assert card["changed"] == [{"path": "a.txt", "status": "M"}, {"path": "bin/run", "status": "D"}]
    assert result.facts["commit"] == second
    assert result.facts["tree"] == git("rev-parse", f"{second}^{{tree}}")
    assert (result.facts["files"], result.facts["bytes"]) == (1, 4)


async def test_a_first_push_has_all_commits_and_the_whole_tree(bench: Any, make_repository: Any) -> None:
    repository, git = make_repository({"a.txt": "one\n"})
    bench.git = {"repository": str(repository), "sha": git("rev-parse", "HEAD"), "before": "0" * 40}
    card = json.loads(bench.files((await bench.run(GitCheckout, {})).artifact)[CARD])
    assert card["commits"][0]["body"].strip() == "body of it"
    assert card["commits"][0]["author"] == "Ada"
    assert card["changed"] == [{"path": "a.txt", "status": "A"}]


@pytest.mark.parametrize(
    "url", ["https://forge.example/acme/shop.git", "git@forge.example:acme/shop.git", "ssh://forge/shop.git"]
)
async def test_a_remote_push_is_read_from_its_mirror(
    bench: Any, make_repository: Any, tmp_path: Path, url: str
) -> None:
    bench.cache = tmp_path / "cache"
    repository, git = make_repository({"a.txt": "one\n"})
    first = git("rev-parse", "HEAD")
    (repository / "a.txt").write_text("two\n")
    git("commit", "-q", "-am", "second")
    second = git("rev-parse", "HEAD")
    mirror = find_mirror(bench.cache / "git", url)
    mirror.parent.mkdir(parents=True)
    git("clone", "-q", "--bare", str(repository), str(mirror))
    bench.git = {"repository": url, "sha": first, "before": "0" * 40}
    result = await bench.run(GitCheckout, {})
    assert bench.files(result.artifact)["a.txt"] == b"one\n"
    assert (result.facts["repository"], result.facts["commit"]) == (url, first)
    bench.git = {"repository": url, "sha": second, "before": first}
    card = json.loads(bench.files((await bench.run(GitCheckout, {})).artifact)[CARD])
    assert card["changed"] == [{"path": "a.txt", "status": "M"}]
    assert card["repository"] == url


async def test_the_same_commit_makes_the_same_bytes(bench: Any, make_repository: Any) -> None:
    repository, _ = make_repository({"a.txt": "one\n"})
    results = [await check_out(bench, repository) for _ in range(2)]
    assert results[0].artifact == results[1].artifact


async def test_nothing_of_the_commit_or_the_repository_runs(
    bench: Any, make_repository: Any, tmp_path: Any
) -> None:
    """Hooks, filters, attributes, a submodule with a command for its URL: all are only bytes."""
    mark = tmp_path / "ran"
    repository, git = make_repository(
        {
            ".gitattributes": "*.txt filter=bad text eol=crlf ident\n*.bin working-tree-encoding=UTF-16\n",
            "a.txt": "$Id$\n",
            ".gitmodules": '[submodule "x"]\n\tpath = x\n'
            f"\turl = ext::sh -c touch% {mark}\n\tupdate = !touch {mark}\n",
            ".gitconfig": f"[core]\n\tfsmonitor = touch {mark}\n",
            "hooks/post-checkout": f"#!/bin/sh\ntouch {mark}\n",
        }
    )
    git("update-index", "--add", "--cacheinfo", "160000", "1" * 40, "x")
    git("commit", "-q", "-m", "a submodule")
    git("config", "filter.bad.smudge", f"touch {mark}; cat")
    git("config", "uploadpack.packObjectsHook", f"touch {mark}; false")
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(0o755)
    result = await check_out(bench, repository)
    assert bench.files(result.artifact)["a.txt"] == b"$Id$\n"
    assert result.warnings == ("1 submodules were left out",)
    assert not mark.exists()


@pytest.mark.parametrize(
    "target", ["link", "/etc/passwd", "../../../../etc/passwd", "missing", ".git/config"]
)
async def test_a_link_out_of_the_repository_is_refused(bench: Any, make_repository: Any, target: Any) -> None:
    repository, git = make_repository({"a.txt": "x"})
    (repository / "link").symlink_to(target)
    git("add", "link")
    git("commit", "-q", "-m", "link")
    with pytest.raises(StepError) as raised:
        await check_out(bench, repository)
    assert raised.value.error_code == "git-symlink-escape"


async def test_a_link_inside_is_kept_as_content(bench: Any, make_repository: Any) -> None:
    repository, git = make_repository({"a.txt": "x"})
    (repository / "link").symlink_to("a.txt")
    git("add", "link")
    git("commit", "-q", "-m", "link")
    assert bench.files((await check_out(bench, repository)).artifact)["link"] == b"x"


async def test_a_vanished_repository(bench: Any, make_repository: Any, tmp_path: Any) -> None:
    repository, git = make_repository({"a.txt": "x"})
    bench.git = {"repository": str(repository), "sha": git("rev-parse", "HEAD")}
    shutil.rmtree(repository)
    for broken in (False, True):
        if broken:
            repository.mkdir()
        with pytest.raises(StepError) as raised:
            await bench.run(GitCheckout, {})
        assert raised.value.error_code == "git-unreachable"
        assert raised.value.retryable


@pytest.mark.parametrize("ref", ["1" * 40, "no-such-branch"])
async def test_a_missing_commit(bench: Any, make_repository: Any, ref: Any) -> None:
    repository, _ = make_repository({"a.txt": "x"})
    with pytest.raises(StepError) as raised:
        await check_out(bench, repository, ref=ref)
    assert raised.value.error_code == "git-commit-missing"


@pytest.mark.parametrize(
    ("repository", "code"),
    [
        ("ext::sh -c id", "git-scheme"),
        ("--upload-pack=id", "git-scheme"),
        ("ssh://host/x", "git-scheme"),
        ("git://host/x", "git-scheme"),
        ("", "git-unset"),
        ("no/such/folder", "git-unreachable"),
        ("https://127.0.0.1:9/x.git", "git-unreachable"),
    ],
)
async def test_odd_addresses(bench: Any, repository: Any, code: str) -> None:
    with pytest.raises(StepError) as raised:
        await check_out(bench, repository)
    assert raised.value.error_code == code


@pytest.mark.parametrize("ref", ["-x", "a..b", "a b", "refs/heads/x.lock", "a:b", "+a"])
async def test_odd_refs(bench: Any, make_repository: Any, ref: Any) -> None:
    repository, _ = make_repository({"a.txt": "x"})
    with pytest.raises(StepError) as raised:
        await check_out(bench, repository, ref=ref)
    assert raised.value.error_code == "git-ref"


async def test_a_branch_and_a_bare_repository(bench: Any, make_repository: Any, tmp_path: Any) -> None:
    _, git = make_repository({"a.txt": "x"})
    git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    result = await check_out(bench, tmp_path / "bare.git", ref="main")
    assert result.facts["commit"] == git("rev-parse", "HEAD")


async def test_a_name_that_is_ours_is_refused(bench: Any, make_repository: Any) -> None:
    repository, _ = make_repository({CARD: "{}"})
    with pytest.raises(StepError) as raised:
        await check_out(bench, repository)
    assert raised.value.error_code == "git-reserved-name"


async def test_a_message_cannot_forge_commits(bench: Any, make_repository: Any) -> None:
    repository, git = make_repository({"a.txt": "x"})
    git("commit", "-q", "--allow-empty", "-m", "sub\x1eject\n\nbo\x1fdy\x1e" + "1" * 40 + "\x1fEve")
    card = json.loads(bench.files((await check_out(bench, repository)).artifact)[CARD])
    assert [len(commit["sha"]) for commit in card["commits"]] == [40, 40]
    assert {commit["author"] for commit in card["commits"]} == {"Ada"}


async def test_over_http_only_where_declared(bench: Any, make_repository: Any, tmp_path: Any) -> None:
    """A dumb HTTP server of the repository's files, through the proxy that knows the declared hosts."""
    import http.server
    import threading
    from functools import partial

    repository, git = make_repository({"a.txt": "x"})
    git("update-server-info")
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(quiet, directory=str(repository / ".git"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    try:
        with pytest.raises(StepError) as raised:
            await check_out(bench, url)
        assert raised.value.error_code == "git-unreachable"
        assert server.server_port
        bench.network = Network((f"127.0.0.1:{server.server_port}",), ("127.0.0.1",))
        with pytest.raises(StepError) as raised:
            await check_out(bench, url)  # it is reached; a dumb server has no shallow history to give
        assert raised.value.error_code == "git-commit-missing"
        assert bench.meter.network > 0
    finally:
        server.shutdown()
        server.server_close()
