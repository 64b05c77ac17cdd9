"""The claims as tables, made from claims.toml: the page claims.md, and a short one for the terminal."""

from collections.abc import Mapping
from pathlib import Path

from course.claims import forest
from course.claims.records import Claim, Row, load, number_in_words

RULE = """\
A claim is tested by one or more numbers, the rows of its table, and each row has a verdict of its own. The claim
*holds* if all of its counted rows hold, *does not hold* if some fail and none holds, *holds in part* if some hold and
some fail, and is *undecided* otherwise. Where other seeds changed the verdict of a row, all runs are taken together,
and the row is judged by them. A claim is *not at this scale* where larger sizes come significantly closer to it.
Not counted are identities (algebra, whatever the experiment says) and rows outside of the claim's hypotheses. Beside
the verdict stands whether our own prediction was met: a claim can fail just as we predicted. Chapters 01 to 08 had
been run before there were the rule and its margins. For them the test is a run with other seeds,
`python -m course replicate`."""
HEAD = """\
# The claims and what became of them

{done} of {all} claims of the literature were measured so far. This page is made from `claims.toml` by
`python -m course claims`.

What a source says, what we derive and what came out are kept apart. The verdict follows from them by a
[rule](verdicts.py), with one margin for each kind of number; nobody writes it.

{rule}

The commit and the date of the runs that are longer than the laptop's stand in [claims.toml](claims.toml).

![{alt}](claims.png)
"""
COLUMNS = ("measured", "the source says", "we derive", "laptop", "long", "margin", "verdict", "our prediction")


def markdown(claims: Mapping[str, Claim]) -> str:
    """Return the page: a table of all claims, and for each measured one a table of its rows."""
    done = sum(bool(claim.at()) for claim in claims.values())
    lines = [
        HEAD.format(done=done, all=len(claims), rule=RULE, alt=forest.ALT),
        *_table(("id", "claim", "source", "chapter", "verdict")),
    ]
    for claim in claims.values():
        name = f"[{claim.id}](#{claim.id.lower()})" if claim.at() else claim.id
        statement = claim.statement + (" *(doubted beforehand)*" if claim.doubted else "")
        lines.append(_line((name, statement, claim.source, ", ".join(claim.chapters), verdict(claim))))
    for claim in claims.values():
        if claim.at():
            lines += ["", f"## {claim.id}", "", f"{claim.statement}: **{verdict(claim)}**", "", *_table(COLUMNS)]
            lines += [_line(cells(claim, row)) for row in claim.at()]
            notes = [f"- *{row.what}*: {row.note}" for row in claim.at() if row.note]
            lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def verdict(claim: Claim) -> str:
    """The verdict, with the sizes beside it where they differ."""
    laptop = claim.verdict_at("laptop")
    if laptop != claim.verdict and claim.at("laptop"):
        return f"{claim.verdict} (laptop: {laptop})"
    return claim.verdict


def cells(claim: Claim, row: Row) -> tuple[str, ...]:
    sizes = {other.scale: other for other in claim.rows if other.what == row.what and other.measured is not None}
    came_out = [_came_out(sizes[size]) if size in sizes else "" for size in ("laptop", "long")]
    if "pooled" in sizes:
        came_out[0] += f"<br>with other seeds as well: {_came_out(sizes['pooled'])}"
    if "paper" in sizes:
        came_out[1] = "<br>".join(filter(None, (came_out[1], f"paper: {_came_out(sizes['paper'])}")))
    verdict = "identity" if row.kind == "identity" else row.verdict
    if row.outside:
        verdict = f"not counted: {row.outside}"
    derived = "" if row.derived is None else number_in_words(row.derived)
    if row.derived_error:
        derived += f" ± {row.derived_error:g}"
    claimed = "" if row.claimed is None else number_in_words(row.claimed)
    return (row.what, claimed, derived, *came_out, f"{row.margin:g}", verdict, row.prediction)


def _came_out(row: Row) -> str:
    how = f"{row.seeds} {row.over}" if row.kind == "measured" or row.seeds else row.kind
    return f"{row.result()} ({how})"


def _table(columns: tuple[str, ...]) -> list[str]:
    return [_line(columns), "|" + "---|" * len(columns)]


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def out_of_step(root: Path) -> list[str]:
    """Return the names of the files that differ from what claims.toml says."""
    toml, page = root / "course" / "claims.toml", root / "course" / "claims.md"
    if not toml.exists():
        return []
    claims = load(toml)
    stale = not page.exists() or page.read_text(encoding="utf-8") != markdown(claims)
    return ["course/claims.md"] * stale + ["course/claims.png"] * forest.is_stale(root)


def write_page(root: Path) -> None:
    """Write claims.md and claims.png."""
    text = markdown(load(root / "course" / "claims.toml"))
    (root / "course" / "claims.md").write_text(text, encoding="utf-8")
    forest.write(root)


def table(claims: Mapping[str, Claim]):
    """Return a rich table of all claims."""
    from rich.table import Table

    done = sum(bool(claim.at()) for claim in claims.values())
    table = Table("id", "claim", "chapter", "verdict", title=f"{done} of {len(claims)} claims measured")
    for claim in claims.values():
        rows = [claim.statement, *(f"→ {row.what}: {row.result()}; {row.judged()}" for row in claim.at())]
        table.add_row(claim.id, "\n".join(rows), ", ".join(claim.chapters), verdict(claim))
    return table
