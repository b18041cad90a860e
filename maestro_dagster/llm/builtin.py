"""The built-in provider behind the hub's face. Works offline, costs nothing, writes nothing of its own."""

from __future__ import annotations

import time

from maestro_dagster.errors import ModelError
from maestro_dagster.llm.extract import Document, ExtractLimits, extract_summary
from maestro_dagster.llm.interface import ModelRequest, ModelUsage
from maestro_dagster.llm.reply import RawReply
from maestro_dagster.llm.text import count_words

DEFAULT_MAX_WORDS = 200


def answer_extractive(request: ModelRequest) -> RawReply:
    """Sentences of the documents, else of the user messages, that are nearest to the query.

    `options`: `query`, `documents` (list of {"title", "text"}), `min_words`, `max_words`, `keywords`; or
    `given`: a text that the step worked out itself, which comes back as it is.
    """
    began = time.thread_time()
    options = request.options
    users = [message["content"] for message in request.messages if message.get("role") == "user"]
    if "given" in options:
        given = str(options["given"])
        read = sum(count_words(text) for text in users)
        return RawReply(given, ModelUsage(tokens_in=read, tokens_out=count_words(given)))
    documents = [
        Document(str(item.get("title", "")), str(item.get("text", "")))
        for item in options.get("documents", [{"text": text} for text in users])
    ]
    least = int(options.get("min_words") or 0)
    most = int(options.get("max_words") or max(DEFAULT_MAX_WORDS, 2 * least))
    if most < least:
        raise ModelError(
            f"max_words ({most}) is less than min_words ({least})",
            remedy="widen the range",
            code="model-refused",
        )
    keywords = tuple(str(word) for word in options.get("keywords") or ())
    extract = extract_summary(
        documents, " ".join([*users[:1], *keywords]), ExtractLimits(least, most, keywords)
    )
    usage = ModelUsage(tokens_in=extract.words_read, tokens_out=count_words(extract.text))
    return RawReply(extract.text, usage, notes=extract.notes, cpu_seconds=time.thread_time() - began)
