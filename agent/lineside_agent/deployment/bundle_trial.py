"""Try a bundle in a process of its own before the agent's process loads it: its engine may hang or crash.

python -m lineside_agent.deployment.bundle_trial FOLDER INSPECT DEGRADE
"""

from __future__ import annotations

import contextlib
import logging
import sys

import msgspec

from lineside_agent.config import DegradeConfig, InspectConfig
from lineside_agent.deployment.child_process import FAILED, lower_priority, run_in_child
from lineside_agent.deployment.runner import ShouldStop
from lineside_agent.inspection.loaded_bundle import load
from lineside_models.frame import Frame
from lineside_models.golden import read_png, replay
from lineside_models.inspector import Inspector
from lineside_runtime.bundle import Bundle, open_bundle, sample_inputs
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import LinesideError
from lineside_runtime.session import Session

log = logging.getLogger("lineside.update")


def try_bundle(bundle: Bundle, inspect: InspectConfig, degrade: DegradeConfig | None, should_stop: ShouldStop) -> None:
    """Loads a bundle and runs it once, in a process of its own within ``trial_timeout_s``.

    An error that the engine or the bundle raises there is left to the agent's own process, which meets it again.

    Raises:
        EngineError: It did not end in time.
        EngineCrashedError: The process died.
        FetchStopped: The agent stops.
    """
    inspect = msgspec.structs.replace(inspect, cache=None)  # a cached result would prove nothing
    degrade = None if degrade is None else msgspec.structs.replace(degrade, system=None)
    settings = [msgspec.json.encode(table).decode() for table in (inspect, degrade)]
    result = run_in_child(
        "lineside_agent.deployment.bundle_trial",
        [str(bundle.path), *settings],
        what=f"the trial of {bundle.manifest.identity}",
        timeout_s=inspect.trial_timeout_s,
        should_stop=should_stop,
    )
    if result.failure:
        log.warning("the trial of %s: %s", bundle.manifest.identity, result.failure)


def _run_once(session: Session, bundle: Bundle) -> None:
    """Runs the golden frame; noise where there is none, of which an error says nothing: only whether it ends."""
    golden = bundle.manifest.golden
    how = bundle.manifest.preprocess
    if golden is not None and (how.rows or how.text):
        replay(session, bundle)
        return
    if golden is not None:
        Inspector(session).inspect(Frame(image=read_png(bundle.file(golden.frame))))
        return
    with contextlib.suppress(LinesideError):
        session.predict(sample_inputs(bundle.manifest))


def main() -> int:
    """Tries the bundle of the command line."""
    folder, inspect, degrade = sys.argv[1:]
    try:
        bundle = open_bundle(folder, verify=False)
        rules = decode_json(inspect, type=InspectConfig)
        if rules.objective or any(one.get("objective") for one in rules.models.values()):
            lower_priority()  # measuring placements takes seconds of all cores
        loaded = load("a", bundle, rules, degrade=decode_json(degrade, type=DegradeConfig | None))
        for model in loaded.models:
            _run_once(model.session, model.bundle)
        if loaded.fast is not None:
            _run_once(loaded.fast.session, bundle)
        loaded.close()
    except LinesideError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
