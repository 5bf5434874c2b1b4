"""Write results down: tables for the terminal, JSON with every figure, a Markdown block for docs/benchmarks.md."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.cases import Result
from bench.machine import Machine

BEGIN, END = "<!-- results: written by python -m bench --write -->", "<!-- end of results -->"


def print_result(console: Console, result: Result) -> None:
    """Show a case's table and its goals."""
    table = Table(title=result.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(result.columns):
        is_text = number == 0 or column.startswith("parts")
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    for row in result.rows:
        table.add_row(*row)
    console.print(table)
    for note in result.notes:
        console.print(note)
    for goal in result.goals:
        colour, word = ("green", "met") if goal.is_met else ("red", "missed")
        console.print(f"[{colour}]{word}[/] {goal.name}: {goal.goal}; seen {goal.seen}")
    console.print()


def write_json(path: Path, machine: Machine, command: str, results: Sequence[Result]) -> None:
    """Write everything that was measured."""
    content = {"machine": asdict(machine), "command": command, "results": [asdict(result) for result in results]}
    path.write_text(json.dumps(content, indent=1))


def markdown(machine: Machine, command: str, results: Sequence[Result]) -> str:
    """Return the block that docs/benchmarks.md holds between its marks."""
    lines = [f"Seen with `{command}` on {machine.summary}.", ""]
    goals = [goal for result in results for goal in result.goals]
    if goals:
        lines += _rows(
            ("goal", "wanted", "seen", ""),
            [(goal.name, goal.goal, goal.seen, "met" if goal.is_met else "**missed**") for goal in goals],
        )
    for result in results:
        lines += [f"**{result.case}.** {result.title}", "", *_rows(result.columns, result.rows)]
        for note in result.notes:
            lines += [note, ""]
    return "\n".join(lines)


def write_into(document: Path, block: str) -> None:
    """Replace what stands between the marks of `document`.

    Raises:
        ValueError: the document has no such marks.
    """
    text = document.read_text()
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{document} does not hold the marks {BEGIN!r} and {END!r}")
    document.write_text(f"{before}{BEGIN}\n{block}\n{END}{after}")


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    aligned = ["---", *("---" if column.startswith("parts") else "---:" for column in columns[1:])]
    return [f"| {' | '.join(row)} |" for row in (columns, aligned, *rows)] + [""]
