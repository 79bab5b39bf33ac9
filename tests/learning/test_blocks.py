"""Optimizer steps have the bits of PyTorch's plain loops; instances are re-pointed, not copied."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from fedsim.learning.blocks import Block, Stepper
from fedsim.learning.optimizers import AdamW, Sgd
from fedsim.learning.plan import variant_plan
from fedsim.models.counting import measure
from tests.learning.toys import Federation
from tests.learning.variants import smaller, support

OPTIONS = [
    Sgd(lr=0.05),
    Sgd(lr=0.05, weight_decay=0.01),
    Sgd(lr=0.05, momentum=0.9),
    Sgd(lr=0.05, momentum=0.5, weight_decay=0.01),
    AdamW(lr=0.01),
    AdamW(lr=0.01, weight_decay=0.0),
    Sgd(lr=0.05, clip=1.5),
    Sgd(lr=0.05, momentum=0.9, weight_decay=0.01, clip=1e6),
    AdamW(lr=0.01, clip=0.01),
]
SHAPES = [(1,), (3,), (17,), (33, 9), (8, 3, 3, 3), (4, 1, 5, 5), (129, 65)]


def plain(options: Any, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """`torch.optim` in its plain loop."""
    if isinstance(options, Sgd):
        return torch.optim.SGD(
            parameters,
            lr=options.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            foreach=False,
            fused=False,
        )
    return torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay, foreach=False, fused=False)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_step_has_the_bits_of_the_plain_loop(options: Any, dtype: torch.dtype, channels_last: bool) -> None:
    """Over several steps; a parameter that got no gradient is left alone, with its state."""
    rng = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=rng, dtype=dtype) for shape in SHAPES]
    if channels_last:
        values = [v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for v in values]
    ours, theirs = ([nn.Parameter(v.clone()) for v in values] for _ in range(2))
    stepper, optimizer = Stepper(options, ours), plain(options, theirs)
    for step in range(6):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            unused = (step, i) in ((0, 2), (3, 0))
            g = torch.randn(a.shape, generator=rng, dtype=dtype)
            # As autograd gives them: in the layout of the parameter.
            a.grad, b.grad = (None, None) if unused else (torch.empty_like(a).copy_(g), torch.empty_like(b).copy_(g))
        if options.clip is not None:
            norm = nn.utils.clip_grad_norm_(theirs, options.clip)
            assert (norm > options.clip) == (options.clip < 10), "some are clipped, some are not"
        stepper.step()
        optimizer.step()
        assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))
        assert all(p.grad is None for p in ours)
    assert len(stepper.state) == (0 if isinstance(options, Sgd) and not options.momentum else len(SHAPES))


@pytest.mark.parametrize("optimizer", [Sgd(lr=0.05, clip=0.1), Sgd(lr=0.05, momentum=0.9, clip=0.1)])
def test_what_a_mask_leaves_out_takes_no_part_in_clipping(optimizer: Sgd) -> None:
    """Steps are those of a network that multiplies its weights by the mask, with PyTorch's own clipping."""
    toy = Federation(optimizer=optimizer)
    what = support(range(32), masked=0.9)
    module = smaller(toy.network(), what)
    theirs = deepcopy(module)
    plan = variant_plan(1, measure(module), None, toy.training(), None, what)
    block = Block(plan, module)
    instance = block.acquire()
    instance.load(block.initial)
    masked, mask = "conv2.0.weight", torch.from_numpy(what.masks["conv2.0.weight"])
    reference = plain(optimizer, [*theirs.parameters()])
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        x, y = torch.randn(8, *toy.shape, generator=rng, dtype=torch.float64), torch.arange(8) % 4
        functional.cross_entropy(block.bind(instance)(x), y).backward()
        instance.step()
        reference.zero_grad()
        weights = {masked: theirs.get_parameter(masked) * mask}
        functional.cross_entropy(functional_call(theirs, weights, (x,)), y).backward()
        assert nn.utils.clip_grad_norm_(theirs.parameters(), 0.1) > 0.1
        reference.step()
    for shape, parameter in zip(plan.parameters.shapes, instance.parameters, strict=True):
        torch.testing.assert_close(parameter, theirs.get_parameter(shape.name), rtol=1e-9, atol=1e-12)


def test_fused_momentum_and_adamw_would_round_differently() -> None:
    """The reason why they are not used; where this fails, they may be."""
    different = []
    for options in (Sgd(lr=0.05, momentum=0.9), AdamW(lr=0.01)):
        rng = torch.Generator().manual_seed(0)
        value = torch.randn(1001, generator=rng)
        a, b = nn.Parameter(value.clone()), nn.Parameter(value.clone())
        kind = torch.optim.SGD if isinstance(options, Sgd) else torch.optim.AdamW
        keywords: Any = {"lr": options.lr} | ({"momentum": options.momentum} if isinstance(options, Sgd) else {})
        one, other = kind([a], fused=True, **keywords), kind([b], foreach=False, **keywords)
        for _ in range(5):
            a.grad = torch.randn(1001, generator=rng)
            b.grad = a.grad.clone()
            one.step()
            other.step()
        different.append(not a.equal(b))
    assert any(different)


@pytest.mark.slow
def test_training_does_not_import_the_compiler() -> None:
    """`torch._dynamo` would take most of a second, and 75 MB of every worker."""
    program = (
        "import sys; from tests.learning.toys import *; bench = MLP.bench(); learner = bench.learner();"
        "from fedsim.learning.learners import Batch;"
        "bench.do(learner.train((Batch(0, 0, 8),))); bench.host.evaluate((learner.weights(),), 'test');"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_binding_repoints_the_module_at_an_instance() -> None:
    """Parameters and buffers, without copying; the same module serves every instance."""
    bench = Federation().bench()
    block: Block = bench.host.core.blocks["model"]
    a, b = block.acquire(), block.acquire()
    for instance, value in ((a, 1.0), (b, 2.0), (a, 1.0)):
        for tensor in instance.tensors:
            tensor.data.fill_(value)
        module = block.bind(instance)
        assert module is block.module
        named = [*module.named_parameters(), *module.named_buffers()]
        names = [shape.name for shape in block.plan.weights.shapes]
        by_name = dict(zip(names, instance.tensors, strict=True))
        assert all(tensor is by_name[name] for name, tensor in named)
        assert all(bool((tensor == value).all()) for _, tensor in named)
    assert all(bool((v == 2).all()) for v in b.flats.views())


def test_instances_are_reused_last_released_first() -> None:
    """While they are warm; their state goes when they are loaded."""
    bench = Federation(optimizer=Sgd(lr=0.1, momentum=0.9)).bench()
    block: Block = bench.host.core.blocks["model"]
    a, b = block.acquire(), block.acquire()
    for instance in (a, b):
        for parameter in instance.parameters:
            parameter.grad = torch.ones_like(parameter)
        instance.step()
        block.release(instance)
    assert block.acquire() is b
    assert block.acquire() is a
    assert a.optimizer.state
    a.load(block.initial)
    assert not a.optimizer.state
    assert all(x.equal(y) for x, y in zip(a.flats.buffers, block.initial.buffers, strict=True))
