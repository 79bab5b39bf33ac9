"""A scenario written out: every default, quantities with units, absolute paths; `load` reads the same scenario back."""

from __future__ import annotations

from typing import Any

import yaml

from fedsim.documents.scalars import reads_as_text
from fedsim.scenario.options import plain
from fedsim.scenario.schema import Scenario


def resolved(scenario: Scenario) -> dict[str, Any]:
    """The scenario as plain data: mappings, lists, text, numbers, switches."""
    data = scenario.model_dump(mode="json", by_alias=True)
    pruned = [] if scenario.pruning is None else [(data["pruning"], scenario.pruning.options)]
    for index, group in enumerate(scenario.fleet):
        if group.pruning is not None:
            if group.pruning.prunes:
                pruned.append((data["fleet"][index]["pruning"], group.pruning.options))
            else:
                data["fleet"][index]["pruning"] = "off"
    for section, options in (
        *((section, options) for section, options in pruned if options is not None),
        (data["model"], scenario.model.options),
        (data["data"]["partition"], scenario.data.partition.options),
        (data["scheduler"], scenario.scheduler.options),
        (data["training"]["optimizer"], scenario.training.optimizer.options),
        (data["auxiliary"], scenario.auxiliary.options),
    ):
        section.update({name: value for name, value in plain(options).items() if name not in section})
    return data


def dump(scenario: Scenario) -> str:
    """The resolved scenario as the text of a YAML file."""
    return yaml.dump(
        resolved(scenario), Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120
    )


class _Dumper(yaml.SafeDumper):
    """Writes so that `documents` and other YAML readers agree, apart from `on` and `off`, which read as switches."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if text in ("on", "off"):
        return yaml.ScalarNode("tag:yaml.org,2002:bool", text)
    if not text.isprintable():  # only escapes keep line breaks of other kinds, such as U+0085
        style: str | None = '"'
    else:
        style = None if reads_as_text(text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
