"""The data doctor's report: facts, findings of three levels, and the exit code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.atomic_files import write_json
from dataloaders.datasets.files import name_some

# problem: training or a metric would be wrong. warning: look at it. note: good to know.
LEVELS = ("problem", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One finding. `check` is a fixed word for programs; `some` are the first ids or texts."""

    level: str
    split: str
    check: str
    message: str
    count: int = 1
    some: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.level in LEVELS, self.level

    def __str__(self) -> str:
        where = f" ({name_some(self.some)})" if self.some else ""
        return f"{self.level:8} {self.split}: {self.message}{where}"


@dataclass
class Report:
    """Facts by split, in the order of checking, and findings."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def fact(self, split: str, name: str, value: Any) -> None:
        self.facts.setdefault(split, {})[name] = value

    def add(
        self, level: str, split: str, check: str, message: str, *, count: int = 1, some: Sequence[str] = ()
    ) -> None:
        self.findings.append(Finding(level, split, check, message, count, tuple(some[:10])))

    def count(self, level: str) -> int:
        """Number of findings of this level."""
        return sum(finding.level == level for finding in self.findings)

    def exit_code(self, *, strict: bool) -> int:
        """1 if there is a problem or, with `strict`, a warning; else 0."""
        return int(self.count("problem") > 0 or (strict and self.count("warning") > 0))

    def lines(self) -> list[str]:
        """The printed report: facts by split, findings by level, a summary."""
        return [*self._fact_lines(), *self._finding_lines(), self._summary()]

    def _fact_lines(self) -> Iterable[str]:
        for split, facts in self.facts.items():
            yield f"{split}:"
            width = max(map(len, facts))
            yield from (f"  {name:{width}}  {_shown(value)}" for name, value in facts.items())

    def _finding_lines(self) -> Iterable[str]:
        return (str(f) for level in LEVELS for f in self.findings if f.level == level)

    def _summary(self) -> str:
        counts = [(self.count(level), level) for level in LEVELS]
        return ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for n, level in counts)

    def write_json(self, path: Path, *, settings: dict[str, Any], exit_code: int) -> None:
        """Write settings, facts, findings and the exit code as JSON, atomically."""
        content = {
            "settings": settings,
            "exit_code": exit_code,
            "splits": self.facts,
            "findings": [asdict(finding) for finding in self.findings],
        }
        write_json(path, content)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
