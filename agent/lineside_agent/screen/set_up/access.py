"""What the set-up views may use of the agent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from lineside_agent.cameras.reader import Reader
from lineside_agent.deployment.artifacts.configuration import FollowedConfiguration
from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.local_request import LocalRequests
from lineside_agent.deployment.machine import BundleMachine
from lineside_agent.inspection.recipes import Recipes


@dataclasses.dataclass(frozen=True, slots=True)
class SetUpAccess:
    """What the set-up views may use of the agent.

    Attributes:
        readers: One a camera, in the order of the configuration.
        machine: Returns where the deployment of the bundle stands, as it is reported to the hub.
        deploy: Hands a desired state over to the deployment machines.
    """

    readers: Sequence[Reader]
    configuration: FollowedConfiguration
    recipes: Recipes
    requests: LocalRequests
    machine: Callable[[], BundleMachine]
    deploy: Callable[[DesiredChanged], None]
