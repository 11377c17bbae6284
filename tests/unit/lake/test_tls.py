"""A certificate that Python 3.13 refuses and older Pythons take, by real handshakes."""

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from lake import tls
from tests.certificates import LOOPBACK, YEAR, Pair, _Authority


class Bare(_Authority):
    """Issues without key identifiers, as older tools did."""

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        *,
        expired: bool = False,  # noqa: ARG002
    ) -> x509.CertificateBuilder:
        now, serial = datetime.now(UTC), x509.random_serial_number()
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.public_key(key).serial_number(serial)
        return builder.not_valid_before(now - YEAR).not_valid_after(now + YEAR)


def handshake(authority: Path, pair: Pair, flags: ssl.VerifyFlags) -> str:
    """The error of a client that trusts the authority and meets a server with this certificate, or nothing."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(pair.certificate, pair.key)
    client.load_verify_locations(authority)
    client.verify_flags |= flags
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(ours, server_hostname="127.0.0.1").close()
    except ssl.SSLError as error:
        return str(error)
    finally:
        ours.close()
        thread.join()
    return ""


def test_what_only_python_313_refuses_is_named(tmp_path: Path) -> None:
    """`ssl.create_default_context`, by which redis-py connects, has VERIFY_X509_STRICT since Python 3.13."""
    authority = Bare(tmp_path, "authority")
    pair = authority.issue("server", LOOPBACK)
    assert handshake(authority.path, pair, ssl.VerifyFlags(0)) == ""
    text = handshake(authority.path, pair, ssl.VERIFY_X509_STRICT)
    assert tls.classify(text) is tls.Fault.STRICT, text
