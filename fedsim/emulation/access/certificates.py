"""Certificates for an emulation of one's own: an authority, a server's and one that devices share.

For a laboratory. The authority's key is not kept, so that nothing else can ever be signed in its name; when the
certificates run out, all three are made anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsim.emulation.access.secrecy import create
from fedsim.errors import UserError, shown

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

LONGEST: Final = 3650
"""Days that certificates may last."""
_EARLY: Final = timedelta(hours=1)
"""How far the clocks of boards may be behind."""
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)


@dataclass(frozen=True)
class Certificates:
    """Where they are. Keys are readable by their owner only."""

    authority: Path
    """For devices (`--authority`), and for a server that asks for devices' certificates (`--clients`)."""
    server: Path
    server_key: Path
    device: Path
    device_key: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return self.authority, self.server, self.server_key, self.device, self.device_key

    def document(self) -> dict[str, str]:
        """The paths by name, for programs."""
        return {name: str(path) for name, path in asdict(self).items()}


def make_certificates(folder: Path, names: Sequence[str], days: int = 30, *, force: bool = False) -> Certificates:
    """Make an authority, a server's certificate in its name, and one for devices, with their keys (ECDSA, P-256).

    Args:
        folder: where to; made if it is not there.
        names: what devices call the server: names and IP addresses, without a port.
        days: how long they are good for.
        force: replace those that are there.

    Raises:
        UserError: some are there already, a name is wrong, `days` is not 1 to 3650, or a file cannot be written.
    """
    if not 1 <= days <= LONGEST:
        raise UserError(f"{days} days for certificates; give 1 to {LONGEST}")
    if not names:
        raise UserError("no name for the server's certificate; give what devices connect to, a name or an IP address")
    subjects = [_name(name) for name in dict.fromkeys(names)]
    made = Certificates(
        *(folder / f"{name}.pem" for name in ("authority", "server", "server-key", "device", "device-key"))
    )
    _make_room(folder, made, force=force)
    for path, content in zip(made.paths, _contents(subjects, timedelta(days=days)), strict=True):
        secret = path in (made.server_key, made.device_key)
        create(path, content, "key file" if secret else "certificate", mode=0o600 if secret else 0o644)
    return made


def _make_room(folder: Path, made: Certificates, *, force: bool) -> None:
    there = [path for path in made.paths if path.exists() or path.is_symlink()]
    if there and not force:
        raise UserError(
            f"{there[0]} is there already, and devices that trust it would not trust new ones; choose another folder, "
            f"or say --force to replace {'all of them' if len(there) > 1 else 'it'}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in there:
            path.unlink()
    except (OSError, ValueError) as reason:
        why = (reason.strerror if isinstance(reason, OSError) else None) or str(reason)
        raise UserError(f"certificates cannot be put into {folder}: {why}; choose another folder") from reason


def _contents(subjects: list[x509.GeneralName], lasting: timedelta) -> tuple[bytes, ...]:
    """Authority, server, its key, device, its key, in PEM form."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID

    root, server, device = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    until = datetime.now(UTC).replace(microsecond=0) + lasting
    authority = _signed("fedsim development authority", root, None, root, until, [])
    names = [x509.SubjectAlternativeName(subjects), x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])]
    of_server = _signed("fedsim server", server, authority, root, until, names)
    of_device = _signed(
        "fedsim device", device, authority, root, until, [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])]
    )
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (
        authority.public_bytes(Encoding.PEM),
        of_server.public_bytes(Encoding.PEM),
        server.private_bytes(*form),
        of_device.public_bytes(Encoding.PEM),
        device.private_bytes(*form),
    )


def _signed(
    name: str,
    key: EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: EllipticCurvePrivateKey,
    until: datetime,
    extensions: Sequence[x509.ExtensionType],
) -> x509.Certificate:
    """A certificate; without an issuer it is an authority, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signs = issuer is None
    usage = x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _EARLY)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=signs, path_length=0 if signs else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(text: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    labels = text.removeprefix("*.").split(".")
    if len(text) <= 253 and all(_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit():
        return x509.DNSName(text)
    way_out = (
        "give it without the port" if re.search(r":[0-9]+$", text) else "give one such as server.local or 10.0.0.2"
    )
    raise UserError(f"{shown(text)} is neither a host name nor an IP address; {way_out}")
