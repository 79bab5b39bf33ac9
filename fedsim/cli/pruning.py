"""`fedsim prune`: a smaller model of a model, verified, with what it comes to."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedsim.errors import UserError, shown
from fedsim.experiment.pruning import portfolios
from fedsim.experiment.pruning.documents import document
from fedsim.experiment.pruning.running import Asked, Outcome, run
from fedsim.experiment.pruning.settings import settings
from fedsim.experiment.pruning.subjects import Wanted
from fedsim.experiment.pruning.writing import Places, placed, write
from fedsim.report import pruned

if TYPE_CHECKING:
    from fedsim.experiment.pruning.stages import Heard
    from fedsim.pruning.manifest import Manifest

WIDTH: Final = 100
"""Columns that the tables need at least."""
LARGEST: Final = 2**26
"""Values of a sample, at most."""


def prune_command(
    model: str,
    overrides: Sequence[str],
    *,
    method: str | None,
    input_: str | None,
    classes: int | None,
    norm: str,
    weights: Path | None,
    seed: int,
    calibration: str | None,
    windows: int,
    length: int,
    tokenizer: str | None,
    data: str | None,
    data_path: Path | None,
    private: bool,
    profile: str | None,
    advise: bool,
    recover: str | None,
    batch: int,
    ranking: Path | None,
    baselines: str | None,
    evaluate: str | None,
    samples: int | None,
    time: bool,
    threads: int,
    onnx: Path | None,
    hugging_face: Path | None,
    portfolio: str | None,
    out: Path | None,
    as_json: bool,
) -> int:
    """Prune from the command line."""
    said = settings(overrides)
    names = () if baselines is None else tuple(name.strip() for name in baselines.split(",") if name.strip())
    places = Places(out=out, onnx=onnx, hugging_face=hugging_face, ranking=ranking)
    places.check(names)
    wanted = Wanted(
        name=model,
        options=said.model,
        input=None if input_ is None else shape(input_),
        classes=classes,
        norm=norm,
        weights=weights,
        length=length,
        tokenizer=tokenizer,
        seed=seed,
    )
    asked = Asked(
        model=wanted,
        method=method,
        settings=said,
        calibration=calibration,
        windows=windows,
        data=data,
        data_path=data_path,
        private=private,
        profile=profile,
        advise=advise,
        recover=recover,
        batch=batch,
        ranking=ranking,
        baselines=names,
        evaluate=evaluate,
        samples=samples,
        time=time,
        threads=threads,
    )
    looked_at = sys.stderr.isatty() and not as_json
    with _spinner() if looked_at else nullcontext(_quiet) as heard:
        if portfolio is not None:
            return _portfolio(asked, places, portfolios.compressions(portfolio), heard, as_json=as_json)
        outcome = run(asked, heard)
        _writable(outcome, places)
        places.check(tuple(each.name for each in outcome.baselines))
        heard("write")
        made = document(outcome)
        manifest = write(outcome, places, lambda manifest: pruned.render(_sized(made, manifest)))
    if manifest is not None:
        made = _sized(made, manifest)
    made["written"] = placed(outcome, places)
    _tell(made, show, as_json=as_json)
    return 0


def _portfolio(asked: Asked, places: Places, sizes: tuple[float, ...], heard: Heard, *, as_json: bool) -> int:
    portfolios.check(asked, places)
    done = portfolios.run(asked, sizes, heard)
    if places.out is not None:
        heard("write")
        portfolios.write(done, places.out)
    made = portfolios.document(done)
    made["written"] = {"folder": None if places.out is None else str(places.out)}
    _tell(made, show_portfolio, as_json=as_json)
    return 0


def _tell(made: dict[str, Any], show: Callable[[Mapping[str, Any]], None], *, as_json: bool) -> None:
    """Print the document, for a program or for a reader."""
    if as_json:
        print(json.dumps(made, indent=1, ensure_ascii=False))
    else:
        show(made)


def shape(text: str) -> tuple[int, ...]:
    """The shape of a sample, such as `3x32x32` or `64`.

    Raises:
        UserError: it is none.
    """
    sides = text.lower().split("x")
    if not all(side.isascii() and side.isdigit() and 0 < int(side) < 10**6 for side in sides) or len(sides) not in (
        1,
        3,
    ):
        raise UserError(
            f"--input {shown(text)} is no shape of a sample; write channels, height and width as in 3x32x32, or the "
            "number of values as in 64"
        )
    found = tuple(int(side) for side in sides)
    if math.prod(found) > LARGEST:
        raise UserError(f"--input {shown(text)} is {math.prod(found):,} values a sample; {LARGEST:,} are the most")
    return found


def show(made: Mapping[str, Any]) -> None:
    """Print the tables."""
    console = _console()
    names = [name for name, _ in pruned.columns(made)]
    console.print(f"[bold]{escape(made['model']['name'])}[/bold] pruned by {escape(made['method'])}", soft_wrap=True)
    for sentence in pruned.decided(made):
        console.print(escape(sentence), soft_wrap=True)
    if made["targets"]:
        console.print(grid(("", "asked", "target", "realised"), pruned.targets(made)))
    console.print(grid(("", *names), pruned.sizes(made) + pruned.qualities(made) + pruned.times(made)))
    if made["baselines"]:
        console.print(grid(*pruned.baselines(made)))
    head, rows = pruned.layers(made)
    if rows:
        console.print(grid(head, rows))
    console.print(grid(("check", "found"), [tuple(row) for row in made["checked"]], right=False))
    if made["calibration"]:
        console.print(f"calibration: {escape(made['calibration'])}; {made['privacy']}", soft_wrap=True)
    _show_circumstances(console, made)
    for note in made["notes"]:
        print(f"note: {note}", file=sys.stderr)
    for place in _places(made["written"]):
        print(place)


def show_portfolio(made: Mapping[str, Any]) -> None:
    """Print the table of a portfolio."""
    console = _console()
    console.print(f"[bold]{escape(made['model']['name'])}[/bold], without its empty filters", soft_wrap=True)
    console.print(grid(*pruned.portfolio(made)))
    _show_circumstances(console, made)
    if made["written"]["folder"] is not None:
        print(made["written"]["folder"])


def _show_circumstances(console: Console, made: Mapping[str, Any]) -> None:
    console.print(grid(("stage", ""), pruned.stages(made)))
    for notice in made["notices"]:
        console.print(f"notice: {escape(notice)}", soft_wrap=True)


def _console() -> Console:
    return Console(highlight=False, width=max(WIDTH, Console().width))


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = True) -> Table:
    """A table; all columns but the first are figures."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(head):
        made.add_column(escape(name), justify="right" if number and right else "left")
    for row in rows:
        made.add_row(*map(escape, row))
    return made


def _places(written: Mapping[str, Any]) -> Iterator[str]:
    for place in (written["folder"], *written["baselines"].values(), written["onnx"], written["hugging_face"]):
        if place is not None:
            yield place
    if written["ranking"] is not None:
        yield written["ranking"]


def _sized(made: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """The document with the size of the file."""
    return made | {"pruned": made["pruned"] | {"disk": manifest.counts.disk}}


def _writable(outcome: Outcome, places: Places) -> None:
    """Refuse to write again what is written already.

    Raises:
        UserError: it is.
    """
    if outcome.pruned is None and places.out is not None:
        raise UserError(
            f"{outcome.subject.name} was pruned already, so there is nothing to write to --out; leave it out"
        )


@contextmanager
def _spinner() -> Iterator[Heard]:
    """What happens now, on standard error, gone at the end."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("prune", total=None)
        yield lambda what: progress.update(task, description=what)


def _quiet(_what: str) -> None:
    """Nobody looks."""
