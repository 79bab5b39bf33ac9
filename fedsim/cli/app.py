"""The commands and their exit status: 0 done, 1 the run failed, 2 wrong input, 130 interrupted."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from fedsim.cli import INTERRUPTED, WRONG_INPUT
from fedsim.errors import FedsimError, UserError

FAILED: Final = 1

app = typer.Typer(
    name="fedsim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ScenarioArgument = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="A name from `fedsim list scenarios`, or the path of a file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a field of the scenario; may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs, and nothing else.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedsim {version('fedsim-edge')}")
        raise typer.Exit


@app.callback()
def _fedsim(
    version_: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Federated and split-federated learning on heterogeneous edge devices, simulated and emulated."""


class Kind(StrEnum):
    """What `fedsim list` lists."""

    SCHEDULERS = "schedulers"
    MODELS = "models"
    DATA = "data"
    PROFILES = "profiles"
    LINKS = "links"
    SCENARIOS = "scenarios"


@app.command()
def run(
    scenario: ScenarioArgument,
    set_: SetOption = None,
    mode: Annotated[str | None, typer.Option(help="Override the scenario's mode.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; by default runs/NAME-SCHEDULER-UTC.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Use the Ray cluster at this address (auto: that of this host), for an emulation's nodes or a "
            "simulation's workers.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Simulate with so many processes: workers.kind ray, workers.count."),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:WHERE",
            help="Record the run, when it has ended, in tensorboard:FOLDER or mlflow:ADDRESS; may be repeated.",
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Of a sweep: processes that share its runs.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a scenario and write its run folder; of one with a section `sweep`, all cells, with one table and report."""
    overrides = [*(set_ or []), *([] if mode is None else [f"mode={mode}"])]
    if workers is not None:
        overrides += ["workers.kind=ray", f"workers.count={workers}"]
    more = {"track": track or [], "jobs": jobs, "as_json": as_json}
    _exit("fedsim.cli.running:run_command", scenario, overrides, out, ray=ray, **more)


@app.command()
def serve(
    scenario: ScenarioArgument,
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="Where devices reach it, as in 0.0.0.0:9440; port 0: any.")
    ],
    out: Annotated[Path | None, typer.Option(help="The run folder; by default runs/NAME-SCHEDULER-UTC.")] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The devices' tokens, one a line; written, for this fleet, if not there."),
    ] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="The server's certificate, for TLS.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of the certificate.")] = None,
    clients: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Whose certificates devices have to show (mutual TLS).")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen to others than this host without TLS all the same.")
    ] = False,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Be the server of an emulation whose devices are processes of their own; ends with the run."""
    _exit(
        "fedsim.cli.serving:serve_command",
        scenario,
        set_ or [],
        listen,
        out=out,
        tokens=tokens,
        certificate=certificate,
        key=key,
        clients=clients,
        insecure=insecure,
        as_json=as_json,
    )


@app.command()
def device(
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the server listens.")],
    profile: Annotated[str, typer.Option(help="The profile of this device: one that the scenario's fleet has.")] = "",
    node: Annotated[int | None, typer.Option(help="Its number in the fleet; by default any with its profile.")] = None,
    token: Annotated[Path | None, typer.Option(metavar="FILE", help="The device's token.")] = None,
    authority: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Whose certificate the server has to show, for TLS.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="The device's certificate.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of the certificate.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Its own copy of the data set.")] = None,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long it tries to reach a server that it cannot reach.")
    ] = 60.0,
) -> None:
    """Be a device of an emulation; ends with the run."""
    _exit(
        "fedsim.cli.participating:device_command",
        server,
        profile=profile,
        node=node,
        token=token,
        authority=authority,
        certificate=certificate,
        key=key,
        data=data,
        patience=patience,
    )


@app.command()
def compare(
    scenario: ScenarioArgument,
    schedulers: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Schedulers, as in fedavg,'fedoptima{admission: fcfs}',my=package:Class; or all. By default all that "
            "can run this scenario.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many: the scenario's own and those that follow it.")] = 1,
    baseline: Annotated[str | None, typer.Option(help="What ratios refer to; by default the first scheduler.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="ACCURACY", help="Compare the time to it, as in '60 %'; may be repeated."),
    ] = None,
    set_: SetOption = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the runs.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder, by default runs/NAME-compare-UTC; given again, runs that are done are kept."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a scenario under several schedulers and seeds, and put their figures side by side."""
    _exit(
        "fedsim.cli.comparing:compare_command",
        scenario,
        set_ or [],
        schedulers=schedulers,
        seeds=seeds,
        baseline=baseline,
        targets=target or [],
        jobs=jobs,
        out=out,
        as_json=as_json,
    )


@app.command()
def check(scenario: ScenarioArgument, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Validate a scenario and show what it comes to, without running it."""
    _exit("fedsim.cli.checking:check_command", scenario, set_ or [], as_json=as_json)


@app.command()
def validate(
    scenario: ScenarioArgument,
    repeat: Annotated[int, typer.Option(min=1, help="Emulations; of several, medians count.")] = 1,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the run folders: DIR/simulate, DIR/emulate-1, …")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate and emulate a scenario, and show how far the two are apart. Status 1: further than they may be."""
    _exit("fedsim.cli.validating:validate_command", scenario, set_ or [], repeat=repeat, out=out, as_json=as_json)


@app.command(name="list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: JsonOption = False,
) -> None:
    """What there is to name in a scenario, one line each."""
    _exit("fedsim.cli.listing:list_command", kind.value, as_json=as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file; by default report.html in the run folder, comparison.html for several."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the HTML report of one run, or of several side by side, and print their key figures."""
    _exit("fedsim.cli.reporting:report_command", runs, out, as_json=as_json)


@app.command()
def track(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    to: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:WHERE", help="tensorboard:FOLDER or mlflow:ADDRESS; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Record finished runs in TensorBoard's files, or in MLflow."""
    _exit("fedsim.cli.tracking:track_command", runs, to or [], as_json=as_json)


class Processor(StrEnum):
    """What `fedsim calibrate` measures."""

    CPU = "cpu"
    GPU = "gpu"


class Machine(StrEnum):
    """What sort of machine `fedsim calibrate` writes down."""

    BOARD = "board"
    JETSON = "jetson"
    PHONE = "phone"
    LAPTOP = "laptop"
    SERVER = "server"


@app.command()
def calibrate(
    out: Annotated[
        Path | None, typer.Option(metavar="PROFILE", help="The profile to write, as in my-board.yaml.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of an operator; by default one a core.")] = None,
    processor: Annotated[Processor, typer.Option(help="What to measure; gpu needs CUDA.")] = Processor.CPU,
    models: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Networks to measure; by default all, two to three minutes.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Batch sizes 8 and 32 only, and fewer repeats.")] = False,
    kind: Annotated[Machine, typer.Option(help="What the profile says this is.")] = Machine.BOARD,
    idle: Annotated[str | None, typer.Option(metavar="WATTS", help="What it draws idle, as in '2.7 W'.")] = None,
    busy: Annotated[str | None, typer.Option(metavar="WATTS", help="What it draws busy, as in '6.4 W'.")] = None,
    allow_load: Annotated[bool, typer.Option("--allow-load", help="Measure though other processes are busy.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the profile if it exists.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine and fit a profile to it, with its error on networks that were left out."""
    _exit(
        "fedsim.cli.calibrating:calibrate_command",
        out=out,
        force=force,
        threads=threads,
        processor=processor.value,
        models=models,
        quick=quick,
        kind=kind.value,
        idle=idle,
        busy=busy,
        allow_load=allow_load,
        as_json=as_json,
    )


@app.command()
def prune(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name from `fedsim list models`, module:Class, a Hugging Face folder, a .gguf file, package:NAME, "
            "or a folder that was pruned before.",
        ),
    ],
    method: Annotated[
        str | None,
        typer.Option(
            metavar="reconvene|mosaic|MODULE:CLASS", help="By default reconvene for images, mosaic for language models."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="An option of the method, as in budget.params='25 %', or of the model, as in model.width_ratio=0.25; "
            "may be repeated.",
        ),
    ] = None,
    input_: Annotated[
        str | None, typer.Option("--input", metavar="SHAPE", help="Of a sample; by default 3x32x32, or the data's.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Classes, or tokens of the vocabulary; by default 10, or the data's.")
    ] = None,
    norm: Annotated[
        str, typer.Option(metavar="bn|gn|frozen_bn", help="Norm layers of a model of the catalogue.")
    ] = "bn",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE_OR_RUN", help="Trained weights, for a model of the catalogue.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of initial weights and of all that is drawn.")] = 0,
    calibration: Annotated[
        str | None, typer.Option(metavar="FILE", help="Public text that Mosaic looks at; or the name of a text.")
    ] = None,
    windows: Annotated[int, typer.Option(min=1, max=16384, help="How many pieces of it.")] = 32,
    length: Annotated[int, typer.Option(min=2, max=131072, help="Tokens of a piece, and of a sequence.")] = 256,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="NAME_OR_PATH", help="By default the model's own, or bytes.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A data set, for scores that need one; shape and classes are its."),
    ] = None,
    data_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where data sets and texts are that are named.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Data and text are of devices: what is made of them says so.")
    ] = False,
    profile: Annotated[
        str | None, typer.Option(help="A device, for budgets of memory and latency, and for times by its cost model.")
    ] = None,
    advise: Annotated[
        bool,
        typer.Option(
            "--advise",
            help="Take the kind and the share of Mosaic's pruning that the device of --profile needs for "
            "--set needs.context=512, needs.seconds='300 ms' a token, and needs.download='200 MB'.",
        ),
    ] = False,
    recover: Annotated[
        str | None,
        typer.Option(
            metavar="lora|full",
            help="Train what Mosaic has pruned on its calibration text, zeros staying zero; --set recover.epochs=2 and "
            "the like.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples of a training step, for budgets of memory.")] = 16,
    ranking: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Scores or ranking: read if it is there, else made and kept for other targets."
        ),
    ] = None,
    baselines: Annotated[
        str | None, typer.Option(metavar="all|A,B", help="What Reconvene is compared with, at the same size.")
    ] = None,
    evaluate: Annotated[
        str | None, typer.Option(metavar="FILE_OR_DATA", help="A text, or a data set's test part, before and after.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="How many of it count; by default 64 windows of a text, or all samples.")
    ] = None,
    time: Annotated[
        bool, typer.Option("--time", help="Time it by a stopwatch on this host, the parent beside it.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of an operator while it is timed.")] = 1,
    onnx: Annotated[Path | None, typer.Option(metavar="FILE", help="Export a network for images.")] = None,
    hugging_face: Annotated[
        Path | None,
        typer.Option("--hugging-face", metavar="DIR", help="Export a language model whose blocks are of one width."),
    ] = None,
    portfolio: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,4",
            help="In place of one cut, variants of a trained network for images: so many times fewer weights other "
            "than zero, and without the filters that this has emptied.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the pruned model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a smaller model of a model, check it, and say what it comes to. Status 1: a check failed."""
    _exit(
        "fedsim.cli.pruning:prune_command",
        model,
        set_ or [],
        method=method,
        input_=input_,
        classes=classes,
        norm=norm,
        weights=weights,
        seed=seed,
        calibration=calibration,
        windows=windows,
        length=length,
        tokenizer=tokenizer,
        data=data,
        data_path=data_path,
        private=private,
        profile=profile,
        advise=advise,
        recover=recover,
        batch=batch,
        ranking=ranking,
        baselines=baselines,
        evaluate=evaluate,
        samples=samples,
        time=time,
        threads=threads,
        onnx=onnx,
        hugging_face=hugging_face,
        portfolio=portfolio,
        out=out,
        as_json=as_json,
    )


@app.command()
def certs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to put them; made if it is not there.")],
    names: Annotated[
        list[str],
        typer.Option("--name", metavar="NAME", help="What devices call the server: a name or an IP; may be repeated."),
    ],
    days: Annotated[int, typer.Option(help="How long they are good for.")] = 30,
    force: Annotated[bool, typer.Option("--force", help="Replace those that are there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make certificates for serve and device, for a laboratory: an authority, a server's, and one for devices."""
    _exit("fedsim.cli.certifying:certs_command", folder, names, days=days, force=force, as_json=as_json)


def complain(message: str) -> None:
    """Say what is wrong, on standard error."""
    print(f"error: {message}", file=sys.stderr)


def _exit(command: str, *arguments: Any, **options: Any) -> NoReturn:
    """Import a command (`module:function`), run it and leave with the status that its outcome has."""
    sys.path.insert(0, "")  # what a scenario names as module:Class may lie in the current folder
    try:
        module, _, function = command.partition(":")
        status: int = getattr(importlib.import_module(module), function)(*arguments, **options)
        sys.stdout.flush()
    except UserError as error:
        complain(str(error))
        status = WRONG_INPUT
    except FedsimError as error:
        complain(str(error))
        status = FAILED
    except KeyboardInterrupt:
        complain("interrupted")
        status = INTERRUPTED
    except (BrokenPipeError, SystemExit) as end:  # whoever read our output has had enough: rich makes that an exit
        if isinstance(end, SystemExit) and not isinstance(end.__context__, BrokenPipeError):
            raise
        _discard_output()
        status = 0
    except OSError as error:  # errors of files are ours or name them; what is left is our own output on a full disk
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _discard_output()
        complain(f"the output cannot be written: {error.strerror}; make room, or send it elsewhere")
        status = FAILED
    except Exception:  # of a user's own scheduler, model or data, or a mistake of ours: both want to see where
        traceback.print_exc()
        status = FAILED
    raise typer.Exit(status)


def _discard_output() -> None:
    """Send what is still to be printed nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def invoke(arguments: Sequence[str] | None) -> int:
    """Parse a command line and run its command; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a letter still shows the rest
    try:
        app(args=arguments, prog_name="fedsim")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED
    return 0
