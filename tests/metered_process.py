"""The server of processes that run traffic and storage and can be killed: tests/chain_process.py with other work.

Run as a program, by its name.
"""

from tests.chain_process import serve
from tests.metered_chain import METERED_WORK

MODULE = "tests.metered_process"

if __name__ == "__main__":
    serve(METERED_WORK)
