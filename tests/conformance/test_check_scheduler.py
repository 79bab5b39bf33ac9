"""The conformance suite passes every scheduler of the catalogue and catches each broken rule by name."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fedsim.errors import ScriptError
from fedsim.schedulers.catalogue import SCHEDULERS
from fedsim.schedulers.fedavg import FedAvg
from fedsim.testing import check_scheduler
from tests.conformance import broken

OPTIONS: tuple[dict[str, Any], ...] = ({}, {"local_steps": 5, "weighting": "uniform"})
"""Those that many have; each scheduler's own tests try its own."""

PACED: dict[str, dict[str, Any]] = {"inference": {"every": 0.01}}
"""The toy answers in nanoseconds: in a run without an end, that would be millions of requests."""


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_conforms_with_several_options(name: str, options: dict[str, Any]) -> None:
    """Whatever its options, a scheduler of the catalogue keeps all rules; asynchronous ones have no `weighting`."""
    kind = SCHEDULERS[name]
    given = {option: value for option, value in options.items() if hasattr(kind, option)}
    check_scheduler(kind(**given, **PACED.get(name, {})))


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", [broken.Sound(), broken.Validates()])
def test_what_breaks_no_rule_passes(scheduler: Any) -> None:
    """The scheduler from which the broken ones are made conforms, as does one that validates and says so."""
    check_scheduler(scheduler)


@pytest.mark.slow
def test_the_suite_is_quick() -> None:
    """A person waits for it: under 3 s of processor time for FedAvg."""
    check_scheduler(FedAvg())
    began = time.process_time()
    check_scheduler(FedAvg())
    assert time.process_time() - began < 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (broken.NoDataclass(), "NoDataclass is not a frozen dataclass; decorate it"),
        (broken.NotFrozen(), "NotFrozen is not a frozen dataclass; decorate it with @dataclass"),
        (broken.Positional(), r"options \['step'\] are not keyword-only; add kw_only=True"),
        (broken.NeedsOption(step=1), r"NeedsOption\(\) fails, but every option has a default: .*'step'"),
        (broken.NoSplits(), "NoSplits.splits is not given; say whether the model is cut"),
        (broken.PlainScript(), "PlainScript.server is not an async def"),
        (broken.WrongMessage(), r"<class 'int'> in WrongMessage.messages is no Message"),
        (broken.RolelessMessage(), r"message Roleless has no role; add role: ClassVar\[Role\]"),
        (broken.SendsUndeclared(), r"\['Trained'\] are sent, but not declared in SendsUndeclared.messages"),
        (broken.NeverPublishes(), r"never names its global model; call me\.publish"),
        (broken.PublishesHalf(), r"published weights of \[140\] bytes, but the model is device and server of "),
        (broken.NeverComputes(), r"devices compute nothing; .* so await compute\(\.\.\.\) of it"),
        (broken.NeverEnds(), "did not end in 60 s; with until.rounds = 2 the server's script must return"),
        (broken.AwaitsAsyncio(), r"a script calls asyncio \(no running event loop\); await only compute, send"),
        (broken.EndsEarly(), "without until.rounds the server's script goes on"),
        (broken.UsesId(), "the same scenario and seed gave two traces; let all follow from the seed"),
        (broken.UsesGlobalRandom(), "draw from the global generator of random; use one of your own"),
        (broken.UsesGlobalNumpy(), r"draw from the global generator of numpy\.random;"),
        (broken.UsesGlobalTorch(), "draw from the global generator of torch;"),
        (broken.FitsNothing(), r"devices may hold pruned variants .*, so send each of them me\.fit\(weights, device\)"),
        (broken.NoBase(), r"a mean of these needs base=, .*: me\.mean\(expected=chosen, base=w\)"),
        (
            broken.ForgetsDisconnected(),
            r"(?s)device 0 left at .* for good, and the others wait for it; receive Disconnected.*waits for Trained",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_broken_rule_is_named(scheduler: Any, message: str) -> None:
    """Each scheduler that breaks one rule fails with that rule."""
    with pytest.raises(AssertionError, match=message):
        check_scheduler(scheduler)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (broken.YieldsNothing(), r"not a fedsim effect.* await only compute, send, recv"),
        (broken.NeedsValues(), "the server evaluates a model, but learning is off"),
        (broken.CatchesItsEnd(), "awaited again after it was closed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_script_that_misbehaves_is_refused(scheduler: Any, message: str) -> None:
    """What the runtime cannot carry out it refuses, in any run."""
    with pytest.raises(ScriptError, match=message):
        check_scheduler(scheduler)
