"""The process of stripe_sync_process, as tests have it: one request, one answer."""

import json
import subprocess
import sys
from typing import Any

from resources.settings import PROJECT_ROOT


class Worker:
    """A process that works, and dies when it is told to."""

    def __init__(self, database_url: str, stripe_url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.stripe_sync_process", database_url, stripe_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT_ROOT,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Let a child of the process do what the request says, and return how it ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)
