"""A run as TensorBoard's event files, in a folder of its own below the given one.

Steps are numbers of published models, times are the run's own clock in seconds: on TensorBoard's axis `Relative` a
curve lies over the time of the run, on `Step` over its models. Final figures are scalars under `final`, at the end;
parameters are a table under `scenario`. Needs no torch and no TensorFlow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedsim.errors import UserError
from fedsim.report.tracking.account import Account


def write(told: Account, where: str) -> None:
    """Write the events of a run.

    Raises:
        UserError: its folder there is not empty, or cannot be made.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder = Path(where) / told.name
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} holds events of a run of that name already; remove it, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}; name another folder") from error
    writer = EventFileWriter(str(folder))
    try:
        for name, points in told.series.items():
            for step, seconds, value in points:
                value_of = Summary.Value(tag=name, simple_value=value)
                writer.add_event(Event(wall_time=seconds, step=step, summary=Summary(value=[value_of])))
        values = [Summary.Value(tag=f"final/{name}", simple_value=value) for name, value in told.figures.items()]
        values.append(_text("scenario", _rows(told)))
        writer.add_event(Event(wall_time=told.seconds, step=told.last, summary=Summary(value=values)))
    finally:
        writer.close()


def _text(tag: str, text: str) -> Any:
    """A value that TensorBoard shows as Markdown."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _rows(told: Account) -> str:
    rows = ["| key | value |", "|---|---|"]
    escaped = ((key, value.replace("|", "\\|").replace("\n", " ")) for key, value in told.parameters.items())
    return "\n".join([*rows, *(f"| {key} | {value} |" for key, value in escaped)])
