"""`python -m bench`: run cases side by side and say what was seen. See docs/benchmarks.md."""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from bench.cases import CASES, Suite
from bench.machine import this_machine
from bench.measure import bench
from bench.report import markdown, print_result, write_into, write_json
from console.screen import page
from resources.settings import Settings


def main() -> None:
    """Run the cases that the command line names, all of them by default."""
    arguments = _arguments()
    home = Settings.from_environment().home
    folder = (arguments.data or home / "bench").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    machine = this_machine()
    console, notes = page(), Console(stderr=True, highlight=False)
    console.print(machine.summary)
    command = " ".join(["python -m bench", *sys.argv[1:]])
    results = []
    with bench(folder / f"work-{os.getpid()}") as running:
        suite = Suite(
            bench=running,
            folder=folder,
            rows=arguments.rows,
            runs=arguments.runs,
            minutes=arguments.minutes,
            told=lambda text: notes.print(f"  {text}", style="dim"),
        )
        for name in arguments.case or CASES:
            result = CASES[name](suite)
            print_result(console, result)
            results.append(result)
            # After each case, so that an interrupted run leaves what it has seen.
            write_json(folder / "results.json", machine, command, results)
            (folder / "results.md").write_text(markdown(machine, command, results))
    notes.print(f"written: {folder / 'results.json'}, {folder / 'results.md'}")
    if arguments.write:
        write_into(arguments.write, markdown(machine, command, results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Our jobs beside other ways to the same result."
    )
    parser.add_argument("--rows", type=int, default=10_000_000, help="request rows of a data set (default 10,000,000)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contender; medians are shown (default 3)")
    parser.add_argument("--minutes", type=float, default=1.0, help="of pushing in the case steady (default 1)")
    parser.add_argument("--case", nargs="+", choices=sorted(CASES), help="only these cases")
    parser.add_argument("--data", type=Path, help="folder of data and results (default $BILLING_HOME/bench)")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="put the results into docs/benchmarks.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
