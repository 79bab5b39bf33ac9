"""A pruning in tables and as a page: from the document that `fedsim prune` makes, by nothing but its figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from fedsim.report.pages import cell, page, section, table
from fedsim.report.show import MISSING
from fedsim.units import human_count, human_seconds

Document = Mapping[str, Any]
Row = tuple[str, ...]

PROJECTIONS: Final = ("q", "k", "v", "o", "gate", "up", "down")
_DARKEST: Final = 85
"""Per cent of a colour in the fullest cell of a heat map."""


def share(value: float | None) -> str:
    """A share in per cent, exact enough to tell targets from what came of them."""
    return MISSING if value is None else f"{100 * value:.2f} %"


# ------------------------------------------------------------------------------------------------- rows


def columns(document: Document) -> list[tuple[str, Mapping[str, Any]]]:
    """The models that stand side by side: the parent, if it is there, and what was pruned."""
    parent = document["parent"]
    return [*([] if parent is None else [("parent", parent)]), ("pruned", document["pruned"])]


def sizes(document: Document) -> list[Row]:
    """Label, and a cell for each of `columns`: what they hold, weigh and cost."""
    models = [model for _, model in columns(document)]
    first = models[0]
    text = document["model"]["data"] == "text"

    def against(value: float, before: float) -> str:
        return "" if document["parent"] is None or value == before else f" ({100 * value / before:.1f} %)"

    def counted(key: str, unit: str = "") -> Row:
        cells = []
        for model in models:
            value, before = model[key], first[key]
            said = f"{value:,}" if value is not None and not unit else human_count(value or 0, unit)
            cells.append(MISSING if value is None else said + (against(value, before) if before else ""))
        return tuple(cells)

    rows: list[Row] = []
    if text and first["decoder"] is not None:
        rows.append(("parameters held, decoder", *counted("decoder")))
        rows.append(("of these other than zero", *counted("decoder_nonzero")))
    rows.append(("parameters held, whole model" if text else "parameters held", *counted("parameters")))
    rows.append(("of these other than zero", *counted("nonzero")))
    if any(model["disk"] is not None for model in models):
        rows.append(("bytes on disk", *counted("disk", "B")))
    rows.append(("bytes on the wire", *counted("wire", "B")))
    rows.append(("bytes resident", *counted("resident", "B")))
    if first["cache"] is not None:
        rows.append(("bytes of KV cache a token", *counted("cache", "B")))
    sample = f"a sequence of {document['model']['input'][0]}" if text else "a sample"
    rows.append((f"MACs of {sample}", *counted("macs", "MAC")))
    return rows


def qualities(document: Document) -> list[Row]:
    """Label, and a cell for each of `columns`: how good they are on what they were evaluated on; none without that."""
    found = [model["quality"] for _, model in columns(document)]
    if not any(found):
        return []
    first = next(each for each in found if each)
    evaluated = document["evaluated"].rpartition("/")[2]
    if "perplexity" in first:
        where = f"{evaluated}, {first['windows']} windows of {first['length']}"
        return [
            (f"perplexity ({where})", *(_number(each and each["perplexity"]) for each in found)),
            ("next token right", *(share(each and each["top1"]) for each in found)),
        ]
    where = f"{evaluated}, {first['samples']} samples"
    return [
        (f"accuracy ({where})", *(share(each and each["accuracy"]) for each in found)),
        ("loss", *(_number(each and each["loss"]) for each in found)),
    ]


def times(document: Document) -> list[Row]:
    """Label, and a cell for each of `columns`: latencies on this host, and by the profile."""
    models = [model for _, model in columns(document)]
    threads = document["threads"]
    host = f"this host, {threads} thread{'s' * (threads > 1)}"
    rows: list[Row] = []
    for label in next((model["time"] for model in models if model["time"]), {}):
        found = [model["time"].get(label) for model in models]
        rows.append((f"{label}, p50 ({host})", *(_seconds(each and each["p50"]) for each in found)))
        rows.append((f"{label}, p95 ({host})", *(_seconds(each and each["p95"]) for each in found)))
    if document["profile"] is not None:
        cells = (_seconds(model["priced"]) for model in models)
        rows.append((f"forward of one by the cost model of {document['profile']}", *cells))
    return rows


def baselines(document: Document) -> tuple[Row, list[Row]]:
    """What was pruned beside what it is compared with: heads, and a row a model."""
    return _side_by_side(document, [*columns(document), *document["baselines"].items()])


def portfolio(document: Document) -> tuple[Row, list[Row]]:
    """The variants of a portfolio beside the network itself: heads, and a row a figure."""
    variants = document["variants"]
    named = [(f"{name} times", variant) for name, variant in variants.items()]
    head, rows = _side_by_side(document, [("whole", document["parent"]), *named])
    head = (*head, "filters removed", "empty, but stayed")
    head += () if document["profile"] is None else ("switching",)
    more: list[Row] = [(MISSING,) * (len(head) - len(rows[0]))]
    for variant in variants.values():
        units = variant["units"]
        gone = variant["removed"]
        stayed = sum(units.values()) - gone - units.get("live", 0)
        switching = () if document["profile"] is None else (_seconds(variant["switching"]),)
        more.append((f"{gone:,}", f"{stayed:,}", *switching))
    heads, *figures = zip(head, *((*row, *last) for row, last in zip(rows, more, strict=True)), strict=True)
    return heads, figures


def _side_by_side(document: Document, models: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[Row, list[Row]]:
    first = models[0][1]
    calls = list(first["time"])
    quality = None if first["quality"] is None else "perplexity" if "perplexity" in first["quality"] else "accuracy"
    head = ["", "held", "other than zero", "MACs", "on the wire", *(f"{call}, p50" for call in calls)]
    head += [] if document["profile"] is None else [f"forward, {document['profile']}"]
    head += [] if quality is None else [quality]
    rows = []
    for name, model in models:
        row = [name, f"{model['parameters']:,}", f"{model['nonzero']:,}", human_count(model["macs"], "MAC")]
        row += [human_count(model["wire"], "B"), *(_seconds(model["time"][call]["p50"]) for call in calls)]
        row += [] if document["profile"] is None else [_seconds(model["priced"])]
        if quality is not None:
            row.append(
                share(model["quality"][quality]) if quality == "accuracy" else _number(model["quality"][quality])
            )
        rows.append(tuple(row))
    return tuple(head), rows


def decided(document: Document) -> list[str]:
    """Sentences: what a device needs, and how what was pruned was trained; none where there was neither."""
    advice, recovery = document["advice"], document["recovery"]
    said = [] if advice is None else [f"advice for {document['profile']}: {advice['text']}"]
    if recovery is not None:
        losses, options = recovery["losses"], recovery["options"]
        said.append(
            f"recovery: {options['kind']}, {recovery['steps']} steps of {options['batch']} windows; mean loss of its "
            f"epochs {', '.join(_number(loss) for loss in losses)}"
        )
    return said


def targets(document: Document) -> list[Row]:
    """What was asked for, the target that it means, and what came of it."""
    return [
        (f"{row['name']} {row['of']}", str(row["asked"]), share(row["target"]), share(row["realised"]))
        for row in document["targets"]
    ]


def layers(document: Document) -> tuple[Row, list[Row]]:
    """A compact table of targets against realised: heads and rows. A line a layer, or a line a decoder block."""
    rows = document["layers"]
    if rows and "projection" in rows[0]:
        return ("block", *PROJECTIONS, "removed by the cut", "furthest off target"), list(_blocks(rows))
    return ("layer", "kept", "of", "target", "realised"), [_layer(row) for row in rows]


def _layer(row: Mapping[str, Any]) -> Row:
    of = f"{row['of']:,} {row['kind'].replace('_', ' ')}"
    return row["layer"], f"{row['kept']:,}", of, share(row["target"]), share(row["realised"])


def _blocks(rows: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Sparsity of each projection in per cent, a line a block."""
    for name in dict.fromkeys(row["block"] for row in rows):
        own = {row["projection"]: row for row in rows if row["block"] == name}
        off = max(abs(row["realised"] - row["target"]) for row in own.values())
        elements = sum(row["elements"] for row in own.values())
        cut = 1 - sum(row["held"] for row in own.values()) / elements
        each = (f"{100 * own[p]['realised']:.1f}" if p in own else MISSING for p in PROJECTIONS)
        yield (name, *each, share(cut), f"{100 * off:.3f} points")


def stages(document: Document) -> list[Row]:
    """Seconds of each stage."""
    rows = [(name, human_seconds(seconds)) for name, seconds in document["timings"].items()]
    return [*rows, ("peak memory of this process", human_count(document["peak_memory_bytes"], "B"))]


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4g}"


def _seconds(value: float | None) -> str:
    return MISSING if value is None else human_seconds(value)


# ------------------------------------------------------------------------------------------------- page


def render(document: Document) -> str:
    """The report as HTML."""
    names = [name for name, _ in columns(document)]
    title = f"{document['model']['name']}, pruned by {document['method']}"
    head, rows = layers(document)
    figures = sizes(document) + qualities(document) + times(document)
    said = [f"privacy: {document['privacy']}", f"seed {document['seed']}"]
    said += [f"calibrated on {document['calibration']}"] if document["calibration"] else []
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape("; ".join(said))}</p>',
        section("What to know", *(f"<p>{escape(each)}</p>" for each in (*document["notices"], *document["notes"]))),
    ]
    if decided(document):
        parts.append(section("Advice and recovery", *(f"<p>{escape(each)}</p>" for each in decided(document))))
    if document["targets"]:
        parts.append(section("Target and realised", _plain(("", "asked", "target", "realised"), targets(document))))
    parts.append(section("Sizes, quality and times", _plain(("", *names), figures)))
    if document["baselines"]:
        parts.append(section("Baselines of its size", _plain(*baselines(document))))
    if rows:
        parts.append(section("By layer", _heat_of_layers(document) or _plain(head, rows)))
    if document["outliers"] is not None:
        parts.append(section("Outlier distribution", _heat_of_outliers(document["outliers"])))
    parts += [
        section("Checks", _plain(("check", "found"), [tuple(row) for row in document["checked"]])),
        section("Time by stage", _plain(("stage", "seconds"), stages(document))),
        section("All figures", _details(document)),
    ]
    return page(f"{title} – fedsim", "\n".join(parts))


def _plain(head: Sequence[str], rows: Sequence[Row]) -> str:
    return table(head, [[cell(text) for text in row] for row in rows])


def _details(document: Document) -> str:
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return f"<details><summary>JSON</summary><pre>{escape(text)}</pre></details>"


def _heat_of_layers(document: Document) -> str | None:
    """Realised sparsity of every projection, its target with it; None where there are no projections."""
    rows = document["layers"]
    if "projection" not in rows[0]:
        return None
    grid: dict[str, dict[str, tuple[float, str]]] = {}
    for row in rows:
        said = f"{row['layer']}: target {share(row['target'])}, realised {share(row['realised'])}"
        grid.setdefault(row["block"], {})[row["projection"]] = (100 * row["realised"], said)
    return heat_map(grid, PROJECTIONS, "Per cent of each projection that is gone: removed by the cut, or zero.")


def _heat_of_outliers(outliers: Mapping[str, Any]) -> str:
    grid = {
        block["name"]: {
            **{p: (value, f"{block['name']} {p}: {value:.4f} %") for p, value in block["projections"].items()},
            "all": (block["all"], f"{block['name']}: {block['all']:.4f} % of all seven"),
        }
        for block in outliers["blocks"]
    }
    caption = f"Per cent of weights whose metric is above {outliers['factor']:g} times the mean of their projection's."
    return heat_map(grid, (*PROJECTIONS, "all"), caption)


def heat_map(grid: Mapping[str, Mapping[str, tuple[float, str]]], heads: Sequence[str], caption: str) -> str:
    """Rows by name, with a value and what it says for each head; the fuller a cell, the greater its value."""
    most = max((value for row in grid.values() for value, _ in row.values()), default=0.0)

    def tinted(found: tuple[float, str] | None) -> str:
        if found is None:
            return cell(MISSING)
        value, said = found
        part = round(_DARKEST * value / most) if most > 0 else 0
        style = f"background: color-mix(in srgb, var(--s0) {part}%, transparent)"
        return f'<td style="{style}" title="{escape(said)}">{value:.3g}</td>'

    rows = [[cell(name), *(tinted(row.get(head)) for head in heads)] for name, row in grid.items()]
    return table(["", *heads], rows, caption)
