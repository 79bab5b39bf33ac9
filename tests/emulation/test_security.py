"""Tokens, TLS and where a server may listen: what is made, what is refused, and that no secret is ever said."""

from __future__ import annotations

import hmac
import os
import pickle
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from fedsim.emulation.access import certificates, security
from fedsim.emulation.access.certificates import Certificates
from fedsim.emulation.access.security import (
    Tokens,
    channel_credentials,
    check_listening,
    is_loopback,
    make_certificates,
    read_token,
    read_tokens,
    server_credentials,
    write_token,
    write_tokens,
)
from fedsim.errors import UserError

TOKEN = "tokentokentokentoken"


def mode(path: Path) -> int:
    """Its permissions."""
    return stat.S_IMODE(path.stat().st_mode)


def secret_file(path: Path, text: str, permissions: int = 0o600) -> Path:
    """A file with these permissions."""
    path.write_text(text)
    path.chmod(permissions)
    return path


# Tokens


def test_tokens_are_one_a_device_and_for_the_owner_only(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask, all different, long enough, and read back as written."""
    path = tmp_path / "tokens"
    before = os.umask(0)
    try:
        write_tokens(path, 12)
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    tokens = read_tokens(path)
    assert list(tokens) == list(range(12))
    assert len(set(tokens.values())) == 12
    assert all(len(token) == 43 for token in tokens.values())
    assert path.read_text().splitlines()[3] == f"device-3 {tokens[3]}"


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    """Neither a file nor what a link points to."""
    path = secret_file(tmp_path / "tokens", "mine")
    with pytest.raises(UserError, match="already exists; remove it first"):
        write_tokens(path, 2)
    assert path.read_text() == "mine"
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="already exists"):
        write_tokens(tmp_path / "link", 2)
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(UserError, match="cannot be made: No such file or directory"):
        write_tokens(tmp_path / "nowhere" / "tokens", 2)


@pytest.mark.parametrize(
    ("permissions", "who"), [(0o640, "its group"), (0o604, "everybody"), (0o620, "its group"), (0o666, "everybody")]
)
def test_a_token_file_that_others_can_reach_is_refused(tmp_path: Path, permissions: int, who: str) -> None:
    """At the server and at a device, with the command that mends it."""
    path = secret_file(tmp_path / "tokens", f"device-0 {TOKEN}\n", permissions)
    for read in (read_tokens, read_token):
        with pytest.raises(UserError, match=rf"open to {who} \(mode 0{permissions:o}\).*chmod 600") as refused:
            read(path)
        assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no token in it"),
        ("# nothing\n\n", "has no token in it"),
        (f"device-0 {TOKEN}\n{TOKEN}\n", "line 2: not 'device-N TOKEN'"),
        (f"{TOKEN} device-0\n", "line 1: not 'device-N TOKEN'"),
        ("device-0 secretshort\n", "line 1: not 'device-N TOKEN'"),
        (f"device--1 {TOKEN}\n", "line 1: not 'device-N TOKEN'"),
        (f"device-01 {TOKEN}\n", "line 1: not 'device-N TOKEN'"),
        (f"device-0 {TOKEN} x\n", "line 1: not 'device-N TOKEN'"),
        (f"device-0 {TOKEN}\ndevice-0 {TOKEN}2\n", "line 2: a second token for device 0"),
        (f"device-0 {TOKEN}\n#\ndevice-1 {TOKEN}\n", "line 3: device 1 has another device's token"),
        (f"device-0 {TOKEN}\u00e4\n", "is not plain text"),
    ],
)
def test_wrong_token_files(tmp_path: Path, text: str, message: str) -> None:
    """The line and the rule, and never what stands there; nor does the exception carry it on."""
    path = secret_file(tmp_path / "tokens", text)
    with pytest.raises(UserError, match=message) as refused:
        read_tokens(path)
    assert TOKEN not in str(refused.value)
    assert "secretshort" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_what_is_no_file(tmp_path: Path) -> None:
    """A folder, a pipe, nothing at all, something endless: refused at once."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UserError, match="pipe is no file"):
        read_tokens(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"is no file|Is a directory"):
        read_tokens(tmp_path)
    with pytest.raises(UserError, match="cannot be read: No such file or directory; check the path"):
        read_token(tmp_path / "nothing")
    with pytest.raises(UserError, match="has more than 1048576 bytes"):
        read_tokens(secret_file(tmp_path / "much", "#" * (1 << 21)))


@pytest.mark.parametrize("device", [None, 4])
def test_a_devices_own_file(tmp_path: Path, device: int | None) -> None:
    """The token alone, or the line of the server's file; for the owner only."""
    path = tmp_path / "token"
    write_token(path, TOKEN, device)
    assert mode(path) == 0o600
    assert read_token(path) == TOKEN


def test_a_devices_file_holds_one_token(tmp_path: Path) -> None:
    """The whole of the server's file on a board would give away the others' tokens."""
    write_tokens(tmp_path / "tokens", 2)
    with pytest.raises(UserError, match="has 2 lines, but a device's has one"):
        read_token(tmp_path / "tokens")
    with pytest.raises(UserError, match="neither a token nor 'device-N TOKEN'") as refused:
        read_token(secret_file(tmp_path / "odd", "device-1 secret\n"))
    assert "secret" not in str(refused.value)
    with pytest.raises(UserError, match="is no token") as refused:
        write_token(tmp_path / "new", "secret words")
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "new").exists()


def test_whose_token_it_is() -> None:
    """The device that has it; None for anything else, of any length and in any alphabet."""
    tokens = Tokens({0: TOKEN, 7: TOKEN + "x"})
    assert tokens.device_of(TOKEN) == 0
    assert tokens.device_of(TOKEN + "x") == 7
    for wrong in ("", TOKEN[:-1], TOKEN + "y", TOKEN + " ", TOKEN.upper(), "\u00fc", "\ud800", "x" * 100_000):
        assert tokens.device_of(wrong) is None
    assert Tokens({}).device_of("") is None


def test_every_token_is_compared_wherever_the_match_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many comparisons for the first, the last and none; all by `compare_digest`, all of one length."""
    lengths: list[tuple[int, int]] = []

    def counted(one: bytes, other: bytes) -> bool:
        lengths.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    class Counting:
        compare_digest = staticmethod(counted)

    monkeypatch.setattr(security, "hmac", Counting)
    tokens = Tokens({device: f"{TOKEN}{device}" for device in range(5)})
    for shown in (f"{TOKEN}0", f"{TOKEN}4", "x"):
        lengths.clear()
        tokens.device_of(shown)
        assert lengths == [(32, 32)] * 5


def test_tokens_do_not_tell() -> None:
    """Neither as text, nor looked into, nor sent to another process."""
    tokens = Tokens({0: TOKEN})
    assert f"{tokens}{tokens!r}" == "Tokens(of 1 devices)" * 2
    assert TOKEN not in str(vars(tokens))
    kept = pickle.dumps(tokens)
    assert TOKEN.encode() not in kept
    assert pickle.loads(kept).device_of(TOKEN) == 0


# Where to listen


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:50051", True),
        ("127.8.9.10:0", True),
        ("localhost:1", True),
        ("LOCALHOST.", True),
        ("[::1]:50051", True),
        ("::1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("unix:/tmp/x", True),
        ("0.0.0.0:50051", False),
        ("[::]:50051", False),
        ("::", False),
        (":50051", False),
        ("", False),
        ("*:50051", False),
        ("192.168.1.2:1", False),
        ("[::ffff:10.0.0.1]:1", False),
        ("127.0.0.1.example.org:1", False),
        ("localhost.example.org:1", False),
        ("server:1", False),
        ("2130706433:1", False),
    ],
)
def test_what_only_this_machine_can_reach(address: str, expected: bool) -> None:
    """Loopback of both kinds, mapped ones, localhost and sockets; what is not sure to be, is not."""
    assert is_loopback(address) is expected


def test_listening_elsewhere_takes_tls_or_a_word() -> None:
    """Loopback is always fine."""
    check_listening("127.0.0.1:1", tls=False, insecure=False)
    check_listening("0.0.0.0:1", tls=True, insecure=False)
    check_listening("0.0.0.0:1", tls=False, insecure=True)
    with pytest.raises(UserError, match=r"--listen 0\.0\.0\.0:1 can be reached.*--certificate and --key.*--insecure"):
        check_listening("0.0.0.0:1", tls=False, insecure=False)


# Certificates


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """For a server on this machine."""
    return make_certificates(tmp_path_factory.mktemp("made") / "certs", ["localhost", "127.0.0.1", "::1"])


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Somebody else's."""
    return make_certificates(tmp_path_factory.mktemp("foreign"), ["localhost"])


@pytest.fixture(scope="module")
def expired(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of a year ago, for a day."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "datetime", _Past)
        return make_certificates(tmp_path_factory.mktemp("expired"), ["localhost"], days=1)


class _Past(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> _Past:
        past = datetime.now(tz) - timedelta(days=365)
        return cls.fromtimestamp(past.timestamp(), tz)


@contextmanager
def server(credentials: Any) -> Iterator[str]:
    """A gRPC server on this machine that says `hello` to everybody whom its credentials let in."""
    answer = grpc.unary_unary_rpc_method_handler(lambda request, context: b"hello")
    serving = grpc.server(ThreadPoolExecutor(2))
    serving.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", {"Ask": answer}),))
    port = serving.add_secure_port("127.0.0.1:0", credentials)
    serving.start()
    try:
        yield f"localhost:{port}"
    finally:
        serving.stop(0).wait()


def ask(address: str, credentials: Any) -> bytes:
    """What the server says.

    Raises:
        grpc.RpcError: nothing, within two seconds.
    """
    with grpc.secure_channel(address, credentials, options=[("grpc.enable_http_proxy", 0)]) as channel:
        said: bytes = channel.unary_unary("/t/Ask")(b"", timeout=2)
        return said


@pytest.mark.slow
def test_what_is_made_works_with_grpc(made: Certificates, foreign: Certificates) -> None:
    """A device that trusts the authority gets in; one that trusts another authority does not."""
    with server(server_credentials(made.server, made.server_key)) as address:
        assert ask(address, channel_credentials(made.authority)) == b"hello"
        assert ask(address.replace("localhost", "127.0.0.1"), channel_credentials(made.authority)) == b"hello"
        with pytest.raises(grpc.RpcError):
            ask(address, channel_credentials(foreign.authority))


@pytest.mark.slow
def test_mutual_tls(made: Certificates, foreign: Certificates) -> None:
    """With `clients`, a device needs a certificate of that authority: none, and another's, are not enough."""
    with server(server_credentials(made.server, made.server_key, made.authority)) as address:
        assert ask(address, channel_credentials(made.authority, made.device, made.device_key)) == b"hello"
        for given in ((), (foreign.device, foreign.device_key)):
            with pytest.raises(grpc.RpcError):
                ask(address, channel_credentials(made.authority, *given))


def test_what_the_certificates_say(made: Certificates) -> None:
    """Names, dates, what each may be used for; keys for the owner only, and none of the authority's."""
    assert {path.name for path in made.authority.parent.iterdir()} == {path.name for path in made.paths}
    assert mode(made.server_key) == mode(made.device_key) == 0o600
    server, authority = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (made.server, made.authority))
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    server.verify_directly_issued_by(authority)
    left = server.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)


def test_certificates_are_not_replaced_unasked(tmp_path: Path) -> None:
    """Nothing is touched without `force`; with it all are new, and a key that was open to others is closed."""
    first = make_certificates(tmp_path, ["a"])
    before = [path.read_bytes() for path in first.paths]
    with pytest.raises(UserError, match=r"authority\.pem is there already.*--force to replace all of them"):
        make_certificates(tmp_path, ["a"])
    assert [path.read_bytes() for path in first.paths] == before
    first.server_key.chmod(0o644)
    second = make_certificates(tmp_path, ["a"], force=True)
    assert all(path.read_bytes() != old for path, old in zip(second.paths, before, strict=True))
    assert mode(second.server_key) == 0o600


@pytest.mark.parametrize(
    ("names", "days", "message"),
    [
        ([], 1, "no name for the server's certificate"),
        (["a"], 0, "0 days for certificates; give 1 to 3650"),
        (["a"], 3651, "3651 days for certificates"),
        ([""], 1, "'' is neither a host name nor an IP address"),
        (["a b"], 1, "'a b' is neither"),
        (["server:50051"], 1, "'server:50051' is neither a host name nor an IP address; give it without the port"),
        (["10.0.0.256"], 1, r"'10\.0\.0\.256' is neither"),
        (["-a.b"], 1, "'-a.b' is neither"),
        (["m\u00fcller"], 1, "is neither a host name"),
    ],
)
def test_certificates_for_what_cannot_be(tmp_path: Path, names: list[str], days: int, message: str) -> None:
    """Refused before anything is made."""
    with pytest.raises(UserError, match=message):
        make_certificates(tmp_path / "new", names, days)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    """A file in its place."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"certificates cannot be put into .*choose another folder"):
        make_certificates(tmp_path / "file" / "x", ["a"])


def test_keys_and_certificates_that_do_not_fit(made: Certificates, foreign: Certificates, tmp_path: Path) -> None:
    """Another key, files swapped, none, no PEM, a passphrase, a key for all to read: said before gRPC sees them."""
    junk = secret_file(tmp_path / "junk.pem", "junk")
    key = load_pem_private_key(made.server_key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    locked.chmod(0o600)
    loose = secret_file(tmp_path / "loose.pem", made.server_key.read_text(), 0o644)
    cases = [
        (made.server, foreign.server_key, "--key .* does not belong to --certificate"),
        (made.server_key, made.server, "--certificate .* holds a private key"),
        (made.server, made.server, "open to everybody|holds a certificate"),
        (made.server, junk, "--key .*junk.pem holds no private key in PEM form"),
        (junk, made.server_key, "--certificate .*junk.pem holds no certificate in PEM form"),
        (tmp_path / "no", made.server_key, "--certificate .*no cannot be read: No such file or directory"),
        (made.server, tmp_path / "no", "--key .*no cannot be read"),
        (made.server, locked, "is locked with a passphrase"),
        (made.server, loose, r"is open to everybody \(mode 0644\)"),
    ]
    for certificate, private, message in cases:
        with pytest.raises(UserError, match=message) as refused:
            server_credentials(certificate, private)
        assert made.server_key.read_text().splitlines()[1] not in str(refused.value)
        with pytest.raises(UserError, match=message):
            channel_credentials(made.authority, certificate, private)


def test_authorities_that_are_none(made: Certificates, tmp_path: Path) -> None:
    """A server's certificate in the place of the authority's, and half a pair."""
    for use in (channel_credentials, lambda path: server_credentials(made.server, made.server_key, path)):
        with pytest.raises(UserError, match=r"CN=fedsim server, who may not sign others"):
            use(made.server)
        with pytest.raises(UserError, match="cannot be read"):
            use(tmp_path / "no")
    with pytest.raises(UserError, match="--certificate is given without --key"):
        channel_credentials(made.authority, certificate=made.device)
    with pytest.raises(UserError, match="--key is given without --certificate"):
        channel_credentials(made.authority, key=made.device_key)


def test_certificates_out_of_date(made: Certificates, expired: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expired ones say when; not yet valid ones ask for the clock."""
    with pytest.raises(UserError, match=r"--certificate .* has expired on 20\d\d-\d\d-\d\d \d\d:\d\d UTC; make a new"):
        server_credentials(expired.server, expired.server_key)
    with pytest.raises(UserError, match=r"--authority .* has expired"):
        channel_credentials(expired.authority)
    with pytest.raises(UserError, match=r"--clients .* has expired"):
        server_credentials(made.server, made.server_key, expired.authority)
    monkeypatch.setattr(security, "datetime", _Past)
    with pytest.raises(UserError, match=r"--authority .* is not valid before .* this machine's clock says .*set the"):
        channel_credentials(made.authority)
