"""Files for fleets: Compose, images and a Ray cluster, by their schemas and by what these cannot see.

The schema of Compose files (Compose Specification, Apache-2.0) is the copy that the package check-jsonschema carries;
that of cluster files comes with Ray.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import socket
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from fedsim import catalogue
from fedsim.cli.app import app
from fedsim.hardware.profiles import load_profile

CHECKOUT = Path(__file__).resolve().parent.parent
COMPOSE = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVER = SERVICES["server"]
DEVICES = {name: service for name, service in SERVICES.items() if service["command"][0] == "device"}
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def schema_of(package: str, path: str) -> Any:
    """A JSON schema among the files of an installed package."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return json.loads((Path(found.origin).parent / path).read_text())


def validated(document: Any, schema: Any) -> None:
    """Nothing, if the document is valid by the schema, which has to be one.

    Raises:
        jsonschema.ValidationError: it is not.
    """
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    kind(schema).validate(document)


def option(command: list[str], name: str) -> str:
    """What follows an option of a command."""
    return command[command.index(name) + 1]


def bytes_of(text: str) -> int:
    """A limit as Docker reads it: 1m is 1 MiB."""
    return int(text[:-1]) << {"m": 20, "g": 30}[text[-1]]


# The Compose file


def test_it_is_valid_by_the_compose_specification() -> None:
    """And the schema does refuse: a misspelt key, a limit that is a list, an unknown condition."""
    schema = schema_of("check_jsonschema", "builtin_schemas/vendor/compose-spec.json")
    validated(COMPOSE, schema)
    for path, wrong in (
        (("services", "server", "mem_limits"), "4g"),
        (("services", "server", "cpus"), [2]),
        (("services", "raspberry-pi-5", "depends_on", "server", "condition"), "service_ready"),
        (("networks", "fleet", "internal"), [True]),
    ):
        changed = copy.deepcopy(COMPOSE)
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = wrong
        with pytest.raises(jsonschema.ValidationError):
            validated(changed, schema)


def test_the_containers_are_the_scenarios_fleet() -> None:
    """As many of each profile, and the scenario is one that is shipped."""
    path = catalogue.names("scenario")[SERVER["command"][1]]
    fleet: Counter[str] = Counter()
    for group in yaml.safe_load(path.read_text())["fleet"]:
        fleet[group["profile"]] += group["count"]
    containers: Counter[str] = Counter()
    for service in DEVICES.values():
        containers[option(service["command"], "--profile")] += service["scale"]
    assert containers == fleet
    assert len(containers) == 3
    assert set(SERVICES) == {"server", *DEVICES}


def test_every_profile_exists_and_fits_its_container() -> None:
    """The limit is about the machine's memory: no less than a run may use there."""
    for service in DEVICES.values():
        name = option(service["command"], "--profile")
        assert name in catalogue.names("profile")
        memory, limit = load_profile(name).memory, bytes_of(service["mem_limit"])
        assert memory.usable <= limit <= memory.capacity


@pytest.mark.parametrize("name", SERVICES)
def test_limits(name: str) -> None:
    """No swap, processes bounded, as many threads as whole cores, and no rights that are not needed."""
    service = SERVICES[name]
    assert service["mem_limit"] == service["memswap_limit"]
    assert service["pids_limit"] > 0
    assert service["environment"]["OMP_NUM_THREADS"] == str(max(1, int(service["cpus"])))
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"]
    assert service["networks"] == ["fleet"]
    assert "ports" not in service, "an insecure server is for its own network only"


def test_devices_find_the_server() -> None:
    """By its name and its port, once it listens, on a network that leads nowhere else."""
    assert COMPOSE["networks"] == {"fleet": {"internal": True}}
    host, _, port = option(SERVER["command"], "--listen").rpartition(":")
    assert host == "0.0.0.0"
    assert f"EXPOSE {port}" in (CHECKOUT / "server/Dockerfile").read_text()
    assert f", {port})" in SERVER["healthcheck"]["test"][-1]
    for service in DEVICES.values():
        assert option(service["command"], "--server") == f"server:{port}"
        assert service["depends_on"] == {"server": {"condition": "service_healthy"}}


def test_the_run_folder_is_on_the_volume() -> None:
    """Where the image has a folder of its user's, and where a run goes without --out."""
    ((volume, _, folder),) = (entry.partition(":") for entry in SERVER["volumes"])
    assert volume in COMPOSE["volumes"]
    text = (CHECKOUT / "server/Dockerfile").read_text()
    assert f"--owner=fedsim --group=fedsim {folder}" in text
    assert folder == re.findall(r"^WORKDIR (.*)$", text, re.MULTILINE)[-1] + "/runs"
    assert "--out" not in SERVER["command"]


@pytest.mark.parametrize("name", ["serve", "device", "certs"])
def test_every_option_is_one_of_the_command_line(name: str) -> None:
    """Those of the Compose file, and those of the code in docs/emulation-fleet.md."""
    text = (CHECKOUT / "docs/emulation-fleet.md").read_text()
    # A line of code, and those below it that are further in.
    calls = re.findall(rf"^    (?:\S.*)?\bfedsim {name} (.*(?:\n     +.*)*)", text, re.MULTILINE)
    assert calls
    calls += [" ".join(service["command"]) for service in SERVICES.values() if service["command"][0] == name]
    group: Any = typer.main.get_command(app)
    if name not in group.commands:
        pytest.skip(f"this version has no fedsim {name}")
    there = {flag for parameter in group.commands[name].params for flag in parameter.opts}
    assert set(re.findall(r"(?<!\S)\[?(--[a-z]+)", "\n".join(calls))) <= there


# What is run to see whether a container is well


def check(service: dict[str, Any], change: tuple[str, str]) -> int:
    """Run a service's health check with one text replaced by another; returns its exit status."""
    how, program, flag, source = service["healthcheck"]["test"]
    assert (how, program, flag) == ("CMD", "python", "-c")
    before, after = change
    assert before in source
    command = [sys.executable, flag, source.replace(before, after)]
    return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode


@pytest.mark.slow
def test_a_server_is_well_while_it_listens() -> None:
    """Status 0 then, another one afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        assert check(SERVER, ("50051", port)) == 0
    assert check(SERVER, ("50051", port)) != 0


@pytest.mark.slow
def test_a_device_is_well_while_it_is_process_one(tmp_path: Path) -> None:
    """Status 0 for `fedsim device`, another one for anything else."""
    file = tmp_path / "cmdline"
    service = DEVICES["raspberry-pi-5"]
    file.write_bytes(b"/opt/fedsim/bin/python\0/opt/fedsim/bin/fedsim\0device\0--server\0server:50051\0")
    assert check(service, ("/proc/1/cmdline", str(file))) == 0
    file.write_bytes(b"sleep\0infinity\0")
    assert check(service, ("/proc/1/cmdline", str(file))) != 0
    assert all(other["healthcheck"] == service["healthcheck"] for other in DEVICES.values())


# Images


@pytest.mark.parametrize("folder", ["devices", "server"])
def test_an_image(folder: str) -> None:
    """The user is not root, torch is within the project's range and from an index that can be chosen."""
    text = (CHECKOUT / folder / "Dockerfile").read_text()
    stages = text.split("\nFROM ")[1:]
    assert [stage.split()[0] for stage in stages] == ["python:3.12-slim"] * 2
    last = stages[-1]
    assert re.search(r"^USER fedsim$", last, re.MULTILINE)
    assert last.index("USER fedsim") < last.index("ENTRYPOINT")
    assert 'ENTRYPOINT ["fedsim"]' in last
    assert "OMP_NUM_THREADS=1" in last
    assert "pip install" not in last
    assert "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu" in text
    assert '--index-url "$TORCH_INDEX"' in text
    assert _torch() <= set(re.findall(r'"([^"]+)"', text))


def test_the_build_context_has_what_the_wheel_is_made_of() -> None:
    """And neither runs nor data, which .dockerignore leaves out by leaving out everything else."""
    lines = (CHECKOUT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    target = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = PROJECT["project"]
    needed = {*target["packages"], *target["force-include"], project["readme"], *project["license-files"]}
    assert kept == needed | {"pyproject.toml"}
    assert next(line for line in lines if not line.startswith("#")) == "*"
    assert all((CHECKOUT / path).exists() for path in kept)


# A Ray cluster


def test_the_cluster_file_is_valid_by_rays_schema() -> None:
    """Which refuses a key that it does not know and a provider without a type."""
    cluster = yaml.safe_load((CHECKOUT / "server/ray-cluster.yaml").read_text())
    schema = schema_of("ray", "autoscaler/ray-schema.json")
    validated(cluster, schema)
    changes: tuple[dict[str, Any], ...] = ({"min_workers": 2}, {"provider": {}}, {"setup_commands": "pip"})
    for wrong in changes:
        with pytest.raises(jsonschema.ValidationError):
            validated(cluster | wrong, schema)
    assert set(schema["required"]) <= set(cluster)
    assert "docker" not in cluster
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])


def test_the_cluster_installs_this_project() -> None:
    """From the folder that is copied there, torch in the project's range; strangers cannot reach the dashboard."""
    cluster = yaml.safe_load((CHECKOUT / "server/ray-cluster.yaml").read_text())
    setup, head = "\n".join(cluster["setup_commands"]), "\n".join(cluster["head_start_ray_commands"])
    ((there, here),) = cluster["file_mounts"].items()
    assert here == "."
    assert f'{there} "ray[default]"' in setup
    assert _torch() <= set(re.findall(r'"([^"]+)"', setup))
    assert "--dashboard-host=127.0.0.1" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert any("--address=$RAY_HEAD_IP:6379" in command for command in cluster["worker_start_ray_commands"])


def _torch() -> set[str]:
    return {need for need in PROJECT["project"]["dependencies"] if need.startswith("torch") and "pruning" not in need}
