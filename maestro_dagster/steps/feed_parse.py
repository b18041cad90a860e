"""`feed/parse`: RSS, Atom, RDF, CDF or JSON Feed into one plain JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.errors import StepError
from maestro_dagster.steps.child import call_in_child
from maestro_dagster.steps.input import read_only_input
from maestro_dagster.steps.interface import Estimate, StepConfig, StepContext, StepKind, StepResult

MAX_BYTES = 16 * 1024**2


class FeedParseConfig(StepConfig):
    max_entries: int = Field(default=100, ge=1, le=1000, description="entries kept, from the top")
    max_text: int = Field(default=20_000, ge=1, le=1_000_000, description="characters kept of a text")
    min_entries: int = Field(default=0, ge=0, le=1000, description="fewer entries fail the step")


class FeedParse(StepKind[FeedParseConfig]):
    """Makes `{"title", "link", "entries": [{"title", "link", "published", "summary", "content", "id"}]}`.

    Absent fields are null. Texts are plain: markup is removed. `published` is RFC 3339 in UTC. An ill-formed
    feed gives what can be had, with a warning.
    """

    uses: ClassVar[str] = "pkg:feed/parse@1.0.0"
    summary: ClassVar[str] = "Parse an RSS, Atom or JSON feed into plain entries."
    config = FeedParseConfig
    inputs: ClassVar[str] = "one"
    media_type: ClassVar[str] = "application/json"

    def estimate(self, config: FeedParseConfig) -> Estimate:
        return Estimate(cpu_seconds=0.5, bytes_out=64 * 1024)

    async def run(
        self, context: StepContext, config: FeedParseConfig, inputs: Mapping[str, Artifact]
    ) -> StepResult:
        name, artifact = read_only_input(inputs, context.step)
        if artifact.size > MAX_BYTES:
            raise StepError(
                f"the feed has {artifact.size} bytes; at most {MAX_BYTES} are read",
                place=f"{context.step}, input {name}",
                remedy="fetch a shorter feed",
                code="feed-too-large",
            )
        made = await call_in_child(
            "maestro_dagster.steps.feed_text:parse_feed",
            {"media_type": artifact.media_type, **config.model_dump()},
            context.store.read(artifact.digest),
        )
        parsed = json.loads(made)
        feed, form, fault = parsed["feed"], parsed["form"], parsed["fault"]
        count = len(feed["entries"])
        if count < config.min_entries:
            raise StepError(
                f"the feed has {count} entries, {config.min_entries} are asked for"
                + (f": {fault}" if fault else ""),
                place=f"{context.step}, input {name}",
                remedy="check that the address gives a feed",
                code="feed-too-short",
            )
        warnings = (f"ill-formed feed, read as far as possible: {fault}",) if fault else ()
        return StepResult(
            data=json.dumps(feed, ensure_ascii=False, indent=1).encode(),
            media_type=self.media_type,
            facts={"entries": count, "form": form, "ill_formed": bool(fault)},
            preview="\n".join(f"- {entry['title'] or '(no title)'}" for entry in feed["entries"][:20])[:4000],
            warnings=warnings,
        )
