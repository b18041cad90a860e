"""Every error that an operator can meet, in one place.

    MaestroError
    +-- UsageError               the command was called wrongly                     exit 2
    +-- ManifestError            a flow cannot be read or is wrong (diagnostics)
    +-- ProjectError             the project folder or its settings
    +-- StoreError               artifacts: missing, corrupt, cannot be written
    +-- JournalError             the durable record of runs
    +-- StepError                a step failed; says whether trying again can help
    +-- PolicyError              a pack cannot be loaded or evaluated (a denial is a verdict, not an error)
    +-- DeniedError              a verdict denied the flow                          exit 3
    +-- EvidenceError            a bundle or receipt is refused
    +-- KeyMissingError          no key to sign or verify with                      exit 2
    +-- CostError                rates, spool, lake
    +-- ModelError               a model call failed
    +-- SandboxError             the cage cannot be built
    +-- EventError               inbox, hooks, refs
    +-- DatabaseError            a database that rooms share, and its migration

Each says the fact, the place and the remedy, in that order, and carries a code that never changes
once released: scripts match on the code, people read the text.
"""

from __future__ import annotations

from typing import Any, ClassVar


class MaestroError(Exception):
    """Base of all operator-visible errors.

    Args:
        fact: what is wrong, one sentence without a full stop.
        place: where: a file with line and column, a run and step, a setting.
        remedy: what the operator can do about it.
        code: overrides the code of the class with a narrower one.

    """

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1

    def __init__(self, fact: str, *, place: str = "", remedy: str = "", code: str | None = None) -> None:
        super().__init__(fact)
        self.fact = fact
        self.place = place
        self.remedy = remedy
        self.error_code = code or type(self).code

    def __str__(self) -> str:
        parts = [self.fact, f"at {self.place}" if self.place else "", self.remedy]
        return "; ".join(part for part in parts if part)

    def to_json(self) -> dict[str, str]:
        """The stable shape of an error under `--json`."""
        return {
            "code": self.error_code,
            "fact": self.fact,
            "place": self.place,
            "remedy": self.remedy,
        }

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (cage, worker); the default pickling would lose the keywords.
        rebuild = (type(self), self.fact, self.place, self.remedy, self.error_code)
        return (_rebuild, rebuild, self.__dict__)


def _rebuild(kind: type[MaestroError], fact: str, place: str, remedy: str, code: str) -> MaestroError:
    return kind(fact, place=place, remedy=remedy, code=code)


class UsageError(MaestroError):
    code = "usage"
    exit_code = 2


class ManifestError(MaestroError):
    """A flow cannot be read or is wrong. `diagnostics` holds every manifest.diagnostic.Diagnostic."""

    code = "manifest"
    diagnostics: tuple[Any, ...] = ()


class ProjectError(MaestroError):
    code = "project"


class StoreError(MaestroError):
    code = "store"


class JournalError(MaestroError):
    code = "journal"


class StepError(MaestroError):
    """A step failed. `retryable` says whether the same attempt may succeed later."""

    code = "step"
    retryable: bool = False
    retry_after: float | None = None  # seconds that the other side asked to wait

    @classmethod
    def transient(cls, fact: str, *, place: str = "", remedy: str = "", code: str | None = None) -> StepError:
        error = cls(fact, place=place, remedy=remedy, code=code)
        error.retryable = True
        return error


class PolicyError(MaestroError):
    code = "policy"


class DeniedError(MaestroError):
    code = "denied"
    exit_code = 3


class EvidenceError(MaestroError):
    code = "evidence"


class KeyMissingError(MaestroError):
    code = "key-missing"
    exit_code = 2


class CostError(MaestroError):
    code = "cost"


class ModelError(MaestroError):
    """A model call failed. `answered`: the provider refused it, so nothing was generated or billed."""

    code = "model"
    retryable: bool = False
    retry_after: float | None = None  # seconds that the provider asked to wait
    answered: bool = False
    status: int | None = None  # of the HTTP answer, where there was one


class SandboxError(MaestroError):
    code = "sandbox"


class EventError(MaestroError):
    """Of an inbox or a forge. `retryable`: the same may succeed later without anybody doing anything."""

    code = "event"
    retryable: bool = False
    retry_after: float | None = None  # seconds that the other side asked to wait


class DatabaseError(MaestroError):
    code = "database"
