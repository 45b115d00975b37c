"""Mutation testing: put small faults (mutants) into the code, one at a time. Which ones do tests notice?

The tool is mutmut; `[tool.mutmut]` in pyproject.toml names the files and the tests. This program adds three
rules:

- Functions with decorators have mutants too. Mutmut leaves them out, and here these are the losses
  (`@without_autocast`), the rankings (`@torch.inference_mode()`) and all properties.
- Mutants that change only the words of a message are left out: a string inside `raise`, inside a call of a
  log or behind `assert ...,`, and such a message that is replaced by None or removed. They are counted apart.
  Numbers, operators and names inside of messages count.
- Mutants that mypy refuses are not run. They are counted apart.

The score is the share of the other mutants that a test notices. A mutant that exceeds its time limit does not
count as noticed; `--again timeout` runs it once more.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import hashlib
import itertools
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
os.chdir(ROOT)  # mutmut reads its settings from here when it is imported

import libcst as cst  # noqa: E402
import mutmut.__main__ as program  # noqa: E402
from mutation_runner import CollectedRunner  # noqa: E402
from mutmut.configuration import config  # noqa: E402
from mutmut.mutation import file_mutation  # noqa: E402
from mutmut.mutation.data import MutantLineSpans, SourceFileMutationData  # noqa: E402
from mutmut.mutation.diff_apply import get_diff_for_mutant  # noqa: E402
from mutmut.state import state  # noqa: E402
from mutmut.stats import status_by_exit_code  # noqa: E402
from mutmut.type_checking import run_type_checker  # noqa: E402
from mutmut.utils.file_utils import change_cwd, walk_mutatable_files  # noqa: E402
from mutmut.workers import isolation  # noqa: E402

LOG_METHODS = {"debug", "info", "warning", "error", "warn"}
TEXTS = (cst.SimpleString, cst.FormattedString, cst.ConcatenatedString)
# Tests that start processes. They take seconds, and mutmut does not see what processes call: only for these.
_SEVERAL_RANKS = "tests/engine/evaluation/test_ranking.py::test_several_ranks"
TESTS_IN_PROCESSES = {
    "modules.gather": "tests/modules/test_over_ranks.py",
    "engine.evaluation.ranking": _SEVERAL_RANKS,
    "engine.evaluation.top_k": _SEVERAL_RANKS,
    "engine.evaluation.normalization": "tests/engine/evaluation/test_normalization.py::test_two_ranks",
}
MOST_SECONDS = 120  # of tests a mutant; functions that everything calls are reached by minutes of tests
NOT_RUN = ("caught by type check", "skipped")


class Visitor(file_mutation.MutationVisitor):
    """Makes mutants of functions with decorators; makes none of the words of messages, and counts these."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wording = 0
        self._messages = 0  # how many of the nodes around this one are messages
        self._assert_messages: set[cst.CSTNode] = set()

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Assert) and node.msg is not None:
            self._assert_messages.add(node.msg)
        self._messages += self._is_message(node)
        return super().on_visit(node)

    def on_leave(self, original_node: cst.CSTNode) -> None:
        self._messages -= self._is_message(original_node)
        super().on_leave(original_node)

    def _is_message(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            return node.func.attr.value in LOG_METHODS
        return isinstance(node, cst.Raise) or node in self._assert_messages

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef) and not _has_plain_decorator(node):
            node = node.with_changes(decorators=[])
        return super()._skip_node_and_children(node)

    def _create_mutations(self, node: cst.CSTNode) -> None:
        before = len(self.mutations)
        super()._create_mutations(node)
        if self._messages:
            made = self.mutations[before:]
            self.mutations[before:] = [m for m in made if not _changes_words(node, m.mutated_node)]
            if made and made[0].contained_by_top_level_function is not None:
                self.wording += len(made) - len(self.mutations[before:])


def _changes_words(node: cst.CSTNode, mutated: cst.CSTNode) -> bool:
    if isinstance(node, TEXTS):
        return True
    if not (isinstance(node, cst.Call) and isinstance(mutated, cst.Call)):
        return False
    changed = [arg for arg in node.args if all(arg is not other for other in mutated.args)]
    return bool(changed) and all(isinstance(arg.value, TEXTS) for arg in changed)


def _has_plain_decorator(function: cst.FunctionDef) -> bool:
    """Whether mutmut itself can handle the decorators of `function`."""
    names = [d.decorator.value if isinstance(d.decorator, cst.Name) else None for d in function.decorators]
    return names in ([], ["staticmethod"], ["classmethod"])


def extend_mutmut() -> None:
    """Put the three rules into mutmut."""
    arrange = file_mutation.function_trampoline_arrangement

    def arrange_decorated(function: cst.FunctionDef, mutants: Any, class_name: str | None) -> Any:
        """The decorators stay on the function that chooses a mutant, and not on the mutants."""
        if _has_plain_decorator(function):
            return arrange(function, mutants, class_name)
        bare = function.with_changes(decorators=[])
        declarations, functions, assignments, names = arrange(bare, mutants, class_name)
        chooser = functions[0]
        functions[0] = chooser.with_changes(decorators=[*function.decorators, *chooser.decorators])
        return declarations, functions, assignments, names

    file_mutation.MutationVisitor = Visitor  # type: ignore[misc]
    file_mutation.function_trampoline_arrangement = arrange_decorated


def module_of(path: Path) -> str:
    return str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__")


def chosen_files(patterns: Sequence[str]) -> list[Path]:
    """The files whose modules match, in the order of the patterns; of one pattern small files first."""
    by_size = sorted(walk_mutatable_files(), key=lambda path: path.stat().st_size)
    files = [path for pattern in patterns for path in by_size if fnmatch.fnmatch(module_of(path), pattern)]
    if not files:
        sys.exit(f"no file of [tool.mutmut] only_mutate has a module that matches {' '.join(patterns)}")
    return list(dict.fromkeys(files))


def results_of(path: Path) -> dict[str, str]:
    """The status of each mutant of a file."""
    data = SourceFileMutationData(path=path)
    data.load()
    return {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}


def run(files: Sequence[Path], *, again: Sequence[str], children: int) -> None:
    """Run the mutants of `files` that have no result yet, or one of `again`; file by file."""
    order = {module_of(path): place for place, path in enumerate(files)}
    collect, load = program.collect_source_file_mutation_data, program.collect_or_load_stats
    estimate = program.estimated_worst_case_time

    def of_module(mutant: str) -> str:
        return re.sub(r"\.x.[^.]*__mutmut_\d+$", "", mutant)

    def only_wanted(*, mutant_names: Any) -> Any:
        mutants, data = collect(mutant_names=())
        wanted = ("not checked", *again)
        return [m for m in mutants if of_module(m[1]) in order and status_by_exit_code[m[2]] in wanted], data

    def file_by_file(mutant: str) -> Any:
        return order[of_module(mutant)], estimate(mutant)

    def choose_tests(*args: Any, **kwargs: Any) -> None:
        """The tests of each function, quick ones first: the first that fails ends the run of a mutant."""
        load(*args, **kwargs)
        durations = state().duration_by_test
        in_processes = tuple(TESTS_IN_PROCESSES.values())
        tests_of: dict[str, Any] = state().tests_by_mangled_function_name
        for function, tests in list(tests_of.items()):
            chosen = {test for test in tests if not test.startswith(in_processes)}
            prefix = TESTS_IN_PROCESSES.get(function.rpartition(".")[0])
            if prefix is not None:
                chosen |= {test for test in durations if test.startswith(prefix)}
            ordered = sorted(chosen, key=durations.__getitem__)
            until = list(itertools.accumulate(durations[test] for test in ordered))
            tests_of[function] = [
                test for test, end in zip(ordered, until, strict=True) if end < MOST_SECONDS
            ]

    isolation.PytestRunner = CollectedRunner  # type: ignore[misc, attr-defined]
    program.filter_mutants_with_type_checker = functools.partial(types_refused, files)
    program.collect_source_file_mutation_data = only_wanted
    program.collect_or_load_stats = choose_tests
    program.estimated_worst_case_time = file_by_file
    program._run([f"{module}.x*" for module in order], children)


def types_refused(files: Sequence[Path]) -> dict[str, Any]:
    """The mutants that mypy refuses. They are kept in mutants/types.json until one of `files` changes: mypy
    takes minutes for so much code."""
    mutated = {str(path): ("mutants" / path).read_bytes() for path in walk_mutatable_files()}
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in mutated.items()}
    kept = Path("mutants", "types.json")
    stored = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    if any(stored.get("digests", {}).get(str(path)) != digests[str(path)] for path in files):
        stored = {"digests": digests, "refused": dict(_type_errors())}
        kept.write_text(json.dumps(stored), encoding="utf-8")
    return {
        name: SimpleNamespace(error=SimpleNamespace(error_description=text))
        for name, text in stored["refused"].items()
    }


def _type_errors() -> Iterator[tuple[str, str]]:
    """(mutant, error of mypy). Mutmut does it too, but parses the mutated files, which takes minutes."""
    with change_cwd("mutants"):
        errors = run_type_checker(config().type_check_command)
    for error in errors:
        path = error.file_path.relative_to(ROOT / "mutants")
        spans = MutantLineSpans.load(path)
        assert spans is not None, f"mypy refuses code without mutants: {error}"
        for function, span in spans.span_by_function_name.items():
            if span.start <= error.line_number <= span.end:
                assert not function.endswith("_orig"), f"mypy refuses the code before any change: {error}"
                yield f"{module_of(path)}.{function}", error.error_description


def count_wording(path: Path) -> int:
    """How many mutants of the words of messages were left out."""
    module = cst.MetadataWrapper(cst.parse_module(path.read_text(encoding="utf-8")))
    ignored = file_mutation.get_ignored_lines(str(path), path.read_text(encoding="utf-8"), module)
    visitor = Visitor(file_mutation.mutation_operators, ignored)
    module.visit(visitor)
    return visitor.wording


def table(files: Sequence[Path]) -> Iterable[str]:
    """A Markdown table, a row for each file."""
    yield "| file | mutants | noticed | timeout | survived | no test | not run | score | mypy | wording |"
    yield "| --- " + "| ---: " * 9 + "|"
    total: Counter[str] = Counter()
    for path in sorted(files):
        counts = Counter(results_of(path).values())
        counts["wording"] = count_wording(path)
        total += counts
        yield _row(f"`{path}`", counts)
    yield _row("all", total)


def _row(name: str, counts: Counter[str]) -> str:
    noticed = counts["killed"] + counts["segfault"] + counts["suspicious"]
    tried = noticed + counts["timeout"] + counts["survived"] + counts["no tests"]
    score = f"{noticed / tried:.1%}" if tried else ""
    left = [counts[status] for status in ("timeout", "survived", "no tests", "not checked")]
    cells = [name, tried, noticed, *left, score, counts["caught by type check"], counts["wording"]]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("modules", nargs="*", help="patterns, e.g. modules.losses.* (default: all)")
    parser.add_argument("--again", nargs="*", default=[], help="run these once more: survived, timeout, ...")
    parser.add_argument("--children", type=int, default=1, help="mutants that run at the same time")
    parser.add_argument("--table", action="store_true", help="print the table of results, run nothing")
    parser.add_argument("--survivors", action="store_true", help="print the changes that no test noticed")
    parser.add_argument("--tests", nargs="+", metavar="FILE", help="run only these tests: a lower bound")
    args = parser.parse_args()
    extend_mutmut()
    files = chosen_files(args.modules or ["*"])
    if args.survivors:
        for path in files:
            for name, status in results_of(path).items():
                if status not in ("killed", "not checked", *NOT_RUN):
                    print(f"# {status}: {name}\n{get_diff_for_mutant(name, path=path)}\n")
    elif not args.table:
        again = [status.replace("_", " ") for status in args.again]
        if args.tests:
            config().pytest_add_cli_args_test_selection = args.tests
        run(files, again=again, children=args.children)
    print("\n".join(table(files)))


if __name__ == "__main__":
    main()
