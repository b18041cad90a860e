"""`sign/artifact`: a signed statement for each file of its inputs, in the form that others verify."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact
from maestro_dagster.errors import KeyMissingError, StepError
from maestro_dagster.evidence.interface import Signer
from maestro_dagster.steps.foreign_code import make_folder
from maestro_dagster.steps.interface import Estimate, StepConfig, StepContext, StepKind, StepResult

PREDICATE = "urn:maestro:signed-artifact:v1"
ENDING = ".sigstore.json"
MOST_FILES = 1000


class SignArtifactConfig(StepConfig):
    sources: tuple[str, ...] = Field(
        default=(), title="Sources", description="needs whose files are signed; default: all"
    )


class SignArtifact(StepKind[SignArtifactConfig]):
    uses: ClassVar[str] = "pkg:sign/artifact@1.0.0"
    summary: ClassVar[str] = "Sign each file as an in-toto statement in a Sigstore bundle."
    config = SignArtifactConfig
    media_type: ClassVar[str] = TREE_MEDIA_TYPE

    def estimate(self, config: SignArtifactConfig) -> Estimate:
        return Estimate(cpu_seconds=0.05, bytes_out=8 * 1024)

    async def run(
        self, context: StepContext, config: SignArtifactConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        place = f"step {context.step}"
        if context.signer is None:
            raise KeyMissingError(
                "there is no key to sign with", place=place, remedy="make one with `maestro init .`"
            )
        chosen = {name: inputs[name] for name in config.sources if name in inputs} or dict(inputs)
        files = name_files(context, chosen)
        if not files or len(files) > MOST_FILES or set(config.sources) - set(inputs):
            raise StepError(
                f"there are {len(files)} files to sign in {', '.join(config.sources) or 'the inputs'}",
                place=place,
                remedy=f"name needs that make 1 to {MOST_FILES} files",
                code="sign-nothing",
            )
        folder = make_folder(context, "signatures")
        await asyncio.to_thread(_sign_all, files, folder, context, context.signer)
        tree = await asyncio.to_thread(context.store.put_tree, folder)
        return StepResult(
            artifact=tree,
            media_type=tree.media_type,
            facts={"signed": files, "algorithm": context.signer.algorithm, "key": context.signer.hint},
            preview="\n".join(f"- `{name}` {digest}" for name, digest in sorted(files.items()))[:4000],
        )


def name_files(context: StepContext, inputs: Mapping[str, Artifact]) -> dict[str, str]:
    """File name to digest: a tree's files by their paths, any other input by its step and media type."""
    found: dict[str, str] = {}
    for name, artifact in inputs.items():
        if artifact.media_type == TREE_MEDIA_TYPE:
            pairs = [(entry.path, entry.digest) for entry in context.store.read_tree(artifact.digest)]
        else:
            ending = ".cdx.json" if "cyclonedx" in artifact.media_type else ""
            pairs = [(f"{name.replace('/', '_')}{ending}", artifact.digest)]
        for path, digest in pairs:
            if found.setdefault(path, digest) != digest:
                raise StepError(
                    f"two inputs hold a file {path}",
                    place=f"step {context.step}",
                    remedy="name one of them in `sources`",
                    code="sign-ambiguous",
                )
    return found


def _sign_all(files: Mapping[str, str], folder: Path, context: StepContext, signer: Signer) -> None:
    from maestro_dagster.evidence.dsse import STATEMENT_TYPE, sign_statement

    for name, digest in files.items():
        statement = {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}],
            "predicateType": PREDICATE,
            "predicate": {"flow": context.flow, "run": context.run_id, "step": context.step},
        }
        path = folder / f"{name}{ENDING}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sign_statement(statement, signer))
