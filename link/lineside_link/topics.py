"""The topic tree under ``ls/v1/<site>``, in one place for both ends.

| topic | QoS, retained | content |
| --- | --- | --- |
| ``g/<group>/desired``, ``d/<device>/desired`` | 1, retained | `messages.Desired` |
| ``d/<device>/reported`` | 1, retained | `messages.Reported` |
| ``d/<device>/up`` | 1, retained | `messages.Up`; the last will says ``up: false`` |
| ``repo/get/<device>`` | 0 | `messages.RepoRequest` |
| ``d/<device>/repo/rsp`` | 0 | `messages.RepoResponse` header, newline, bytes |
| ``chunk/<target>/<sha256>`` | 0 | a multicast chunk; ``end`` instead of the hash is last |
| ``d/<device>/res`` | 1 | `messages.Results` |
| ``d/<device>/res/ack`` | 1, retained | `messages.ResultsAck` |
| ``d/<device>/interactions`` | 1 | `messages.InteractionRows` |
| ``d/<device>/interactions/ack`` | 1, retained | `messages.ResultsAck` |
| ``d/<device>/frame`` | 0 | `messages.FramePiece` header, newline, bytes |
| ``d/<device>/frame/ack`` | 0 | `messages.FrameAnswer` |
| ``d/<device>/cmd/recipe`` | 0 | `messages.RecipeCommand` |
| ``d/<device>/cmd/recipe/ack`` | 0 | `messages.RecipeAnswer` |
| ``d/<device>/cmd/time`` | 0 | `messages.TimeCommand` |
| ``d/<device>/cmd/time/ack`` | 0 | `messages.TimeAnswer` |
| ``d/<device>/cmd/log`` | 0 | `messages.LogCommand` |
| ``d/<device>/cmd/log/ack`` | 0 | `messages.LogAnswer` |
| ``d/<device>/csr`` | 1 | `messages.CertificateRequest` |
| ``d/<device>/cert`` | 1, retained | `messages.CertificateAnswer` |
| ``alarms/<device>`` | 1, retained | `messages.DeviceAlarms` |
| ``pool/plan/<plant>`` | 1 | the signed plan of a round of `aggregation` |
| ``pool/training`` | 1, retained | `messages.BundleRef` of the federated training's round, or that it is over |
| ``pool/round/<round>/to/<plant>``, ``pool/round/<round>/from/<plant>`` | 1 | the messages of that round |
| ``pool/round/<round>/peer/<from>/<to>`` | 1 | encrypted messages of a comparison between two plants |
"""

from __future__ import annotations

import dataclasses

from lineside_runtime import bundle
from lineside_runtime.errors import ConfigError

NAME = bundle.NAME
"""Pattern of names of sites, groups, devices, bundles and versions: safe in topics, files, X.509 names and ACLs."""


def check_name(name: str, what: str) -> str:
    """Returns ``name`` if it can stand in a topic.

    Args:
        name: Name of a site, group, device, bundle or version.
        what: What it names, for the message.

    Raises:
        ConfigError: It is empty, too long, or has a character that topics, files or certificates treat specially.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{what} name {name!r}",
            expected="1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit",
            action="Choose another name.",
        )
    return name


@dataclasses.dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one site."""

    site: str

    def __post_init__(self) -> None:
        check_name(self.site, "site")

    @property
    def prefix(self) -> str:
        """``ls/v1/<site>``."""
        return f"ls/v1/{self.site}"

    def group_desired(self, group: str) -> str:
        """Desired state of a group."""
        return f"{self.prefix}/g/{group}/desired"

    def device_desired(self, device: str) -> str:
        """Desired state of one device, before that of its group."""
        return f"{self.prefix}/d/{device}/desired"

    def reported(self, device: str) -> str:
        """Reported state of a device."""
        return f"{self.prefix}/d/{device}/reported"

    def up(self, device: str) -> str:
        """Birth and last will of a device."""
        return f"{self.prefix}/d/{device}/up"

    def repo_get(self, device: str) -> str:
        """Requests of a device to the repository."""
        return f"{self.prefix}/repo/get/{device}"

    def repo_response(self, device: str) -> str:
        """The repository's answers to a device."""
        return f"{self.prefix}/d/{device}/repo/rsp"

    def chunk(self, target: str, name: str) -> str:
        """A multicast chunk of a target.

        Args:
            target: ``<group>/<name>-<version>.json``.
            name: sha256 of the chunk, ``end``, or ``+`` for all of them.
        """
        return f"{self.prefix}/chunk/{target}/{name}"

    def group_chunks(self, group: str) -> str:
        """Filter of all multicast chunks of a group."""
        return f"{self.prefix}/chunk/{group}/#"

    def results(self, device: str) -> str:
        """Results of a device."""
        return f"{self.prefix}/d/{device}/res"

    def results_ack(self, device: str) -> str:
        """The hub's watermark of a device's results."""
        return f"{self.prefix}/d/{device}/res/ack"

    def interactions(self, device: str) -> str:
        """Interactions of a device that recommends."""
        return f"{self.prefix}/d/{device}/interactions"

    def interactions_ack(self, device: str) -> str:
        """The hub's watermark of a device's interactions."""
        return f"{self.prefix}/d/{device}/interactions/ack"

    def frame(self, device: str) -> str:
        """Kept frames of a device, piece by piece."""
        return f"{self.prefix}/d/{device}/frame"

    def frame_ack(self, device: str) -> str:
        """The hub's answers to pieces of frames."""
        return f"{self.prefix}/d/{device}/frame/ack"

    def recipe_command(self, device: str) -> str:
        """Command to change to another recipe."""
        return f"{self.prefix}/d/{device}/cmd/recipe"

    def recipe_answer(self, device: str) -> str:
        """Answer to a change of recipe."""
        return f"{self.prefix}/d/{device}/cmd/recipe/ack"

    def time_command(self, device: str) -> str:
        """Command to time a bundle."""
        return f"{self.prefix}/d/{device}/cmd/time"

    def time_answer(self, device: str) -> str:
        """Progress and outcome of a timing."""
        return f"{self.prefix}/d/{device}/cmd/time/ack"

    def log_command(self, device: str) -> str:
        """Command to send the newest lines of the log."""
        return f"{self.prefix}/d/{device}/cmd/log"

    def log_answer(self, device: str) -> str:
        """The newest lines of a device's log."""
        return f"{self.prefix}/d/{device}/cmd/log/ack"

    def certificate_request(self, device: str) -> str:
        """A device's requests for a certificate."""
        return f"{self.prefix}/d/{device}/csr"

    def certificate(self, device: str) -> str:
        """Answers to requests for a certificate."""
        return f"{self.prefix}/d/{device}/cert"

    def alarms(self, device: str) -> str:
        """Open alarms of a device."""
        return f"{self.prefix}/alarms/{device}"

    def device_of(self, topic: str) -> str:
        """Returns the device that a topic belongs to, or an empty string.

        Args:
            topic: Such as ``ls/v1/plant-1/d/cam-07/res`` or ``ls/v1/plant-1/repo/get/cam-07``.
        """
        rest = topic.removeprefix(self.prefix + "/").split("/")
        if rest[0] == "d" and len(rest) > 2:
            return rest[1]
        return rest[2] if rest[:2] == ["repo", "get"] and len(rest) == 3 else ""

    def pool_plan(self, plant: str) -> str:
        """Plan of a round that a plant is asked to take part in."""
        return f"{self.prefix}/pool/plan/{plant}"

    @property
    def pool_training(self) -> str:
        """The present round of a federated training."""
        return f"{self.prefix}/pool/training"

    def pool_message(self, round_name: str, plant: str) -> str:
        """Messages of a round to a plant."""
        return f"{self.prefix}/pool/round/{round_name}/to/{plant}"

    def pool_answer(self, round_name: str, plant: str) -> str:
        """Messages of a round from a plant; ``+`` for all plants."""
        return f"{self.prefix}/pool/round/{round_name}/from/{plant}"

    def pool_peer(self, round_name: str, sender: str, receiver: str) -> str:
        """Messages of a round from one plant to another."""
        return f"{self.prefix}/pool/round/{round_name}/peer/{sender}/{receiver}"
