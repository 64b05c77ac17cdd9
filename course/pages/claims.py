"""The page of the claims: a section for each chapter, each claim with its verdict, and its rows folded under it."""

import html
from collections.abc import Mapping

from course import address
from course.claims import forest, tables
from course.claims.records import Claim
from course.pages import notebooks

PAGE = """\
# Claims and verdicts

{done} claims of the literature were tested. What a source says, what we derive and what came out are kept apart. The
verdict follows from these numbers by a [rule]({rule}), which says for each kind of number how near is near enough.
Nobody writes a verdict by hand.

{summary}

{figure}

{chapters}
"""


def page(claims: Mapping[str, Claim], titles: Mapping[str, str]) -> str:
    """The page, as Markdown; `titles` are those of the chapters, by their slugs."""
    chapters, shown = [], set()
    for slug, title in titles.items():
        own = [claim for claim in claims.values() if slug[:2] == claim.chapters[0]]
        if own:
            chapters.append("\n\n".join([f"## {title}", f"[To the chapter](chapters/{slug}.md)", *map(_claim, own)]))
            shown |= {claim.id for claim in own}
    if missing := set(claims) - shown:
        raise ValueError(f"claims of chapters that there are not: {', '.join(sorted(missing))}")
    alt = html.escape(forest.ALT)
    image = f'<p class="figure"><img src="figures/claims.png" class="plot" alt="{alt}" loading="lazy"></p>'
    return PAGE.format(
        done=sum(bool(claim.at()) for claim in claims.values()),
        rule=address.blob("course/claims/verdicts.py"),
        summary="\n\n".join([_summary(claims), notebooks.folded("How a verdict comes about", tables.RULE, "solution")]),
        figure=notebooks.folded("All measured rows in one figure (long)", image, "solution"),
        chapters="\n\n".join(chapters),
    )


def _summary(claims: Mapping[str, Claim]) -> str:
    """The ids of the claims behind each verdict."""
    found: dict[str, list[str]] = {}
    for claim in claims.values():
        found.setdefault(claim.verdict, []).append(f"[{claim.id}](#{claim.id.lower()})")
    return "\n".join(f"- **{verdict}** ({len(ids)}): {', '.join(ids)}" for verdict, ids in found.items())


def _claim(claim: Claim) -> str:
    """A claim: its statement, source and verdict, and its table, folded."""
    doubted = " We doubted it before we measured." if claim.doubted else ""
    also = f" Also in chapter {', '.join(claim.chapters[1:])}." if claim.chapters[1:] else ""
    parts = [
        f"({claim.id.lower()})=\n### {claim.id}: {tables.verdict(claim)}",
        f"{claim.statement[0].upper()}{claim.statement[1:]}.",
        f'<p class="source">{html.escape(claim.source)}.{doubted}{also}</p>',
    ]
    if rows := claim.at():
        notes = "".join(f"<li><i>{html.escape(row.what)}</i>: {html.escape(row.note)}</li>" for row in rows if row.note)
        table = [_table(claim), f"<ul>{notes}</ul>" if notes else ""]
        label = f"{len(rows)} number" + "s" * (len(rows) > 1)
        parts.append(notebooks.folded(label, "\n\n".join(filter(None, table)), "solution"))
    return "\n\n".join(parts)


def _table(claim: Claim) -> str:
    """The rows as a table, of which a narrow screen makes a list: each cell knows its column's name."""
    columns = tables.COLUMNS
    lines = ['<table class="claims">', "<thead><tr>" + "".join(f"<th>{c}</th>" for c in columns) + "</tr></thead>"]
    lines.append("<tbody>")
    for row in claim.at():
        cells = tables.cells(claim, row)
        inner = "".join(
            f'<td data-label="{column}">{html.escape(cell).replace("&lt;br&gt;", "<br>")}</td>'
            for column, cell in zip(columns, cells, strict=True)
        )
        lines.append(f"<tr>{inner}</tr>")
    return "\n".join([*lines, "</tbody></table>"])
