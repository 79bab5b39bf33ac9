"""What a pruning leaves behind: folders, exports and the ranking; all that was asked for, or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsim.errors import UserError
from fedsim.experiment.pruning.documents import calibrated
from fedsim.experiment.pruning.studies import save
from fedsim.experiment.pruning.subjects import TOKENIZER, Subject

if TYPE_CHECKING:
    from fedsim.experiment.pruning.running import Outcome
    from fedsim.pruning.checks import Checks
    from fedsim.pruning.counting import Counts
    from fedsim.pruning.manifest import Manifest
    from fedsim.pruning.pruned import Pruned

REPORT: Final = "report.html"
Rendered = Callable[["Manifest"], str]
"""The report, once the size of the file of tensors is known."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where what goes."""

    out: Path | None = None
    onnx: Path | None = None
    hugging_face: Path | None = None
    ranking: Path | None = None

    def check(self, baselines: tuple[str, ...] = ()) -> None:
        """Refuse places that hold something already, before anything takes time.

        Raises:
            UserError: one does.
        """
        from fedsim.pruning.storing import check_free

        for folder in (self.out, self.hugging_face, *(self.baseline(name) for name in baselines)):
            if folder is not None:
                check_free(folder)
        if self.onnx is not None and self.onnx.exists():
            raise UserError(f"--onnx {self.onnx} already exists; choose another file, or remove it")

    def baseline(self, name: str) -> Path | None:
        """The folder of a baseline, beside that of the pruned model."""
        return None if self.out is None else self.out.with_name(f"{self.out.name}-{name}")


def write(outcome: Outcome, places: Places, rendered: Rendered) -> Manifest | None:
    """Write what was asked for; the manifest, if there is a folder.

    Raises:
        UserError: one thing cannot be written; the others are gone then, too.
    """
    from fedsim.pruning.exporting import export_hugging_face, export_onnx

    done = outcome.subject
    pruned = outcome.pruned
    module = done.module if pruned is None else pruned.module
    manifest = None
    with together() as begun:
        if places.onnx is not None:
            begun(places.onnx)
            if done.text:
                raise UserError(
                    f"--onnx is for networks of images, and {done.name} is a language model; take --hugging-face"
                )
            export_onnx(module, done.example, places.onnx)
        if places.hugging_face is not None:
            begun(places.hugging_face)
            export_hugging_face(module, places.hugging_face)
            _with_tokenizer(places.hugging_face, done)
        if places.out is not None and pruned is not None:
            assert outcome.checks is not None
            begun(places.out)
            words = calibrated(outcome)
            manifest = _folder(places.out, done, pruned, outcome.checks, outcome.now.counts, words, rendered)
            for each in outcome.baselines:
                folder = places.baseline(each.name)
                assert folder is not None
                begun(folder)
                _folder(folder, done, each.pruned, each.checks, each.report.counts, words, None)
        if places.ranking is not None and outcome.studied:
            save(outcome.study, places.ranking)
    return manifest


def _folder(
    folder: Path,
    subject: Subject,
    pruned: Pruned,
    checks: Checks,
    counts: Counts,
    calibration: str,
    rendered: Rendered | None,
) -> Manifest:
    from fedsim.pruning.manifest import ObjectBase
    from fedsim.pruning.storing import write as store

    def beside(manifest: Manifest) -> dict[str, str]:
        files = {} if rendered is None else {REPORT: rendered(manifest)}
        text = tokenizer_text(subject)
        return files if text is None else {**files, TOKENIZER: text}

    parent = subject.module if isinstance(subject.base, ObjectBase) else None
    return store(folder, pruned, checks, subject.base, counts, parent=parent, calibration=calibration, beside=beside)


def tokenizer_text(subject: Subject) -> str | None:
    """The tokenizer of a published model, which goes with what was pruned of it."""
    from fedsim.checkpoints import is_place
    from fedsim.data.model_tokenizers import model_tokenizer

    if subject.tokenizer is None or not is_place(subject.tokenizer):
        return None
    try:
        return model_tokenizer(subject.tokenizer).text
    except UserError:
        return None  # a model's folder without one; who evaluates it names one


def _with_tokenizer(folder: Path, subject: Subject) -> None:
    text = tokenizer_text(subject)
    if text is not None:
        (folder / TOKENIZER).write_text(text, encoding="utf-8")


@contextmanager
def together() -> Iterator[Callable[[Path], None]]:
    """Places that are named to what this gives are emptied again where something fails."""
    begun: list[Path] = []  # all of them were free before
    try:
        yield begun.append
    except BaseException:
        for place in begun:
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
        raise


def placed(outcome: Outcome, places: Places) -> dict[str, Any]:
    """What was written where, for programs."""
    return {
        "folder": None if places.out is None else str(places.out),
        "baselines": {} if places.out is None else {b.name: str(places.baseline(b.name)) for b in outcome.baselines},
        "onnx": None if places.onnx is None else str(places.onnx),
        "hugging_face": None if places.hugging_face is None else str(places.hugging_face),
        "ranking": None if places.ranking is None else str(places.ranking),
    }
