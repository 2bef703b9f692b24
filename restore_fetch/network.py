"""What both HTTP clients need and neither owns: whom to trust, and how to say that trust failed."""

from __future__ import annotations

import base64
import ipaddress
import ssl
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

from restore_fetch.errors import ConfigurationError
from restore_fetch.redaction import remember


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """A context that verifies certificates and host names.

    Args:
        ca_file: Certificates in PEM to trust instead of the system's; None for the system's.

    Raises:
        ConfigurationError: The file cannot be read, or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except ssl.SSLError as exc:
        raise ConfigurationError(
            f"{ca_file} holds no certificate in PEM format", next_step="check --ca-file"
        ) from exc
    except OSError as exc:
        raise ConfigurationError(f"cannot read {ca_file}: {exc.strerror}", next_step="check --ca-file") from exc


def remember_proxy_passwords() -> None:
    """Learn the passwords of the environment's proxies, alone and as they are sent: a proxy may echo them."""
    for address in urllib.request.getproxies().values():
        try:
            parts = urlsplit(address if "://" in address else f"http://{address}")
        except ValueError:
            continue  # whoever has to use it says so
        if parts.password:
            user, password = unquote(parts.username or ""), unquote(parts.password)
            for secret in (
                parts.password,
                password,
                base64.b64encode(f"{user}:{password}".encode()).decode("ascii"),
            ):
                remember(secret)


def distrust(host: str, exc: BaseException | None) -> str | None:
    """Why a certificate was not believed, in words; None when that is not what went wrong.

    Args:
        host: Whose certificate it is.
        exc: The error, whose chain of causes is searched.
    """
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return f"the certificate of {host} is not trusted: {exc.verify_message}"
        seen.add(id(exc))
        exc = exc.__cause__ or exc.__context__
    return None


DISTRUST_NEXT_STEP = "if the service has its own certificate authority, name its certificate with --ca-file"


def is_loopback_host(host: str) -> bool:
    """Whether a host is, by its address, this machine, where even a secret may go over plain HTTP."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").split("%")[0]).is_loopback
    except ValueError:
        return False
