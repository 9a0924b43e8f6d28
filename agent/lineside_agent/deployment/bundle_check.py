"""Check that a bundle has what ``[inspect]`` names: before a configuration is pushed or an agent takes over."""

from __future__ import annotations

import functools

from lineside_agent.config import InspectConfig, RecipeConfig, check_several, rule_path
from lineside_models.verdict.decision import VerdictPolicy
from lineside_models.verdict.rules import check_types
from lineside_runtime.bundle import Manifest
from lineside_runtime.serving.candidates import variant_named


def check_names(
    inspect: InspectConfig, manifest: Manifest, *, recipe: RecipeConfig | None = None, whole: bool = False
) -> None:
    """Checks that a bundle has the models, the variant and the types that ``[inspect]`` names.

    Args:
        recipe: Whose settings `inspect_of` has merged.
        whole: Whether this is the whole table of a device, so that its bands of doubt are compared with thresholds.

    Raises:
        ConfigError: It has not; the message names the path.
    """
    if manifest.several:
        check_several(inspect, manifest, recipe=recipe)
        return
    where = functools.partial(rule_path, recipe=recipe)
    if inspect.variant:
        variant_named(manifest, inspect.variant, where=where("variant"))
    if manifest.preprocess.rows or manifest.preprocess.text:
        return
    if whole:
        VerdictPolicy(manifest, inspect, where=where)
    else:
        check_types(inspect, manifest.labels, where=where)
