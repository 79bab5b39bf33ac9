"""Who may take part in an emulation on several machines: tokens, TLS, and where a server may listen without.

A device shows its token; with TLS nobody reads it on the way, and the device knows that it talks to its server. Files
are looked at before gRPC sees them, because gRPC says little more than that a handshake has failed. Tokens and keys
never appear in messages, logs or the text of an object.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsim.emulation.access.certificates import make_certificates
from fedsim.emulation.access.secrecy import OTHERS, WORLD, create, read
from fedsim.errors import UserError

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "Tokens",
    "channel_credentials",
    "check_listening",
    "is_loopback",
    "make_certificates",
    "read_token",
    "read_tokens",
    "server_credentials",
    "write_token",
    "write_tokens",
]

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")
"""What fits into the header `authorization: Bearer …` (RFC 6750) and cannot be guessed by trying."""
_LINE: Final = re.compile(r"device-(0|[1-9][0-9]{0,8})")
_FORM: Final = "'device-N TOKEN', with a token of 16 to 512 letters, digits and -._~+/="


class Tokens:
    """Whose token is this?

    Args:
        tokens: each device's token. Only their digests are kept.
    """

    def __init__(self, tokens: Mapping[int, str]) -> None:
        self._digests = [(device, _digest(token)) for device, token in tokens.items()]

    def device_of(self, token: str) -> int | None:
        """The device whose token this is, or None; takes the same time whatever the token has in common with one."""
        shown = _digest(token)
        found = None
        for device, digest in self._digests:  # all of them: the time must not tell where it was found
            if hmac.compare_digest(digest, shown):
                found = device
        return found

    def __len__(self) -> int:
        return len(self._digests)

    def __repr__(self) -> str:
        return f"Tokens(of {len(self)} devices)"


def write_tokens(path: Path, devices: int) -> None:
    """Make the server's token file, readable by its owner only: a line `device-N TOKEN` for each device, from 0 on.

    Raises:
        UserError: the file exists or cannot be made.
    """
    lines = [f"device-{device} {secrets.token_urlsafe(32)}\n" for device in range(devices)]
    create(path, "".join(lines).encode("ascii"), "token file")


def read_tokens(path: Path) -> dict[int, str]:
    """Each device's token, from the file that `write_tokens` made. Empty lines and lines that begin with # are skipped.

    Raises:
        UserError: the file cannot be read, others can read it, or a line is wrong; the message quotes no token.
    """
    tokens: dict[int, str] = {}
    for number, words in _lines(path):
        place = f"token file {path}, line {number}"
        match words:
            case [name, token] if (named := _LINE.fullmatch(name)) and _TOKEN.fullmatch(token):
                device = int(named[1])
            case _:
                raise UserError(f"{place}: not {_FORM}; mend the line, or make the file anew")
        if device in tokens:
            raise UserError(f"{place}: a second token for device {device}; remove one of them")
        if token in tokens.values():
            raise UserError(f"{place}: device {device} has another device's token; give each its own")
        tokens[device] = token
    if not tokens:
        raise UserError(f"token file {path} has no token in it; make it anew")
    return tokens


def write_token(path: Path, token: str, device: int | None = None) -> None:
    """Make the token file of one device, readable by its owner only.

    Raises:
        UserError: the file exists or cannot be made, or this is no token.
    """
    if not _TOKEN.fullmatch(token):
        raise UserError(f"what is to go into {path} is no token; take the device's own from the server's token file")
    create(path, f"{'' if device is None else f'device-{device} '}{token}\n".encode("ascii"), "token file")


def read_token(path: Path) -> str:
    """A device's token, from a file with one line: the device's line of the server's file, or the token alone.

    Raises:
        UserError: the file cannot be read, others can read it, or it is not one such line; the message quotes no token.
    """
    lines = _lines(path)
    if len(lines) != 1:
        raise UserError(
            f"token file {path} has {len(lines)} lines, but a device's has one; copy this device's line of the "
            f"server's token file, and no other"
        )
    match lines[0][1]:
        case [token] if _TOKEN.fullmatch(token):
            return token
        case [name, token] if _LINE.fullmatch(name) and _TOKEN.fullmatch(token):
            return token
    raise UserError(f"token file {path}: neither a token nor {_FORM}; copy this device's line of the server's file")


def server_credentials(certificate: Path, key: Path, clients: Path | None = None) -> Any:
    """What a gRPC server needs for TLS (`grpc.ServerCredentials`).

    Args:
        certificate: the server's certificate, PEM, followed by intermediate ones if there are any.
        key: its private key, PEM, without a passphrase.
        clients: certificates of the authorities that sign devices' certificates; with it, a device without is refused.

    Raises:
        UserError: a file is missing, no PEM, out of date, or key and certificate do not belong together.
    """
    pair = _pair(certificate, key)
    authorities = None if clients is None else _authorities(clients, "--clients")
    import grpc

    return grpc.ssl_server_credentials(
        [pair], root_certificates=authorities, require_client_auth=authorities is not None
    )


def channel_credentials(authority: Path, certificate: Path | None = None, key: Path | None = None) -> Any:
    """What a device needs to talk to a server over TLS (`grpc.ChannelCredentials`).

    Args:
        authority: certificates of the authorities that may have signed the server's, PEM.
        certificate: the device's own certificate, for servers that ask for one.
        key: its private key.

    Raises:
        UserError: as `server_credentials`, and for a certificate without a key or the other way round.
    """
    trusted = _authorities(authority, "--authority")
    chain = private = None
    if certificate is not None and key is not None:
        private, chain = _pair(certificate, key)
    elif certificate is not None or key is not None:
        given, missing = ("--certificate", "--key") if key is None else ("--key", "--certificate")
        raise UserError(f"{given} is given without {missing}; give both or neither")
    import grpc

    return grpc.ssl_channel_credentials(root_certificates=trusted, private_key=private, certificate_chain=chain)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address: `host`, `host:port`, `[v6]:port` or a Unix socket.

    Names other than localhost are not looked up: they count as reachable from elsewhere.
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = _host(address.removeprefix("ipv4:").removeprefix("ipv6:").removeprefix("dns:"))
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        parsed = ip_address(host)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped  # is_loopback of these is not the same in all versions of Python
    return parsed.is_loopback


def check_listening(address: str, tls: bool, insecure: bool) -> None:
    """Refuse to listen where other machines can reach it, without TLS and without a word that this is meant.

    Raises:
        UserError: the address is not loopback, and there is neither.
    """
    if tls or insecure or is_loopback(address):
        return
    raise UserError(
        f"--listen {address} can be reached from other machines, who could read models and tokens on the way; give "
        f"--certificate and --key (fedsim certs makes some), listen on 127.0.0.1, or say --insecure where the network "
        f"is yours alone"
    )


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """The words of each line that says something, with the line's number."""
    try:
        text = read(path, "token file", hidden_from=OTHERS).decode("ascii")
    except UnicodeDecodeError:
        # Its context would quote the file.
        raise UserError(f"token file {path} is not plain text; make it anew") from None
    rows = enumerate(text.splitlines(), start=1)
    return [(number, line.split()) for number, line in rows if line.strip() and not line.lstrip().startswith("#")]


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address if address.count(":") > 1 else address.partition(":")[0]


def _pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """Key and certificate chain as gRPC takes them."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    chain, found = _certificates(certificate, "--certificate")
    _check_dates(found[0], f"--certificate {certificate}")
    secret = read(key, "--key", hidden_from=WORLD)
    try:
        private = load_pem_private_key(secret, password=None)
    except TypeError:  # says that a password is needed
        raise UserError(f"--key {key} is locked with a passphrase, which nobody could type; give one without") from None
    except (ValueError, UnsupportedAlgorithm):  # their texts may quote the key
        what = "holds a certificate" if b"-----BEGIN CERTIFICATE-----" in secret else "holds no private key in PEM form"
        raise UserError(f"--key {key} {what}; give the key that belongs to --certificate {certificate}") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != found[0].public_key().public_bytes(*form):
        raise UserError(
            f"--key {key} does not belong to --certificate {certificate}; give the key that the certificate was made "
            f"with (a node's own certificate comes first in its file)"
        )
    return secret, chain


def _authorities(path: Path, option: str) -> bytes:
    from cryptography import x509

    content, found = _certificates(path, option)
    for certificate in found:
        _check_dates(certificate, f"{option} {path}")
        try:
            signs = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            signs = certificate.issuer == certificate.subject  # of before version 3
        if not signs:
            raise UserError(
                f"{option} {path} has the certificate of {_subject(certificate)}, who may not sign others; give the "
                f"authority's (authority.pem of fedsim certs)"
            )
    return content


def _certificates(path: Path, option: str) -> tuple[bytes, list[x509.Certificate]]:
    from cryptography import x509

    content = read(path, option)
    try:
        return content, x509.load_pem_x509_certificates(content)
    except ValueError:
        what = "holds a private key" if b"PRIVATE KEY-----" in content else "holds no certificate in PEM form"
        raise UserError(f"{option} {path} {what}; give a file with -----BEGIN CERTIFICATE-----") from None


def _check_dates(certificate: x509.Certificate, named: str) -> None:
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        what = f"has expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; make a new one (fedsim certs)"
    elif now < certificate.not_valid_before_utc:
        what = (
            f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, and this machine's clock says "
            f"{now:%Y-%m-%d %H:%M}; set the clock"
        )
    else:
        return
    raise UserError(f"{named} {what}")


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()[:100] or "nobody in particular"
