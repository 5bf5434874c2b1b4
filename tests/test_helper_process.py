"""A process that answers questions: what it answers, what becomes of failures, and that it never outlives its reason."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from billing_pipeline.errors import BillingError
from billing_pipeline.records import Reason
from resources.helper_process import HelperProcess, NoAnswerError
from resources.inflate import FileRejected
from resources.landing import LandingFileChangedError

SECRET = "not for anybody's eyes"
PROJECT = Path(__file__).parent.parent


@contextmanager
def counting(folder: str, _secret: str = "") -> Iterator[Callable[[int], tuple[int, int]]]:
    """Yield what gives a number back with the process that did so; it dies of 13, and fails at what is below zero."""

    def answer(number: int) -> tuple[int, int]:
        if number < 0:
            raise ValueError(f"{number} is below zero")
        if number == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return number, os.getpid()

    yield answer
    (Path(folder) / "ended").touch()


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[HelperProcess[int, tuple[int, int]]]:
    with closing(HelperProcess[int, tuple[int, int]](partial(counting, str(tmp_path), SECRET))) as helper:
        yield helper


class TestHelperProcess:
    def test_answers_beside_us_until_it_is_closed(
        self, helper: HelperProcess[int, tuple[int, int]], tmp_path: Path
    ) -> None:
        assert [helper.ask(number) for number in range(5)] == [(number, helper.pid) for number in range(5)]
        assert helper.pid != os.getpid()
        helper.close()
        assert not psutil.pid_exists(helper.pid)
        assert (tmp_path / "ended").exists()

    def test_says_that_it_failed_and_goes_on(self, helper: HelperProcess[int, tuple[int, int]]) -> None:
        with pytest.raises(NoAnswerError, match=r"failed with ValueError$"):
            helper.ask(-1)
        assert helper.ask(2) == (2, helper.pid)

    def test_that_has_died_gives_no_answer_any_more(self, helper: HelperProcess[int, tuple[int, int]]) -> None:
        for number in (13, 1, 2):
            with pytest.raises(NoAnswerError, match="has ended"):
                helper.ask(number)

    def test_shows_nothing_of_what_it_is_given(self, helper: HelperProcess[int, tuple[int, int]]) -> None:
        helper.ask(1)
        process = psutil.Process(helper.pid)
        assert SECRET not in repr((process.cmdline(), process.environ()))

    def test_ends_when_its_parent_is_killed(self, tmp_path: Path) -> None:
        program = (
            "import functools, sys, time; from tests import test_helper_process as here;"
            "helper = here.HelperProcess(functools.partial(here.counting, sys.argv[1]));"
            "print(helper.ask(1)[1], flush=True); time.sleep(60)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
        ) as parent:
            assert parent.stdout is not None
            helper = int(parent.stdout.readline())
            parent.kill()
        deadline = time.monotonic() + 20
        while psutil.pid_exists(helper) and psutil.Process(helper).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (tmp_path / "ended").exists()


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            BillingError("it is gone", bill="nothing changed", fix="bring it back"),
            LandingFileChangedError("a/b.jsonl"),
            FileRejected(Reason.UNREADABLE, "there is none"),
        ],
    )
    def test_say_in_another_process_what_they_said(self, error: Exception) -> None:
        other = pickle.loads(pickle.dumps(error))
        assert type(other) is type(error)
        assert (str(other), other.__dict__) == (str(error), error.__dict__)
