"""Certificates and keys of a deployment on one machine, made anew for each run.

The authority's private key never leaves this process's memory. The other keys lie in a folder that only this user may
enter, in files that only this user may read.
"""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from simulations.private import write_private

VALID = timedelta(days=30)  # longer than any run
SKEW = timedelta(hours=1)  # a clock may go back


@dataclass(frozen=True)
class ServerFiles:
    """A server's files for TLS, as paths: the certificate of the authority, its own certificate and private key."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class NodeFiles:
    """A SuperNode's key pair, as paths; the public key is listed at the SuperLink."""

    key: Path
    public: Path


def make_server(folder: Path, host: str) -> ServerFiles:
    """Make an authority, and a certificate that it signs for `host`, an IP address, and for localhost.

    folder: created where it is missing, for this user alone.
    """
    files = ServerFiles(folder / "ca.crt", folder / "superlink.crt", folder / "superlink.key")
    signer, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ours, names = _name("laser-fl authority"), [x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")]
    authority = (
        _certificate(ours, ours, signer)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    server = (
        _certificate(_name("laser-fl SuperLink"), ours, key, signer)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    write_private(files.authority, authority.sign(signer, SHA256()).public_bytes(Encoding.PEM))
    write_private(files.certificate, server.sign(signer, SHA256()).public_bytes(Encoding.PEM))
    write_private(files.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def make_node(folder: Path, name: str) -> NodeFiles:
    """Make a key pair for a SuperNode, in OpenSSH's format, on a curve that Flower accepts.

    folder: created where it is missing, for this user alone. name: of the files.
    """
    files = NodeFiles(folder / name, folder / f"{name}.pub")
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(files.key, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    write_private(files.public, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return files


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey | None = None,
) -> x509.CertificateBuilder:
    """Build a certificate: names, validity, and both keys' identifiers, by which verifiers find the signer."""
    signed_by = (signer or key).public_key()
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - SKEW)
        .not_valid_after(datetime.now(UTC) + VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by), critical=False)
    )


def _usage(signs: bool) -> x509.KeyUsage:
    """Return the key's only use: an authority signs certificates, a server signs handshakes."""
    return x509.KeyUsage(
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
