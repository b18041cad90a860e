"""The built-in provider: it chooses sentences of its input and writes none of its own.

Sentences are ranked as in LexRank (Erkan and Radev, 2004): the stationary distribution of a walk over
their TF-IDF cosine similarities, here drawn towards the words of the prompt; then taken one by one by
maximal marginal relevance (Carbonell and Goldstein, 1998). Same input, same output.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from maestro_dagster.llm.text import count_words, has_phrase, split_sentences, strip_markup

MAX_DOCUMENT_CHARS = 64 * 1024
MAX_SENTENCES = 400
_SHORTEST, _LONGEST = 5, 70  # words of a sentence that can stand in a brief
_DAMPING, _ROUNDS = 0.85, 30
_QUERY_WEIGHT, _LEAD_WEIGHT = 0.6, 0.15
_DIVERSITY = 0.4
_SAME = 0.8  # cosine from which two sentences say the same
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_STOP = frozenset(
    """
    a about above after again all also am an and any are as at be because been before being between both
    but by can could did do does doing down during each few for from further had has have having he her
    here hers him his how i if in into is it its itself just me more most my new no nor not now of off
    on once one only or other our out over own said same say says she should so some such than that the
    their them then there these they this those through to too two under until up us very was we were
    what when where which while who whom why will with would you your brief summarise summarize summary
    input text write words give
    """.split()  # noqa: SIM905 - a word list reads as one
)


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Extract:
    """`notes` says in plain words what could not be had. `words_read` counts the whole input."""

    text: str
    words: int
    words_read: int
    sentences: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sentence:
    document: int
    position: int
    text: str
    words: int
    terms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExtractLimits:
    min_words: int = 0
    max_words: int = 200
    keywords: tuple[str, ...] = ()


def extract_summary(documents: Sequence[Document], query: str, limits: ExtractLimits) -> Extract:
    """At most `max_words` of whole sentences; `min_words` and each keyword when the input has them."""
    words_read, sentences = _read(documents)
    if not sentences:
        return Extract("", 0, words_read, 0, ("the input holds no whole sentence",))
    chosen = _Choice(documents, sentences, limits)
    vectors = _weigh(sentences)
    scores = _rank(sentences, vectors, _terms(query))
    order = sorted(range(len(sentences)), key=lambda index: (-scores[index], index))
    for keyword in limits.keywords:
        if not any(has_phrase(sentences[index].text, keyword) for index in chosen.indexes):
            for index in order:
                if has_phrase(sentences[index].text, keyword) and chosen.take(index):
                    break
    target = max(limits.min_words, (limits.min_words + limits.max_words) // 2)
    _take_relevant(chosen, order, scores, vectors, target)
    text = chosen.write()
    return Extract(text, count_words(text), words_read, len(sentences), _notes(text, words_read, limits))


class _Choice:
    """Which sentences were taken, and how many words they make with the titles that introduce them."""

    def __init__(
        self, documents: Sequence[Document], sentences: Sequence[_Sentence], limits: ExtractLimits
    ) -> None:
        self._titles = [_clean_title(document.title) for document in documents]
        self._sentences = sentences
        self._max_words = limits.max_words
        self.indexes: list[int] = []
        self.words = 0

    def cost(self, index: int) -> int:
        sentence = self._sentences[index]
        opened = any(self._sentences[other].document == sentence.document for other in self.indexes)
        return sentence.words + (0 if opened else count_words(self._titles[sentence.document]))

    def take(self, index: int) -> bool:
        cost = self.cost(index)
        if index in self.indexes or self.words + cost > self._max_words:
            return False
        self.indexes.append(index)
        self.words += cost
        return True

    def write(self) -> str:
        """A paragraph per document, led by its title, everything in the order of the input."""
        paragraphs: dict[int, list[str]] = {}
        for index in sorted(self.indexes):
            sentence = self._sentences[index]
            paragraphs.setdefault(sentence.document, []).append(sentence.text)
        return "\n\n".join(
            (f"**{self._titles[number]}** " if self._titles[number] else "") + " ".join(texts)
            for number, texts in paragraphs.items()
        )


def _read(documents: Sequence[Document]) -> tuple[int, list[_Sentence]]:
    words_read = 0
    seen: set[tuple[str, ...]] = set()
    found: list[_Sentence] = []
    for number, document in enumerate(documents):
        plain = strip_markup(document.text[:MAX_DOCUMENT_CHARS])
        words_read += count_words(plain)
        for position, text in enumerate(split_sentences(plain)):
            words, terms = count_words(text), tuple(_terms(text))
            if len(found) < MAX_SENTENCES and _SHORTEST <= words <= _LONGEST and terms not in seen:
                seen.add(terms)
                found.append(_Sentence(number, position, text, words, terms))
    return words_read, found


def _terms(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.casefold()) if word not in _STOP and len(word) > 1]


def _weigh(sentences: Sequence[_Sentence]) -> list[dict[str, float]]:
    """A unit TF-IDF vector per sentence."""
    frequency = Counter(term for sentence in sentences for term in set(sentence.terms))
    vectors = []
    for sentence in sentences:
        counts = Counter(sentence.terms)
        vector = {
            term: count * (math.log((1 + len(sentences)) / (1 + frequency[term])) + 1)
            for term, count in counts.items()
        }
        length = math.sqrt(sum(weight * weight for weight in vector.values())) or 1.0
        vectors.append({term: weight / length for term, weight in vector.items()})
    return vectors


def _similar(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    if len(one) > len(other):
        one, other = other, one
    return sum(weight * other[term] for term, weight in one.items() if term in other)


def _rank(
    sentences: Sequence[_Sentence], vectors: Sequence[Mapping[str, float]], query: Iterable[str]
) -> list[float]:
    """Scores between 0 and 1: central to the input, near to the prompt, early in its document."""
    centrality = _walk(_neighbours(vectors), len(vectors))
    wanted = set(query)
    near = [
        sum(weight for term, weight in vector.items() if term in wanted) / math.sqrt(len(wanted) or 1)
        for vector in vectors
    ]
    top_centrality, top_near = max(centrality), max(near) or 1.0
    return [
        centrality[index] / top_centrality
        + _QUERY_WEIGHT * near[index] / top_near
        + _LEAD_WEIGHT / (1 + sentence.position)
        for index, sentence in enumerate(sentences)
    ]


def _neighbours(vectors: Sequence[Mapping[str, float]]) -> list[dict[int, float]]:
    postings: dict[str, list[tuple[int, float]]] = {}
    for index, vector in enumerate(vectors):
        for term, weight in vector.items():
            postings.setdefault(term, []).append((index, weight))
    edges: list[dict[int, float]] = [{} for _ in vectors]
    for entries in postings.values():
        for place, (one, weight) in enumerate(entries):
            row = edges[one]
            for other, other_weight in entries[place + 1 :]:
                row[other] = row.get(other, 0.0) + weight * other_weight
    for one, row in enumerate(edges):
        for other, weight in row.items():
            if one < other:
                edges[other][one] = weight
    return edges


def _walk(edges: Sequence[Mapping[int, float]], count: int) -> list[float]:
    totals = [sum(row.values()) for row in edges]
    rank = [1.0 / count] * count
    for _ in range(_ROUNDS):
        spread = [0.0] * count
        lost = 0.0
        for index, row in enumerate(edges):
            if not totals[index]:
                lost += rank[index]
                continue
            share = rank[index] / totals[index]
            for other, weight in row.items():
                spread[other] += share * weight
        rank = [(1 - _DAMPING) / count + _DAMPING * (value + lost / count) for value in spread]
    return rank


def _take_relevant(
    chosen: _Choice,
    order: Sequence[int],
    scores: Sequence[float],
    vectors: Sequence[Mapping[str, float]],
    target: int,
) -> None:
    """Takes sentences until the target is reached; repeats only when nothing new is left to say."""
    nearest = dict.fromkeys(order, 0.0)
    for index in chosen.indexes:
        _note_taken(index, nearest, vectors)
    repeats = False
    while chosen.words < target:
        candidates = [index for index in order if index in nearest and (repeats or nearest[index] < _SAME)]
        best = max(
            candidates, key=lambda index: (scores[index] - _DIVERSITY * nearest[index], -index), default=None
        )
        if best is None:
            if repeats:
                return
            repeats = True
            continue
        if chosen.take(best):
            _note_taken(best, nearest, vectors)
        else:
            del nearest[best]


def _note_taken(taken: int, nearest: dict[int, float], vectors: Sequence[Mapping[str, float]]) -> None:
    nearest.pop(taken, None)
    for index, value in nearest.items():
        nearest[index] = max(value, _similar(vectors[index], vectors[taken]))


def _clean_title(title: str) -> str:
    text = " ".join(strip_markup(title).replace("*", "").split())
    return text if not text or text[-1] in ".!?…:" else f"{text}."


def _notes(text: str, words_read: int, limits: ExtractLimits) -> tuple[str, ...]:
    notes = []
    words = count_words(text)
    if words < limits.min_words:
        notes.append(
            f"{words} words instead of {limits.min_words}: the input has {words_read}, none were invented"
        )
    missing = [keyword for keyword in limits.keywords if not has_phrase(text, keyword)]
    if missing:
        notes.append("the input has no sentence that fits with: " + ", ".join(missing))
    return tuple(notes)
