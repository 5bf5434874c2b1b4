"""A process beside ours that answers questions: Python runs on one core only, however many threads ask.

It is a fresh interpreter with our environment and module path, and ends when we close it or are gone, however we went. What goes
over is pickled. Not here: what is asked and answered, and what is done in place of an answer.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any, Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Answering = AbstractContextManager[Callable[[Question], Answer]]

_PROGRAM = f"from {__name__} import answer_questions; answer_questions()"
SECONDS_TO_END = 10.0


class NoAnswerError(Exception):
    """The process failed at a question, or has ended. What failed is not told: whoever asks finds out without the process."""


class HelperProcess(Generic[Question, Answer]):
    """One process, for one thread at a time. `begin` is called in it, and may be pickled; `close` it.

    It is started at once and waited for at the first answer.
    """

    def __init__(self, begin: Callable[[], "Answering[Question, Answer]"]) -> None:
        ours, theirs = Pipe()
        self._connection: Connection[Any, Any] = ours
        # Our folder is no place for modules unless it is one for us.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=[theirs.fileno()],
            )
        with suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(begin)

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    def ask(self, question: Question) -> Answer:
        """Return what is answered.

        Raises:
            NoAnswerError: there is none, and the process does nothing any more for this question.
        """
        try:
            self._connection.send(question)
            is_answer, found = self._connection.recv()
        except (OSError, EOFError, pickle.UnpicklingError):
            # Whatever it has become, it writes nothing behind our back.
            self._process.kill()
            self._process.wait()
            raise NoAnswerError("the process has ended") from None
        if not is_answer:
            raise NoAnswerError(f"the process failed with {found}")
        answer: Answer = found
        return answer

    def close(self) -> None:
        """End the process and wait for it."""
        self._connection.close()
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def answer_questions() -> None:
    """Answer until nobody asks any more. The program of the process; its argument is the number of the connection."""
    # Ctrl-C is for those who asked: they end us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError), Connection(int(sys.argv[1])) as connection, connection.recv()() as answer:
        _answer_all(connection, answer)


def _answer_all(connection: "Connection[Any, Any]", answer: Callable[[Any], Any]) -> None:
    with suppress(EOFError, OSError):
        while True:
            question = connection.recv()
            try:
                told = True, _answered(answer, question)
            except _FailedError as error:
                told = False, str(error)
            connection.send(told)


class _FailedError(Exception):
    """A question has failed: the name of the error. Whoever asks does it again, and then sees all of it."""


def _answered(answer: Callable[[Any], Any], question: object) -> object:
    try:
        return answer(question)
    except Exception as error:  # noqa: BLE001 - only its name may leave the process: messages quote what was read
        raise _FailedError(type(error).__name__) from None
