"""`sandboxctl` in the process of the test."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import sandboxctl.__main__ as command


@dataclasses.dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def column(self, number: int) -> list[str]:
        """The words of a column of a table, without its heading."""
        return [line.split()[number] for line in self.out.splitlines()[1:]]


Run = Callable[..., Done]


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            command.main(list(words))
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return run
