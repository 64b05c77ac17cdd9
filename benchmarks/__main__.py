"""`python -m benchmarks`: measure, print the table, and write it into benchmarks/README.md."""

import json
import sys
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import harness, peers, report
from benchmarks.cases import CASES, chosen
from benchmarks.peers import ROOT

DEFAULT = harness.Settings()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    only: Annotated[list[str] | None, typer.Option(help="A word of a case's name or kind; may be repeated.")] = None,
    cores: Annotated[int, typer.Option(help="Cores that each implementation may use.")] = DEFAULT.cores,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each implementation.")] = DEFAULT.rounds,
    limit: Annotated[float, typer.Option(help="Seconds that a call may take.")] = DEFAULT.limit,
    peer: Annotated[list[str] | None, typer.Option(help="A peer's name, or a part of it; may be repeated.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the table into benchmarks/README.md.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Name the cases and stop.")] = False,
) -> None:
    """Measure ntklib and its peers side by side, in turns."""
    try:
        cases = chosen(CASES, only or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if list_:
        print("\n".join(case.group for case in cases))
        return
    asked = [word.lower() for word in peer or [""]]
    taking_part = [p for p in peers.PEERS if p.role != "peer" or any(word in p.name.lower() for word in asked)]
    settings = harness.Settings(cores=cores, rounds=rounds, limit=limit)
    console = Console(width=None if sys.stdout.isatty() else 140, markup=False, highlight=False)
    results, versions = [], {}
    for number, case in enumerate(cases, 1):
        with console.status("") as status:
            say = lambda step, case=case, number=number: status.update(f"{number}/{len(cases)} {case.name}: {step}")  # noqa: E731
            try:
                result, used = harness.run(case, peers.OURS, taking_part, settings, say)
            except ValueError as error:
                raise typer.BadParameter(str(error)) from None
        results.append(result)
        versions |= used
        console.print(report.table([result]))
    conditions = report.conditions(versions, settings)
    raw = ROOT / ".cache" / "benchmarks" / time.strftime("%Y-%m-%d-%H%M%S.json")
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_text(json.dumps({"conditions": conditions, "results": [asdict(result) for result in results]}, indent=1))
    if len(results) > 1:
        console.print(report.table(results))
    console.print(conditions)
    console.print(f"All numbers: {raw.relative_to(ROOT)}")
    for line in report.remarks(results):
        console.print(line)
    if write:
        report.write(ROOT / "benchmarks" / "README.md", results, conditions)
    raise typer.Exit(report.wrong(results))


if __name__ == "__main__":
    app()
