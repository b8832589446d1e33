"""pytest's door to the laws: `pytest --ebm DISTRIBUTION`.

It is a module of its own, so that no other pytest run imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("ebm").addoption(
        "--ebm",
        action="append",
        default=[],
        metavar="DISTRIBUTION",
        help="hold every component that an installed distribution registers with ebm to the laws of its "
        "kind (ebm.testing); without paths, nothing else is collected",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collects no files where only laws were asked for."""
    return True if config.getoption("ebm") and config.args_source is not pytest.Config.ArgsSource.ARGS else None


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    distributions = config.getoption("ebm")
    if not distributions:
        return
    from ebm.testing.collecting import checks_of

    for distribution in distributions:
        try:
            found = checks_of(distribution)
        except ValueError as error:
            raise pytest.UsageError(f"--ebm {distribution}: {error}") from error
        for name, check in found.items():
            items.append(Laws.from_parent(session, name=f"{distribution}: {name}", check=check))


class Laws(pytest.Item):
    """The laws of one component."""

    def __init__(self, *, check: Callable[[], None], **keywords: Any) -> None:
        super().__init__(**keywords)
        self.check = check

    def runtest(self) -> None:
        from ebm.testing.collecting import NoExample

        try:
            self.check()
        except NoExample as reason:
            pytest.skip(str(reason))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Shows what broke the law, and where the component raised, if it did, without the kit's own frames."""
        from ebm.testing import LawBroken

        error = excinfo.value
        if not isinstance(error, LawBroken):
            return super().repr_failure(excinfo)
        cause = error.__cause__
        where = pytest.ExceptionInfo.from_exception(cause).getrepr(style="short") if cause is not None else ""
        return f"{error}\n{where}"

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name
