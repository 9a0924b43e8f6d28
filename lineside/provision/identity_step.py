"""Who a board is: issued by the hub and carried there, or asked for by the board itself with a token.

An identity that is there and fits stays: a command that is given again makes no second certificate.
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
from lineside_boards.payload import CONFIGURATION, PayloadIdentity
from lineside_boards.provision.shell import Shell
from lineside_boards.provision.steps import ProvisionStep
from lineside_runtime.errors import InputNotFoundError, ProvisionError

HOME = f"/{CONFIGURATION}"
ENROLL_S = 120

_LOOK = f"""
cd {HOME} 2>/dev/null || {{ echo "no identity"; exit 0; }}
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
    """Where the identity comes from.

    Attributes:
        device: Whose it is.
        authority: The authority's certificate in PEM; empty for a broker without TLS.
        known: Whether whoever issues it counts this device among his.
        identify: Issues it, to be carried to the board; ``None`` if the board asks for it itself.
        token: The file with the token for that.
        broker: Its URL as the board reaches it.
    """

    device: str
    authority: bytes
    known: Callable[[], bool]
    identify: Callable[[], PayloadIdentity] | None
    token: Path | None
    broker: str


def issuer(options: argparse.Namespace, tree: AgentTree) -> Issuer:
    """Returns where the identity comes from.

    Args:
        options: Of the command, as `AgentTree.of` has checked them.
        tree: What goes onto the board.
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
    """Returns the step after which the board has its identity."""
    return ProvisionStep(
        name=f"the board is {issuer.device} at {issuer.broker}",
        look=lambda shell: _look(shell, issuer),
        do=lambda shell: _do(shell, issuer),
    )


def _look(shell: Shell, issuer: Issuer) -> str:
    if not issuer.authority:
        return "" if shell.digest(f"{HOME}/root.json") else "no root of trust"
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
    return "" if issuer.known() else "an identity that the hub doesn't know any more"


def _do(shell: Shell, issuer: Issuer) -> None:
    shell.ask(f"cd {HOME} 2>/dev/null && [ -e cert.pem ] && mv -f cert.pem cert.pem.before; true", root=True)
    if issuer.identify is None:
        _enroll_there(shell, issuer)
        return
    made = issuer.identify()
    files = {"root.json": made.root, "ca.pem": made.ca, "key.pem": made.key, "cert.pem": made.certificate}
    for name, path in files.items():
        if path is not None:
            shell.write(f"{HOME}/{name}", path.read_bytes(), mode=0o640 if name == "key.pem" else 0o644)


def _enroll_there(shell: Shell, issuer: Issuer) -> None:
    """The board makes its own key, which never leaves it."""
    if issuer.token is None:
        raise ProvisionError("the board is to ask for its identity, and there is no token", expected="--token FILE")
    place = f"{HOME}/.token"
    shell.write(place, issuer.token.read_bytes(), mode=0o600)
    answer = shell.run(
        f"/{COMMAND} agent enroll --token-file {place} --out {HOME} --hub {shlex.quote(issuer.broker)} "
        f"--timeout {ENROLL_S}; r=$?; rm -f {place}; exit $r",
        root=True,
        timeout_s=ENROLL_S + 60,
    )
    if answer.code:
        raise ProvisionError(
            f"{issuer.device} didn't get its certificate: {' | '.join(answer.text.strip().splitlines()[-3:])}",
            action="Does the hub run, and was its broker sent SIGHUP after `lineside hub token`? Then run this again.",
        )
