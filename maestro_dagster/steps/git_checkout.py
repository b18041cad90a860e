"""`git/checkout`: exactly one commit of a repository, as a folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.steps.git_process import ATTRIBUTES, GitProcess
from maestro_dagster.steps.interface import Effects, Estimate, StepConfig, StepContext, StepKind, StepResult

CARD = ".maestro-checkout.json"
MOST_COMMITS = 200
MOST_CHANGES = 2000
MOST_FILES = 200_000
MOST_BYTES = 4 * 1024**3
MOST_TEXT = 8192  # characters kept of a commit's message
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA256_LENGTH = 64
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+-]{0,250}")


class GitCheckoutConfig(StepConfig):
    repository: str | None = Field(
        default=None,
        title="Repository",
        description="path or https URL; default: the repository of the push that started the run",
    )
    ref: str | None = Field(
        default=None,
        title="Branch, tag or commit",
        description="default: the commit of the push; without a push, the repository's HEAD",
    )
    time_limit: float = Field(default=300, gt=0, le=3600, title="Time limit", description="seconds")


class GitCheckout(StepKind[GitCheckoutConfig]):
    uses: ClassVar[str] = "pkg:git/checkout@1.0.0"
    summary: ClassVar[str] = "Fetch one commit as a folder; nothing of it is executed."
    config = GitCheckoutConfig
    inputs: ClassVar[str] = "any"

    def effects(self, config: GitCheckoutConfig) -> Effects:
        host = urlsplit(config.repository or "").hostname
        return Effects(egress=(host,) if host else ())

    def estimate(self, config: GitCheckoutConfig) -> Estimate:
        return Estimate(cpu_seconds=1.0, bytes_out=10 * 1024**2)

    async def run(
        self, context: StepContext, config: GitCheckoutConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        place = f"step {context.step}"
        mirror = _find_mirror(context, config)
        source = mirror or _choose_repository(context, config, place)
        repository = context.git["repository"] if mirror else source
        wanted = _choose_commit(context, config, place)
        async with _open_git(context, source, wanted, place) as git:
            commit = await _fetch(git, source, wanted, config.time_limit)
            before = await _fetch_before(git, source, context.git.get("before", ""), commit)
            card = await _describe(git, repository, commit, before, context)
            modules = await _check_size(git, commit)
            await git.run("checkout", "--quiet", "--force", "--detach", commit)
            tree_sha = (await git.run("rev-parse", f"{commit}^{{tree}}")).decode().strip()
        return await asyncio.to_thread(_store, context, git.folder, card, tree_sha, modules)


def _choose_repository(context: StepContext, config: GitCheckoutConfig, place: str) -> str:
    repository = config.repository or context.git.get("repository", "")
    if not repository:
        raise StepError(
            "no repository is named, and no push started this run",
            place=place,
            remedy="set `repository` in the step, or start the flow by a push",
            code="git-unset",
        )
    scheme = urlsplit(repository).scheme
    if repository.startswith("-") or scheme not in {"", "http", "https", "file"} or "::" in repository:
        raise StepError(
            f"{repository!r} is no path and no https URL",
            place=place,
            remedy="give a path, or an https URL whose host is in the step's egress",
            code="git-scheme",
        )
    if scheme == "file":
        repository = urlsplit(repository).path
    if scheme in {"http", "https"}:
        return repository
    path = Path(context.project.root, repository).resolve()
    if not path.is_dir():
        raise _unreachable(repository, place)
    return str(path)


def _find_mirror(context: StepContext, config: GitCheckoutConfig) -> str | None:
    """The copy that was fetched when the event came in: no network and no credential is needed again."""
    from maestro_dagster.events.mirror import find_mirror
    from maestro_dagster.events.refs import is_remote

    repository = context.git.get("repository", "")
    if config.repository or not repository or not is_remote(repository):
        return None
    mirror = find_mirror(context.project.cache / "git", repository)
    return str(mirror) if (mirror / "HEAD").is_file() else None


def _choose_commit(context: StepContext, config: GitCheckoutConfig, place: str) -> str:
    """A full commit id wherever one is known: a branch may have moved since the push."""
    ref = config.ref or context.git.get("sha") or "HEAD"
    if not _REF.fullmatch(ref) or ".." in ref or ref.endswith((".lock", "/")):
        raise StepError(f"{ref!r} names no branch, tag or commit", place=place, code="git-ref")
    return ref


@contextlib.asynccontextmanager
async def _open_git(
    context: StepContext, repository: str, wanted: str, place: str
) -> AsyncIterator[GitProcess]:
    """A work folder for git; over the network it goes through the proxy that knows the declared hosts."""
    from maestro_dagster.sandbox.egress import open_proxy

    home, folder = context.scratch / "git-home", context.scratch / "checkout"
    async with contextlib.AsyncExitStack() as stack:
        proxy = None
        if urlsplit(repository).scheme:
            proxy = await stack.enter_async_context(
                open_proxy(context.network.egress, context.network.allow_private, unix=False)
            )
        git = GitProcess(home, folder, place, proxy.url if proxy else "")
        git.prepare()
        form = "sha256" if len(wanted) == _SHA256_LENGTH and _SHA.fullmatch(wanted) else "sha1"
        await git.run("init", "--quiet", "--template=", f"--object-format={form}", ".")
        info = folder / ".git" / "info"
        info.mkdir(exist_ok=True)
        (info / "attributes").write_text(ATTRIBUTES, encoding="ascii")
        try:
            yield git
        finally:
            if proxy:
                context.meter.add_network(proxy.bytes_in, proxy.bytes_out)


async def _fetch(git: GitProcess, repository: str, wanted: str, time_limit: float) -> str:
    """Fetches `wanted` with some history and gives its commit id."""
    try:
        await git.run("ls-remote", "--quiet", repository, "HEAD", time_limit=60)
    except StepError as error:
        if error.error_code != "git-failed":
            raise
        raise _unreachable(repository, git.place, said=error.fact) from error
    arguments = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--force")
    try:
        await git.run(
            *arguments,
            f"--depth={MOST_COMMITS + 1}",
            repository,
            f"{wanted}:refs/maestro/wanted",
            time_limit=time_limit,
        )
        found = (await git.run("rev-parse", "--verify", "refs/maestro/wanted^{commit}")).decode().strip()
    except StepError as error:
        if error.error_code != "git-failed":
            raise
        raise StepError(
            f"the repository has no commit {wanted}",
            place=git.place,
            remedy="push it again; a forced push may have removed it",
            code="git-commit-missing",
        ) from error
    if _SHA.fullmatch(wanted) and found != wanted:
        raise StepError(f"{wanted} is no commit", place=git.place, code="git-commit-missing")
    return found


async def _fetch_before(git: GitProcess, repository: str, before: str, commit: str) -> str | None:
    """The commit before the push, where there is one that can be had; a new branch has none."""
    if not _SHA.fullmatch(before) or not before.strip("0") or before == commit:
        return None
    with contextlib.suppress(StepError):
        await git.run("cat-file", "-e", f"{before}^{{commit}}")
        return before
    with contextlib.suppress(StepError):
        await git.run(
            "fetch", "--quiet", "--no-tags", "--depth=1", repository, f"{before}:refs/maestro/before"
        )
        return before
    return None


async def _check_size(git: GitProcess, commit: str) -> int:
    """Before a file is written: how much it would be. Gives the number of submodules."""
    listing = await git.run("ls-tree", "-r", "-l", "-z", commit)
    entries = [entry.split(b"\t", 1)[0].split() for entry in listing.split(b"\0") if entry]
    size = sum(int(entry[3]) for entry in entries if entry[3].isdigit())
    if len(entries) > MOST_FILES or size > MOST_BYTES:
        raise StepError(
            f"the commit holds {len(entries)} files with {size} bytes",
            place=git.place,
            remedy=f"check out at most {MOST_FILES} files with {MOST_BYTES} bytes",
            code="git-too-large",
        )
    return sum(entry[1] == b"commit" for entry in entries)


async def _describe(
    git: GitProcess, repository: str, commit: str, before: str | None, context: StepContext
) -> dict[str, Any]:
    span = [f"{before}..{commit}"] if before else [commit]
    form = "%H%x00%an%x00%cI%x00%s%x00%b"  # with -z, NUL stands between all fields; no message can hold one
    log = await git.run("log", "-z", f"--max-count={MOST_COMMITS}", f"--format={form}", *span, "--")
    fields = log.decode("utf-8", "replace").removesuffix("\0").split("\0")
    names = ("sha", "author", "date", "subject", "body")
    commits = [
        dict(zip(names, (text[:MOST_TEXT] for text in fields[start : start + len(names)]), strict=True))
        for start in range(0, len(fields) - 1, len(names))
    ]
    parents = (await git.run("log", "-1", "--format=%P", commit)).decode().split()
    empty = (await git.run("hash-object", "-t", "tree", "/dev/null")).decode().strip()
    base = before or (parents[0] if parents else empty)
    with contextlib.suppress(StepError):
        changed = await git.run("diff-tree", "-r", "-z", "--no-renames", "--name-status", base, commit)
        break_up = changed.decode("utf-8", "replace").split("\0")
        pairs = zip(break_up[1::2], break_up[::2], strict=False)
        changes = [{"path": path, "status": status} for path, status in pairs][:MOST_CHANGES]
        epoch = int((await git.run("log", "-1", "--format=%ct", commit)).decode())
        return {
            "repository": repository,
            "commit": commit,
            "ref": context.git.get("ref", ""),
            "branch": context.git.get("branch", ""),
            "commits": commits,
            "changed": changes,
            "source_date_epoch": epoch,
        }
    raise StepError(f"the history of {commit} cannot be read", place=git.place, code="git-failed")


def _store(
    context: StepContext, folder: Path, card: dict[str, Any], tree_sha: str, modules: int
) -> StepResult:
    import shutil

    shutil.rmtree(folder / ".git")
    files, size = _check_files(folder, f"step {context.step}")
    path = folder / CARD
    if path.is_symlink() or path.exists():
        raise StepError(
            f"the commit holds a file {CARD}, a name that belongs to us",
            code="git-reserved-name",
            place=f"step {context.step}",
            remedy="rename it in the repository",
        )
    path.write_text(json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    artifact = context.store.put_tree(folder)
    facts = {
        "commit": card["commit"],
        "tree": tree_sha,
        "files": files,
        "bytes": size,
        "commits": len(card["commits"]),
        "changed": len(card["changed"]),
        "repository": card["repository"],
        "ref": card["ref"],
        "source_date_epoch": card["source_date_epoch"],
    }
    warnings = (f"{modules} submodules were left out",) if modules else ()
    subjects = "\n".join(f"- `{commit['sha'][:10]}` {commit['subject']}" for commit in card["commits"][:20])
    preview = f"**{card['commit'][:12]}** · {files} files, {size} bytes\n\n{subjects}"[:4000]
    return StepResult(
        artifact=artifact, media_type=artifact.media_type, facts=facts, preview=preview, warnings=warnings
    )


def _check_files(top: Path, place: str) -> tuple[int, int]:
    """(files, bytes); a link that leaves the checkout is refused before anything reads it."""
    files = size = 0
    root = top.resolve()
    for folder, folders, names in os.walk(top):
        for name in (*folders, *names):
            path = Path(folder, name)
            if path.is_symlink() and not _stays_inside(path, root):
                raise StepError(
                    f"the link {str(path.relative_to(top))!a} leads out of the repository or nowhere",
                    place=place,
                    remedy="remove the link from the commit",
                    code="git-symlink-escape",
                )
        for name in names:
            files += 1
            size += Path(folder, name).lstat().st_size
    return files, size


def _stays_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # it leads nowhere, or to itself
        return False


def _unreachable(repository: str, place: str, said: str = "") -> StepError:
    return StepError.transient(
        f"the repository {repository} cannot be reached" + (f" ({said})" if said else ""),
        place=place,
        remedy="check that it still exists and may be read, and that its host is in the step's egress",
        code="git-unreachable",
    )
