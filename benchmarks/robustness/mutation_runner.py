"""Runs the tests of a mutant in a fork of a process that has imported and collected all tests already.

Mutmut's own runner starts pytest anew for each mutant, which takes longer than most tests do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mutmut.runners.harness import PytestRunner
from mutmut.utils.file_utils import change_cwd


class CollectedRunner(PytestRunner):
    """`warm_up` collects the tests once; `run_tests`, in a fork, runs some of them until one fails."""

    def warm_up(self) -> None:
        # The code under test imports these only when it needs them.
        import open_clip  # noqa: F401

        # The parts of `pytest.main`, without the end of the session.
        from _pytest.config import _prepareconfig
        from _pytest.main import Session
        from transformers import BertModel  # noqa: F401

        arguments = ["--rootdir=.", "--tb=no", "-q", "-p", "no:randomly", "-p", "no:random-order"]
        with change_cwd("mutants"):
            config = _prepareconfig(
                [*arguments, *self._pytest_add_cli_args, *self._pytest_add_cli_args_test_selection]
            )
            config._do_configure()
            session = Session.from_config(config)
            config.hook.pytest_sessionstart(session=session)
            session.perform_collect()
        self._items: dict[str, Any] = {item.nodeid: item for item in session.items}
        self._plugins = config.pluginmanager

    def run_tests(self, *, mutant_name: str | None, tests: Iterable[str]) -> int:
        """0: all tests passed; 1: one failed."""
        if mutant_name is None:  # not in a fork of the process that has collected
            return super().run_tests(mutant_name=mutant_name, tests=tests)
        failures = _Failures()
        self._plugins.register(failures)
        chosen = [self._items[test] for test in tests]
        with change_cwd("mutants"):
            for item, following in zip(chosen, [*chosen[1:], None], strict=True):
                item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
                if failures.seen:
                    return 1
        return 0


class _Failures:
    seen = False

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seen = self.seen or report.failed
