"""Blocks as plans: what they send, and the bytes that their operators move."""

from __future__ import annotations

import dataclasses

import pytest
from torch import nn

from fedsim.costs import Cost, Phase
from fedsim.learning.optimizers import AdamW, Optimizer, Sgd, Training
from fedsim.learning.plan import DEVICE, MODEL, SERVER_BLOCK, BlockPlan, plans
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.measure import ModelMeasure
from fedsim.models.options import TextTransformer
from fedsim.models.units import UnitList

TRAINING = Training(batch=3, optimizer=Sgd())


def linear() -> ModelMeasure:
    """Two layers without biases, so that numbers are few."""
    units: list[tuple[str, nn.Module]] = [("a", nn.Linear(7, 6, bias=False)), ("b", nn.Linear(6, 4, bias=False))]
    return measure(UnitList("two", units, input=(7,), classes=4))


@pytest.mark.parametrize(
    ("optimizer", "kernels", "slots"),
    [
        (Sgd(), (3,), 0),
        (Sgd(weight_decay=0.1), (3,), 0),
        (Sgd(momentum=0.5), (2, 3, 3), 1),
        (Sgd(momentum=0.5, weight_decay=0.1), (3, 2, 3, 3), 1),
        (AdamW(), (2, 3, 2, 3, 2, 2, 2, 4), 2),
    ],
    ids=str,
)
def test_an_optimizer_step_moves_weights_gradients_and_state(
    optimizer: Optimizer, kernels: tuple[int, ...], slots: int
) -> None:
    """An operator a kernel that PyTorch runs, over both tensors: what it reads and writes of 66 numbers."""
    plan = plans(linear(), None, dataclasses.replace(TRAINING, optimizer=optimizer))[MODEL]
    assert (optimizer.kernels, optimizer.slots) == (kernels, slots)
    step = [op for op in plan.train_part(3).cost.operators if op.phase is Phase.OPTIMIZER]
    assert [(op.bytes, op.tensors, op.count) for op in step] == [(k * 4 * (42 + 24), 2, 1) for k in kernels]


def test_averaging_reads_every_member_and_writes_the_mean() -> None:
    """One MAC a parameter and member; n + 1 models of bytes."""
    part = plans(linear(), None, TRAINING)[MODEL].average_part(5)
    assert part.kind == "aggregate"
    assert (part.cost.macs, part.cost.bytes) == (5 * 66, 6 * 4 * 66)


def test_a_training_step_pays_for_its_loss() -> None:
    """Forward and backward of the loss are in the step of whoever holds it, and in nobody else's."""
    model = linear()
    loss = Cost(tuple(op.at(3) for op in (*model.loss_forward, *model.loss_backward)))
    assert loss.bytes > 2 * 3 * 4 * 4, "it reads the logits and writes their gradients"
    whole = plans(model, None, TRAINING)[MODEL].train_part(3).cost
    cut = plans(model, 1, TRAINING)
    device = cut[DEVICE].forward_part(3).cost.bytes + cut[DEVICE].backward_part(3).cost.bytes
    server = cut[SERVER_BLOCK].train_part(3).cost
    assert server.bytes + device == whole.bytes, "a cut moves operators from one side to the other, and makes none"
    assert set(loss.operators) <= set(server.operators)


def test_text_has_a_label_for_every_token() -> None:
    """Images have one; each is eight bytes."""
    options = TextTransformer(blocks=1, width=8, heads=2)
    text = measure(build("transformer", options, input=(10,), classes=7, kind="text", device="cpu"))
    assert plans(text, None, TRAINING)[MODEL].labels(3).nbytes == 3 * 10 * 8
    assert plans(linear(), None, TRAINING)[MODEL].labels(3).nbytes == 3 * 8


def test_only_the_block_with_the_loss_trains_alone() -> None:
    """A device block's step needs a gradient from outside."""
    plan: BlockPlan = plans(linear(), 1, TRAINING)[DEVICE]
    with pytest.raises(AssertionError):
        plan.train_part(3)


def test_costs_say_what_they_belong_to() -> None:
    """Batch size, model and unit; the loss counts as a unit, an optimizer step and an average belong to none."""
    plan = plans(linear(), None, TRAINING)[MODEL]
    cost = plan.train_part(3).cost
    assert (cost.batch, cost.model) == (3, "two")
    by_phase = {phase: {op.unit for op in cost.operators if op.phase is phase} for phase in Phase}
    assert by_phase[Phase.FORWARD] == by_phase[Phase.BACKWARD] == {"a", "b", "loss"}
    assert by_phase[Phase.OPTIMIZER] == {""}
    device = plans(linear(), 1, TRAINING)[DEVICE]
    for part in (device.forward_part(5), device.backward_part(5)):
        assert (part.cost.batch, part.cost.model) == (5, "two")
    average = plan.average_part(4).cost
    assert (average.batch, average.model, average.operators[0].unit) == (0, "", "")


def test_memory_of_a_step_by_hand() -> None:
    """Inputs, labels, what lies between the layers, and the probabilities that the loss keeps with one number more."""
    step = plans(linear(), None, TRAINING)[MODEL].train_part(3)
    assert step.memory == 3 * (7 * 4 + 8 + 6 * 4 + 4 * 4) + 4
    assert step.keeps == 0


def test_a_forward_leaves_behind_what_its_backward_frees() -> None:
    """The inputs, which the first layer needs again, and the activations that are waited for; the server's are sent."""
    device = plans(linear(), 1, TRAINING)[DEVICE]
    forward, backward = device.forward_part(3), device.backward_part(3)
    assert forward.memory == forward.keeps == 3 * (7 + 6) * 4
    assert backward.keeps == -forward.keeps
    assert backward.memory == 3 * 6 * 4, "the gradient that has come"
    server = plans(linear(), 1, TRAINING)[SERVER_BLOCK].train_part(3)
    assert server.memory == 3 * (6 * 4 + 8 + 4 * 4) + 4


def test_inputs_that_nobody_needs_again_are_not_kept() -> None:
    """Token numbers are; images behind an activation that keeps its output are not."""
    units: list[tuple[str, nn.Module]] = [("a", nn.Sigmoid()), ("b", nn.Linear(7, 4, bias=False)), ("c", nn.ReLU())]
    device = plans(measure(UnitList("odd", units, input=(7,), classes=4)), 2, TRAINING)[DEVICE]
    assert device.forward_part(3).keeps == 3 * (7 + 4) * 4, "the sigmoid's output and the layer's"
    assert device.forward_part(3).memory == 3 * (7 + 7 + 4) * 4
    options = TextTransformer(blocks=1, width=8, heads=2)
    text = measure(build("transformer", options, input=(10,), classes=7, kind="text", device="cpu"))
    assert plans(text, 1, TRAINING)[DEVICE].forward_part(3).keeps == 3 * 10 * 8 + 3 * 10 * 8 * 4
