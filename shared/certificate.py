"""TLS contexts for links: a certificate that carries the node's libp2p identity, and its check.

The extension is the one of the libp2p TLS specification (https://github.com/libp2p/specs/blob/master/tls/tls.md).
There is no authority, and dates are ignored: what counts is that the node's key signed the certificate's key.
"""

from __future__ import annotations

import ssl
import tempfile
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from shared.errors import BadIdentity
from shared.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, parse_public_key, peer_id
from shared.types import PeerId

_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
_LABEL = b"libp2p-tls-handshake:"
# DER of SEQUENCE { OCTET STRING publicKey, OCTET STRING signature }, whose lengths are fixed for ed25519
_HEAD = bytes((0x30, 4 + PUBLIC_KEY_BYTES + SIGNATURE_BYTES, 0x04, PUBLIC_KEY_BYTES))
_MIDDLE = bytes((0x04, SIGNATURE_BYTES))


def server_context(identity: Identity) -> tuple[ssl.SSLContext, bytes]:
    """A TLS 1.3 context with a fresh certificate of this node, and the certificate's DER form."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(identity, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.NamedTemporaryFile() as file:  # the ssl module reads certificates from files only
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.write(certificate.public_bytes(Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)
    return context, certificate.public_bytes(Encoding.DER)


def client_context() -> ssl.SSLContext:
    """A TLS 1.3 context that takes any certificate: `peer_of` checks it before a byte is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def peer_of(der: bytes) -> PeerId:
    """The peer ID that a certificate proves. Raises BadIdentity."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        extension = certificate.extensions.get_extension_for_oid(_EXTENSION).value
        signed = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception as error:  # foreign bytes meet the library's parser, which raises a dozen kinds
        raise BadIdentity("the certificate carries no libp2p identity") from error
    value = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    key_end = len(_HEAD) + PUBLIC_KEY_BYTES
    layout = (value[: len(_HEAD)], value[key_end : key_end + len(_MIDDLE)], len(value))
    if layout != (_HEAD, _MIDDLE, key_end + len(_MIDDLE) + SIGNATURE_BYTES):
        raise BadIdentity("the certificate's libp2p extension is not one of an ed25519 identity")
    key = parse_public_key(value[len(_HEAD) : key_end])
    try:
        key.verify(value[-SIGNATURE_BYTES:], _LABEL + signed)
    except InvalidSignature as error:
        raise BadIdentity("the certificate is not signed by the identity that it names") from error
    return peer_id(key)


def _certificate(identity: Identity, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    value = _HEAD + identity.public_key + _MIDDLE + identity.sign(_LABEL, spki)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "corolla")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=36500))
        .add_extension(x509.UnrecognizedExtension(_EXTENSION, value), critical=False)
        .sign(key, SHA256())
    )
