"""Who may join the server, and as which device: slots by profile, one life at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from fedsim.emulation.transport.seam import Refused
from fedsim.errors import shown, unknown
from fedsim.wire import protocol_pb2 as pb


class Owners(Protocol):
    """Whose token is whose."""

    def device_of(self, token: str) -> int | None:
        """The device that a token belongs to; None: nobody's."""
        ...


class Membership:
    """The server's door.

    Args:
        profiles: of the devices, by number.
        welcome: what a device is told that joins: its number, and how many lives it has had before.
        owners: None: everybody may join.
    """

    def __init__(
        self,
        profiles: Sequence[str],
        welcome: Callable[[int, int], pb.JoinResponse],
        owners: Owners | None = None,
    ) -> None:
        self._profiles = profiles
        self._welcome = welcome
        self._owners = owners
        self._lock = threading.Lock()
        self._lives = [0] * len(profiles)
        self._here: set[int] = set()
        self._closed: str | None = None

    def close(self, reason: str) -> None:
        """Let nobody in any more."""
        with self._lock:
            self._closed = reason

    def left(self, device: int) -> None:
        """A device is gone: its slot is free."""
        with self._lock:
            self._here.discard(device)

    def device_of(self, token: str | None) -> int | None:
        """The device that a token belongs to; None where there are no tokens.

        Raises:
            Refused: it belongs to none.
        """
        if self._owners is None:
            return None
        device = None if token is None else self._owners.device_of(token)
        if device is None:
            raise Refused("UNAUTHENTICATED", "no token, or an unknown one; give the device's own with --token FILE")
        return device

    def admit(self, request: pb.JoinRequest, owner: int | None) -> pb.JoinResponse:
        """Give a device its slot.

        Raises:
            Refused: there is none for it.
        """
        asked = request.node if request.HasField("node") else None
        if owner is not None and asked is not None and asked != owner:
            raise Refused("UNAUTHENTICATED", f"the token is not that of device {asked}")
        with self._lock:
            if self._closed is not None:
                raise Refused("FAILED_PRECONDITION", self._closed)
            device = self._slot(request.profile, asked if owner is None else owner)
            self._here.add(device)
            life = self._lives[device]
            self._lives[device] += 1
        response = self._welcome(device, life)
        response.node = device
        return response

    def _slot(self, profile: str, wanted: int | None) -> int:
        if wanted is not None:
            if not 0 <= wanted < len(self._profiles):
                raise Refused("FAILED_PRECONDITION", f"device {wanted}, but there are 0 to {len(self._profiles) - 1}")
            if profile and self._profiles[wanted] != profile:
                raise Refused(
                    "FAILED_PRECONDITION",
                    f"device {wanted} of this run is a {self._profiles[wanted]}, not a {shown(profile)}",
                )
            if wanted in self._here:
                raise Refused("RESOURCE_EXHAUSTED", f"device {wanted} is here already")
            return wanted
        if profile not in self._profiles:
            raise Refused("FAILED_PRECONDITION", unknown("profile of this run", profile, set(self._profiles)))
        for device, its in enumerate(self._profiles):
            if its == profile and device not in self._here:
                return device
        raise Refused("RESOURCE_EXHAUSTED", f"all devices with profile {profile} are here already")
