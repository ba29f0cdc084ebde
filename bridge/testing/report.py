"""What checks of a library found, for reading."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
_LINES = 6  # of a message


@dataclass(frozen=True)
class Result:
    """One check of an op on one of its samples ("" where it is of the op as a whole). outcome: "passed", "failed" or
    "skipped". reason: why it is not passed."""

    op: str
    sample: str
    check: str
    outcome: str
    reason: str = ""

    def __str__(self) -> str:
        of = f", sample {self.sample!r}" if self.sample else ""
        return f"{self.op}: {self.check} {self.outcome.upper()}{of}: {_shortened(self.reason)}"


@dataclass
class LibraryReport:
    """Every result of the checks of a library, op by op; as text the failures come first, then counts."""

    namespace: str
    origin: str
    results: list[Result] = field(default_factory=list)

    @property
    def failed(self) -> list[Result]:
        """The checks that found something."""
        return [result for result in self.results if result.outcome == FAILED]

    @property
    def skipped(self) -> list[Result]:
        """The checks that could not be made here, each with its reason."""
        return [result for result in self.results if result.outcome == SKIPPED]

    def __str__(self) -> str:
        ops = list(dict.fromkeys(result.op for result in self.results))
        head = f"library {self.namespace} ({self.origin}): {len(ops)} ops, {len(self.results)} checks"
        failures = [str(result) for result in self.failed]
        return "\n\n".join([head, *failures, *(self._of_op(op) for op in ops), self._verdict()])

    def _of_op(self, op: str) -> str:
        """How often each check passed and failed, and which were skipped, and why."""
        lines = [op]
        mine = [result for result in self.results if result.op == op]
        for outcome in (PASSED, FAILED):
            counts = Counter(result.check for result in mine if result.outcome == outcome)
            if counts:
                lines.append(f"  {outcome:8} {', '.join(f'{check} {count}' for check, count in counts.items())}")
        reasons: dict[str, list[Result]] = {}
        for result in mine:
            if result.outcome == SKIPPED:
                reasons.setdefault(result.reason, []).append(result)
        for reason, skipped in reasons.items():
            lines.append(f"  skipped  {_checks(skipped)}: {_shortened(reason)}")
        return "\n".join(lines)

    def _verdict(self) -> str:
        return f"{len(self.failed)} failed, {len(self.skipped)} skipped" if self.results else "no op was checked"


class LibraryCheckError(AssertionError):
    """A check of a library found something. report: everything that was checked; the message is its text."""

    def __init__(self, report: LibraryReport) -> None:
        super().__init__(str(report))
        self.report = report


def _checks(results: Sequence[Result]) -> str:
    counts = Counter(result.check for result in results)
    return ", ".join(check if count == 1 else f"{check} {count}" for check, count in counts.items())


def _shortened(reason: str) -> str:
    """The first lines of a message, those after the first indented."""
    lines = [line.rstrip() for line in reason.strip().splitlines() if line.strip()]
    return "\n    ".join(lines[:_LINES] + (["..."] if len(lines) > _LINES else []))
