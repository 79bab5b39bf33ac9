"""What messages call a scenario, and the error of a wrong one."""

from __future__ import annotations

from typing import Final

from fedsim.documents.problems import DocumentError, DocumentKind


class ScenarioError(DocumentError):
    """A scenario is wrong; the text lists what, where, the rule and the way out, in order of line."""


SCENARIO: Final = DocumentKind("scenario", "model: vgg5", ScenarioError)
