"""A small certificate authority for the exporter simulator and for tests: names -> PEM files that TLS programs read.

Elliptic curve keys (P-256), made in a millisecond; private keys are files of mode 0600. Certificates that must be
refused are made here too: expired, self-signed, of another name. Never for real exporters: the authority's key lies
beside what it signs, and whoever reads the folder can pretend to be anybody.
"""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from billing_pipeline.errors import BillingError

# What a simulator on this machine is called.
LOCAL_NAMES = ("localhost", "127.0.0.1")
OTHER_NAMES = ("another-exporter.invalid",)

_DAY = timedelta(days=1)
_KEY_MODE = 0o600
_FOLDER_MODE = 0o700


class CertificateFolderError(BillingError):
    """The folder for certificates cannot be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """Two PEM files that belong together: a certificate and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterCertificates:
    """What a simulator and those who ask it need. `authority` is the one certificate to trust.

    `server` and `client` are good; `expired`, `self_signed` and `wrong_name` are server certificates to be refused.
    """

    authority: Path
    server: KeyPair
    client: KeyPair
    expired: KeyPair
    self_signed: KeyPair
    wrong_name: KeyPair


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signer:
    name: x509.Name
    key: ec.EllipticCurvePrivateKey


def make_certificates(
    folder: Path, *, now: datetime, names: Sequence[str] = LOCAL_NAMES, valid_days: int = 30
) -> ExporterCertificates:
    """Write an authority and what it signs into `folder` (created, mode 0700), over what lies there.

    `names`: host names and addresses of the server. `now`: aware; certificates are valid from an hour before it.

    Raises:
        CertificateFolderError: the folder or a file in it cannot be written.
    """
    now = now.astimezone(UTC)
    valid = (now - timedelta(hours=1), now + valid_days * _DAY)
    over = (now - 2 * _DAY, now - _DAY)
    try:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        authority, signer = _authority(folder, valid=(now - 2 * _DAY, valid[1]))
        return ExporterCertificates(
            authority=authority,
            server=_server(folder / "server", names, signer, valid=valid),
            client=_client(folder / "client", signer, valid=valid),
            expired=_server(folder / "expired", names, signer, valid=over),
            self_signed=_server(folder / "self-signed", names, None, valid=valid),
            wrong_name=_server(folder / "wrong-name", OTHER_NAMES, signer, valid=valid),
        )
    except OSError as error:
        raise CertificateFolderError(
            f"certificates cannot be written to {folder}: {error.strerror or error}",
            bill="nothing was read or booked",
            fix="name a folder that this user may write",
        ) from error


def _authority(folder: Path, *, valid: tuple[datetime, datetime]) -> tuple[Path, _Signer]:
    signer = _Signer(name=_name("exporter simulator authority"), key=ec.generate_private_key(ec.SECP256R1()))
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    request = (
        _request(signer.name, signer.key, valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    pair = _write(folder / "authority", _signed(request, signer), signer.key)
    return pair.certificate, signer


def _server(path: Path, names: Sequence[str], signer: _Signer | None, *, valid: tuple[datetime, datetime]) -> KeyPair:
    """Write a server certificate for `names`; without a signer it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(names[0])
    request = _leaf(_request(subject, key, valid), ExtendedKeyUsageOID.SERVER_AUTH).add_extension(
        x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False
    )
    return _write(path, _signed(request, signer or _Signer(name=subject, key=key)), key)


def _client(path: Path, signer: _Signer, *, valid: tuple[datetime, datetime]) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    request = _leaf(_request(_name("billing pipeline"), key, valid), ExtendedKeyUsageOID.CLIENT_AUTH)
    return _write(path, _signed(request, signer), key)


def _request(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, valid: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _leaf(request: x509.CertificateBuilder, purpose: x509.ObjectIdentifier) -> x509.CertificateBuilder:
    return request.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True).add_extension(
        x509.ExtendedKeyUsage([purpose]), critical=False
    )


def _signed(request: x509.CertificateBuilder, signer: _Signer) -> x509.Certificate:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
    return request.issuer_name(signer.name).add_extension(issuer, critical=False).sign(signer.key, hashes.SHA256())


def _write(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    pair = KeyPair(certificate=path.with_suffix(".pem"), key=path.with_suffix(".key"))
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    # Never readable by others, not even before a chmod.
    pair.key.unlink(missing_ok=True)
    with os.fdopen(os.open(pair.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _KEY_MODE), "wb") as target:
        target.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return pair


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
