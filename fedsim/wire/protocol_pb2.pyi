from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURPOSE_UNSPECIFIED: _ClassVar[Purpose]
    PURPOSE_WEIGHTS: _ClassVar[Purpose]
    PURPOSE_ACTIVATIONS: _ClassVar[Purpose]
    PURPOSE_GRADIENTS: _ClassVar[Purpose]
    PURPOSE_LABELS: _ClassVar[Purpose]
    PURPOSE_CONTROL: _ClassVar[Purpose]

class Dtype(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[Dtype]
    DTYPE_FLOAT32: _ClassVar[Dtype]
    DTYPE_FLOAT64: _ClassVar[Dtype]
    DTYPE_FLOAT16: _ClassVar[Dtype]
    DTYPE_BFLOAT16: _ClassVar[Dtype]
    DTYPE_INT64: _ClassVar[Dtype]
    DTYPE_INT32: _ClassVar[Dtype]
    DTYPE_UINT8: _ClassVar[Dtype]
    DTYPE_BOOL: _ClassVar[Dtype]

class Coding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODING_PLAIN: _ClassVar[Coding]
    CODING_HALF: _ClassVar[Coding]
    CODING_INT8: _ClassVar[Coding]
    CODING_TOP_K: _ClassVar[Coding]
PURPOSE_UNSPECIFIED: Purpose
PURPOSE_WEIGHTS: Purpose
PURPOSE_ACTIVATIONS: Purpose
PURPOSE_GRADIENTS: Purpose
PURPOSE_LABELS: Purpose
PURPOSE_CONTROL: Purpose
DTYPE_UNSPECIFIED: Dtype
DTYPE_FLOAT32: Dtype
DTYPE_FLOAT64: Dtype
DTYPE_FLOAT16: Dtype
DTYPE_BFLOAT16: Dtype
DTYPE_INT64: Dtype
DTYPE_INT32: Dtype
DTYPE_UINT8: Dtype
DTYPE_BOOL: Dtype
CODING_PLAIN: Coding
CODING_HALF: Coding
CODING_INT8: Coding
CODING_TOP_K: Coding

class Header(_message.Message):
    __slots__ = ("kind", "sender", "number", "body", "payloads", "integers", "reals", "texts", "definitions", "checksum")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    REALS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    kind: int
    sender: int
    number: int
    body: int
    payloads: _containers.RepeatedScalarFieldContainer[int]
    integers: _containers.RepeatedScalarFieldContainer[int]
    reals: _containers.RepeatedScalarFieldContainer[float]
    texts: _containers.RepeatedScalarFieldContainer[str]
    definitions: _containers.RepeatedCompositeFieldContainer[Structure]
    checksum: int
    def __init__(self, kind: _Optional[int] = ..., sender: _Optional[int] = ..., number: _Optional[int] = ..., body: _Optional[int] = ..., payloads: _Optional[_Iterable[int]] = ..., integers: _Optional[_Iterable[int]] = ..., reals: _Optional[_Iterable[float]] = ..., texts: _Optional[_Iterable[str]] = ..., definitions: _Optional[_Iterable[_Union[Structure, _Mapping]]] = ..., checksum: _Optional[int] = ...) -> None: ...

class Structure(_message.Message):
    __slots__ = ("number", "purpose", "coding", "fraction", "feedback", "batched", "tensors", "support")
    class Tensor(_message.Message):
        __slots__ = ("name", "dtype", "shape", "kept")
        NAME_FIELD_NUMBER: _ClassVar[int]
        DTYPE_FIELD_NUMBER: _ClassVar[int]
        SHAPE_FIELD_NUMBER: _ClassVar[int]
        KEPT_FIELD_NUMBER: _ClassVar[int]
        name: str
        dtype: Dtype
        shape: _containers.RepeatedScalarFieldContainer[int]
        kept: int
        def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[Dtype, str]] = ..., shape: _Optional[_Iterable[int]] = ..., kept: _Optional[int] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    CODING_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    FEEDBACK_FIELD_NUMBER: _ClassVar[int]
    BATCHED_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    number: int
    purpose: Purpose
    coding: Coding
    fraction: float
    feedback: bool
    batched: bool
    tensors: _containers.RepeatedCompositeFieldContainer[Structure.Tensor]
    support: str
    def __init__(self, number: _Optional[int] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., coding: _Optional[_Union[Coding, str]] = ..., fraction: _Optional[float] = ..., feedback: bool = ..., batched: bool = ..., tensors: _Optional[_Iterable[_Union[Structure.Tensor, _Mapping]]] = ..., support: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("protocol", "version", "profile", "node", "host")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    profile: str
    node: int
    host: bytes
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., profile: _Optional[str] = ..., node: _Optional[int] = ..., host: _Optional[bytes] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("protocol", "version", "node", "session", "life", "scenario", "messages_digest", "labels_digest", "host", "support")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    SCENARIO_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_DIGEST_FIELD_NUMBER: _ClassVar[int]
    LABELS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    node: int
    session: bytes
    life: int
    scenario: bytes
    messages_digest: bytes
    labels_digest: bytes
    host: bytes
    support: str
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., node: _Optional[int] = ..., session: _Optional[bytes] = ..., life: _Optional[int] = ..., scenario: _Optional[bytes] = ..., messages_digest: _Optional[bytes] = ..., labels_digest: _Optional[bytes] = ..., host: _Optional[bytes] = ..., support: _Optional[str] = ...) -> None: ...

class ClockProbe(_message.Message):
    __slots__ = ("asked",)
    ASKED_FIELD_NUMBER: _ClassVar[int]
    asked: int
    def __init__(self, asked: _Optional[int] = ...) -> None: ...

class ClockAnswer(_message.Message):
    __slots__ = ("asked", "received", "answered")
    ASKED_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    asked: int
    received: int
    answered: int
    def __init__(self, asked: _Optional[int] = ..., received: _Optional[int] = ..., answered: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("seen", "ask")
    SEEN_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    seen: int
    ask: bool
    def __init__(self, seen: _Optional[int] = ..., ask: bool = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("message", "arrived")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    message: int
    arrived: int
    def __init__(self, message: _Optional[int] = ..., arrived: _Optional[int] = ...) -> None: ...

class Announcement(_message.Message):
    __slots__ = ("message", "ready")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    message: int
    ready: int
    def __init__(self, message: _Optional[int] = ..., ready: _Optional[int] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("message", "rate", "since")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    message: int
    rate: float
    since: int
    def __init__(self, message: _Optional[int] = ..., rate: _Optional[float] = ..., since: _Optional[int] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Start(_message.Message):
    __slots__ = ("origin", "dilation")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    DILATION_FIELD_NUMBER: _ClassVar[int]
    origin: int
    dilation: float
    def __init__(self, origin: _Optional[int] = ..., dilation: _Optional[float] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("moment",)
    MOMENT_FIELD_NUMBER: _ClassVar[int]
    moment: int
    def __init__(self, moment: _Optional[int] = ...) -> None: ...

class Freeze(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Thaw(_message.Message):
    __slots__ = ("paused_for",)
    PAUSED_FOR_FIELD_NUMBER: _ClassVar[int]
    paused_for: int
    def __init__(self, paused_for: _Optional[int] = ...) -> None: ...

class Records(_message.Message):
    __slots__ = ("lines", "due", "awaited", "since")
    LINES_FIELD_NUMBER: _ClassVar[int]
    DUE_FIELD_NUMBER: _ClassVar[int]
    AWAITED_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedScalarFieldContainer[str]
    due: int
    awaited: str
    since: int
    def __init__(self, lines: _Optional[_Iterable[str]] = ..., due: _Optional[int] = ..., awaited: _Optional[str] = ..., since: _Optional[int] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Up(_message.Message):
    __slots__ = ("sequence", "heartbeat", "acknowledgement", "announcement", "probe", "ready", "leave", "records", "finished")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCEMENT_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    heartbeat: Heartbeat
    acknowledgement: Acknowledgement
    announcement: Announcement
    probe: ClockProbe
    ready: Ready
    leave: Leave
    records: Records
    finished: Finished
    def __init__(self, sequence: _Optional[int] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., acknowledgement: _Optional[_Union[Acknowledgement, _Mapping]] = ..., announcement: _Optional[_Union[Announcement, _Mapping]] = ..., probe: _Optional[_Union[ClockProbe, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., records: _Optional[_Union[Records, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ...) -> None: ...

class Down(_message.Message):
    __slots__ = ("sequence", "heartbeat", "acknowledgement", "grant", "answer", "start", "refusal", "end", "freeze", "thaw")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    FREEZE_FIELD_NUMBER: _ClassVar[int]
    THAW_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    heartbeat: Heartbeat
    acknowledgement: Acknowledgement
    grant: Grant
    answer: ClockAnswer
    start: Start
    refusal: Refusal
    end: End
    freeze: Freeze
    thaw: Thaw
    def __init__(self, sequence: _Optional[int] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., acknowledgement: _Optional[_Union[Acknowledgement, _Mapping]] = ..., grant: _Optional[_Union[Grant, _Mapping]] = ..., answer: _Optional[_Union[ClockAnswer, _Mapping]] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., freeze: _Optional[_Union[Freeze, _Mapping]] = ..., thaw: _Optional[_Union[Thaw, _Mapping]] = ...) -> None: ...
