"""The step that gives a board its identity: issued by the hub and copied, or requested by the board with a token.

A valid identity stays: a repeated command makes no second certificate.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path

from lineside.provision.agent_tree import AgentTree
from lineside_agent.hub_client.identity import read_token
from lineside_agent.service.install import COMMAND
from lineside_boards.agent_files import CONFIGURATION, IdentityFiles
from lineside_boards.errors import ProvisionError
from lineside_boards.provision.shell import Shell
from lineside_boards.provision.steps import ProvisionStep
from lineside_runtime.errors import InputNotFoundError

FOLDER = f"/{CONFIGURATION}"
ENROLL_S = 120

_LOOK = f"""
cd {FOLDER} 2>/dev/null || {{ echo "no identity"; exit 0; }}
[ -s cert.pem ] && [ -s key.pem ] && [ -s ca.pem ] && [ -s root.json ] || {{ echo "no identity"; exit 0; }}
/usr/bin/python3 -I - <<'END' || exit 0
import ssl
try:
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain("cert.pem", "key.pem")
except (OSError, ValueError):
    print("a key that isn't its certificate's"); raise SystemExit(1)
END
cat cert.pem ca.pem
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Source of the identity.

    Attributes:
        authority: The authority's certificate in PEM; empty for a broker without TLS.
        known: Whether the issuer has enrolled this device.
        identify: Issues the identity; ``None`` if the board requests it.
        token: File with the token for that request.
        broker: URL of the broker as the board reaches it.
    """

    device: str
    authority: bytes
    known: Callable[[], bool]
    identify: Callable[[], IdentityFiles] | None
    token: Path | None
    broker: str


def issuer(options: argparse.Namespace, tree: AgentTree) -> Issuer:
    """Returns the source of the identity.

    Args:
        options: Of the command, checked by `AgentTree.of`.
    """
    device, broker = tree.agent.device, tree.agent.url
    secure = broker.startswith("mqtts:")
    if options.token is not None:
        token = read_token(options.token)
        return Issuer(
            device=device,
            authority=token.ca.encode() if secure else b"",
            known=lambda: True,
            identify=None,
            token=options.token,
            broker=broker,
        )
    if options.identity is not None:
        authority, known = _authority(options.identity / "ca.pem") if secure else b"", lambda: True
    else:
        folder = Path(options.hub) / "identity"
        authority = _authority(folder / "ca.pem") if secure else b""

        def known() -> bool:
            from lineside_hub.identity.authority import enrolled_devices

            return enrolled_devices(folder).get(device) == tree.agent.group

    return Issuer(device=device, authority=authority, known=known, identify=tree.identify, token=None, broker=broker)


def _authority(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}", action="`lineside hub secure` makes it.") from error


def step(issuer: Issuer) -> ProvisionStep:
    """Returns the step that gives the board its identity."""
    return ProvisionStep(
        name=f"the board is {issuer.device} at {issuer.broker}",
        look=lambda shell: _look(shell, issuer),
        do=lambda shell: _do(shell, issuer),
    )


def _look(shell: Shell, issuer: Issuer) -> str:
    if not issuer.authority:
        return "" if shell.digest(f"{FOLDER}/root.json") else "no root of trust"
    text = shell.ask(_LOOK, root=True)
    if "BEGIN CERTIFICATE" not in text:
        return text.strip()
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        own, authority = x509.load_pem_x509_certificates(text.encode())[:2]
    except ValueError:
        return "a damaged certificate"
    name = [str(part.value) for part in own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if name != [issuer.device]:
        return f"the identity of {', '.join(name)}"
    if authority != x509.load_pem_x509_certificate(issuer.authority):
        return "an identity of another authority"
    return "" if issuer.known() else "an identity that the hub no longer knows"


def _do(shell: Shell, issuer: Issuer) -> None:
    shell.ask(f"cd {FOLDER} 2>/dev/null && [ -e cert.pem ] && mv -f cert.pem cert.pem.before; true", root=True)
    if issuer.identify is None:
        _enroll_there(shell, issuer)
        return
    made = issuer.identify()
    files = {"root.json": made.root, "ca.pem": made.ca, "key.pem": made.key, "cert.pem": made.certificate}
    for name, path in files.items():
        if path is not None:
            shell.write(f"{FOLDER}/{name}", path.read_bytes(), mode=0o640 if name == "key.pem" else 0o644)


def _enroll_there(shell: Shell, issuer: Issuer) -> None:
    """The board makes its key, which never leaves it."""
    if issuer.token is None:
        raise ProvisionError("the board is to ask for its identity, and there is no token", expected="--token FILE")
    place = f"{FOLDER}/.token"
    shell.write(place, issuer.token.read_bytes(), mode=0o600)
    answer = shell.run(
        f"/{COMMAND} agent enroll --token-file {place} --out {FOLDER} --hub {shlex.quote(issuer.broker)} "
        f"--timeout {ENROLL_S}; r=$?; rm -f {place}; exit $r",
        root=True,
        timeout_s=ENROLL_S + 60,
    )
    if answer.code:
        raise ProvisionError(
            f"{issuer.device} didn't get its certificate: {' | '.join(answer.text.strip().splitlines()[-3:])}",
            action="Does the hub run, and was its broker sent SIGHUP after `lineside hub token`? Then run this again.",
        )
