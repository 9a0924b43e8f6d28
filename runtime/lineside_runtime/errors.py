"""The errors that a user of lineside can meet: one tree below `LinesideError`, one code each.

::

    DeviceError   1xxx  the processor or its engine     UpdateError   5xxx  update, rollout
    InputError    2xxx  what was given to us            ConvertError  6xxx  converter, gates
    BundleError   3xxx  bundle, signature               BoardError    7xxx  in `lineside_boards.errors`
    StoreError    4xxx  store, sync                     DemoError     8001  a step of `lineside demo` did not happen

An error says what was expected, what was found and what to do next. The vendor's own exception is
kept as ``__cause__``. Codes are part of the public interface: they are never given to another class.
"""

from __future__ import annotations

import copyreg
from typing import Any, ClassVar


class LinesideError(Exception):
    """Base of all errors.

    Attributes:
        code: The number of the class; stable across releases.
        message: What went wrong.
        expected: What would have been right, or ``None`` where that is not a matter of values.
        actual: What was found instead.
        action: What the reader can do next.
    """

    code: ClassVar[int] = 0
    default_action: ClassVar[str] = ""

    def __init__(
        self,
        message: str = "",
        *,
        expected: object = None,
        actual: object = None,
        action: str | None = None,
    ) -> None:
        self.message = message
        self.expected = expected
        self.actual = actual
        self.action = self.default_action if action is None else action
        super().__init__(self._render())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the attributes, values as text; `Exception` passes its rendered text to ``__init__`` as a message."""
        values = {"expected": self.as_dict()["expected"], "actual": self.as_dict()["actual"]}
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__ | values  # type: ignore[attr-defined]

    @property
    def reason(self) -> str:
        """What went wrong, what was expected and what was found, without code and action."""
        parts = [self.message]
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.actual is not None:
            parts.append(f"got {self.actual}")
        return "; ".join(parts)

    def _render(self) -> str:
        text = f"[{self.code}] {self.reason}"
        stop = "" if text.endswith((".", "!", "?")) else "."
        return f"{text}{stop} {self.action}" if self.action else text

    def as_dict(self) -> dict[str, Any]:
        """Returns the error as it travels in JSON: its attributes, ``code`` and the class name as ``error``."""
        return {
            "code": self.code,
            "error": type(self).__name__,
            "message": self.message,
            "expected": None if self.expected is None else str(self.expected),
            "actual": None if self.actual is None else str(self.actual),
            "action": self.action,
        }


class DeviceError(LinesideError):
    """The processor or its engine failed."""

    code = 1000
    default_action = "The log has the engine's own words; `lineside devices` lists what can be used."


class OutOfDeviceMemoryError(DeviceError):
    """The device has no room for the model or the batch."""

    code = 1001
    default_action = "Use a smaller batch, or a smaller variant with reload(optimization_level=2)."


class DeviceLostError(DeviceError):
    """A device that was there answers no more."""

    code = 1002
    default_action = "Check its cable, power and driver; `lineside devices` lists what answers."


class DeviceBusyError(DeviceError):
    """Another process holds the device."""

    code = 1003
    default_action = "End the other process that uses the device, or choose another device."


class DriverMismatchError(DeviceError):
    """Driver and library do not fit together."""

    code = 1004
    default_action = "Install the pair of driver and library versions that the vendor lists together."


class NoDeviceError(DeviceError):
    """No device here can run any variant of the bundle under the given configuration."""

    code = 1005
    default_action = "Allow a fallback with Config(fallback_strategy='sequential'), or add a variant for this board."


class EngineMissingError(DeviceError):
    """An engine was asked for that is not installed."""

    code = 1006
    default_action = "Install the engine; `lineside devices` says how."


class EngineError(DeviceError):
    """The engine failed in a way that fits none of the others; its own exception is the cause."""

    code = 1007
    default_action = (
        "The log and this error's cause have the engine's own words; try another engine with Config(engines=…)."
    )


class DeadlineExceededError(DeviceError):
    """No device answered before the deadline of the call."""

    code = 1008
    default_action = "Give more time, fewer calls at once, or a faster variant with reload(optimization_level=2)."


class EngineCrashedError(DeviceError):
    """The process that an engine runs in has died."""

    code = 1009
    default_action = "The call was given to the next device; the log says how the process ended."


class OverloadedError(DeviceError):
    """More calls came at once than may wait."""

    code = 1010
    default_action = "Try again a little later, with fewer calls at once."


class PartialFallbackError(DeviceError):
    """Part of a model can't run on the device that was asked for, and would run on the CPU."""

    code = 1011
    default_action = "Take a variant made for this device, or allow it with Config(fallback_strategy='sequential')."


class InputError(LinesideError):
    """What was given to lineside is not usable."""

    code = 2000
    default_action = "Correct what the message names."


class ConfigError(InputError):
    """A configuration has an unknown key, a wrong type or a value out of range."""

    code = 2001
    default_action = "Correct what the message names; `lineside config schema` prints the keys of a configuration."


class InputNotFoundError(InputError):
    """A file or folder is not there."""

    code = 2002
    default_action = "Check the path."


class BadInputFormatError(InputError):
    """An array or an image has the wrong shape, type or layout."""

    code = 2003
    default_action = "preprocess(inputs) turns an image into what the model takes."


class MissingModelFactsError(InputError):
    """A bare model file does not say how to prepare its input or how to read its output."""

    code = 2004
    default_action = "Give its facts as arguments, or make a bundle of it, which carries them."


class UnsafeModelError(InputError):
    """Reading the file could run code from it."""

    code = 2005
    default_action = "Give a state dict or an ONNX file, or say trust=True if you made the file yourself."


class MissingExtraError(InputError):
    """A part of lineside is asked for that the installed extras do not bring."""

    code = 2006
    default_action = "Install the extra that the message names."


class UnsupportedModelError(InputError):
    """A model file of a kind or architecture that lineside does not know."""

    code = 2007
    default_action = "Export the model again in a format that the engine reads, such as ONNX, or use another engine."


class DatasetError(InputError):
    """A data folder has none of the known layouts, or its annotations are damaged."""

    code = 2008
    default_action = "Correct or add what the message names; docs/guides/train.md says what a data folder holds."


class CameraError(InputError):
    """A camera, video or folder gives no frames."""

    code = 2009
    default_action = "Check the camera's cable and address, or the path."


class UnknownHeadError(InputError):
    """Nothing tells which decoder the outputs of a model need, or they don't fit the one that is named."""

    code = 2010
    default_action = "Name the decoder in the manifest's postprocess."


class RequestError(InputError):
    """A request to the inference server breaks the protocol, or asks for what isn't there or isn't allowed.

    Attributes:
        status: The HTTP status that it is answered with; gRPC's follows from it.
    """

    code = 2011
    default_action = "Correct the request; GET /v2/models/NAME tells what the model takes."

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 400,
        expected: object = None,
        actual: object = None,
        action: str | None = None,
    ) -> None:
        self.status = status
        super().__init__(message, expected=expected, actual=actual, action=action)


class MeasurementError(InputError):
    """A part cannot be measured: an edge is not found, or the calibration is missing or for frames of another size."""

    code = 2012
    default_action = "Look at the frame with `lineside gauge measure --draw`; correct the rule, the light or the focus."


class MarkError(InputError):
    """A mark on a part cannot be read, or what it must agree with is not known."""

    code = 2013
    default_action = "Look at the frame with `lineside inspect --rules FILE --draw DIR`; correct the rule or the light."


class RecipeError(InputError):
    """A recipe is asked for that the agent's configuration doesn't name, or that can't run on this device."""

    code = 2020
    default_action = "`lineside agent recipe` lists those that there are; what ran before is still loaded."


class RegistrationError(InputError):
    """A frame can't be laid over the reference that it is to be compared with."""

    code = 2021
    default_action = "Check camera, light and part; `lineside learn-reference` makes a bundle of other good parts."


class PartNotFoundError(InputError):
    """A frame shows fewer or more parts, or places on the part, than the next model of the bundle takes."""

    code = 2022
    default_action = "Check camera, light and part; boxes_min and boxes_max of the bundle's models say how many."


class DocumentError(InputError):
    """A document can't be read: encrypted, damaged, too large, too slow, or of an unknown kind."""

    code = 2030
    default_action = "Open the file in a viewer; save it again as PDF without a password, or scan the page anew."


class BundleError(LinesideError):
    """A bundle is damaged, forged or does not fit."""

    code = 3000
    default_action = "Make or fetch the bundle again."


class BundleFormatError(BundleError):
    """The bundle's folder, archive or manifest breaks the format."""

    code = 3001
    default_action = "Make the bundle again with this version of lineside; `lineside bundle verify` says what is wrong."


class BundleIntegrityError(BundleError):
    """A file or chunk has not the hash or size that the manifest names."""

    code = 3002
    default_action = "Fetch or copy the bundle again; the damaged part is not used."


class SignatureError(BundleError):
    """Metadata is not signed by a key that the device trusts for it."""

    code = 3003
    default_action = "Sign with the key that the repository delegates to this group; nothing was installed."


class RollbackAttackError(BundleError):
    """Metadata is older than what the device has already seen."""

    code = 3004
    default_action = "Publish with a higher version; nothing was installed."


class ExpiredMetadataError(BundleError):
    """Metadata has passed its expiry, or the device's clock is wrong."""

    code = 3005
    default_action = "Check the clocks of hub and device, and that the hub renews its timestamp."


class IncompatibleBundleError(BundleError):
    """The bundle needs something that this device does not have."""

    code = 3006
    default_action = "Install what the message names, or build a variant for this device."


class TargetNotFoundError(BundleError):
    """No trusted metadata knows the wanted target."""

    code = 3007
    default_action = "Push the bundle to the device's group first."


class StoreError(LinesideError):
    """Keeping or moving records failed."""

    code = 4000
    default_action = "Check the disk and the link; what was recorded is kept."


class DatabaseError(StoreError):
    """The SQLite database cannot be read or written."""

    code = 4001
    default_action = "Check the disk, and which other process holds the file."


class DiskFullError(StoreError):
    """There is no room on the disk."""

    code = 4002
    default_action = "Free some space; nothing half-written was left, and the work goes on when there is room."

    def __init__(self, message: str = "", *, path: str = "", needed_bytes: int = 0, action: str | None = None) -> None:
        super().__init__(
            message or f"no room to write {path}",
            expected=f"{needed_bytes} free bytes" if needed_bytes else None,
            action=action,
        )


class BrokerError(StoreError):
    """The MQTT broker cannot be reached, or refuses the connection or the subscription."""

    code = 4003
    default_action = "Check the broker's address, certificate and access list; the connection is tried again."


class FetchError(StoreError):
    """The hub did not deliver what was asked for.

    Attributes:
        status: What the hub answered, such as 404; 0 if it did not answer.
    """

    code = 4004
    default_action = "Check that the hub runs; what has arrived is kept, and the fetch goes on at the next try."

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 0,
        expected: object = None,
        actual: object = None,
        action: str | None = None,
    ) -> None:
        self.status = status
        super().__init__(message, expected=expected, actual=actual, action=action)


class DeltaError(StoreError):
    """A patch is damaged, too large, or makes another file than it should."""

    code = 4010
    default_action = "Nothing need be done: the whole file is fetched instead."


class IdentityError(StoreError):
    """A device's certificate, or its request for one, is refused: not its key, a used token, a revoked name."""

    code = 4020
    default_action = "Make a new token with `lineside hub token DEVICE`, and enrol the device again."


class FrameError(StoreError):
    """A kept frame is refused by the hub: too large, not what its hash says, of no known record, or no image."""

    code = 4030
    default_action = "Nothing need be done: its record is kept. Look at the device if it happens often."


class QuotaError(StoreError):
    """A device has sent the hub all that one device may."""

    code = 4031
    default_action = "Look at what the device sends; raise results.device_max_bytes in hub.toml if that is right."


class AggregationError(StoreError):
    """A sum over several plants could not be computed, or somebody broke its protocol."""

    code = 4040
    default_action = "Nothing of a plant was shown. The message says who did not answer as agreed; start a new round."


class NotificationError(StoreError):
    """A notice of an alarm was not taken by the mail server or the program that it goes to."""

    code = 4050
    default_action = "Check [alarms] in hub.toml with `lineside hub alarms test`; notices wait for a day."


class UpdateError(LinesideError):
    """An update could not be carried out; the device runs what it ran before."""

    code = 5000
    default_action = "The log says which step failed; correct it and push again."


class GoldenMismatchError(UpdateError):
    """The new bundle gives other outputs for its golden input than its maker measured."""

    code = 5001
    default_action = "The device went back to the bundle before; build the new one again and push it."


class StagingError(UpdateError):
    """The new bundle could not be put in its slot or loaded."""

    code = 5002
    default_action = "Free some space or build the bundle for this device, and push it again."


class RolloutError(UpdateError):
    """A rollout cannot start or go on."""

    code = 5003
    default_action = "`lineside fleet` shows the devices' state; correct what the message names and start it again."


class AgentUpdateError(UpdateError):
    """The agent's own update could not be made, or the new agent was taken back."""

    code = 5004
    default_action = "The device's journal says why; correct the agent, pack it under another version and push it."


class TimingError(UpdateError):
    """A device doesn't time a bundle for the hub, or could not."""

    code = 5005
    default_action = "`lineside fleet show` says whether it is there; its log says more."


class ConvertError(LinesideError):
    """Making a smaller model failed or made a worse one."""

    code = 6000
    default_action = "Correct what the message names and run it again."


class GraphError(ConvertError):
    """The model's graph cannot be read or converted; the message names the node where it is known."""

    code = 6001
    default_action = "Export the model again with another opset, or without the operator that the message names."


class ParityGateError(ConvertError):
    """The converted model's outputs differ from the source's by more than the tolerance."""

    code = 6002
    default_action = "Take a lower optimization_level; the message names the output that differs most."


class AccuracyGateError(ConvertError):
    """The task metric drops by more than is allowed or hardly beats a constant answer, or thresholds cost more."""

    code = 6003
    default_action = "Take a lower optimization_level, calibrate with more frames, or train longer."


class SpeedGateError(ConvertError):
    """The converted model is slower than the model that it was made of, or gains too little for what it costs."""

    code = 6004
    default_action = "Take another level or engine; `lineside bench` shows what takes the time."


class CalibrationError(ConvertError):
    """There are no usable frames to calibrate on."""

    code = 6005
    default_action = "Give a folder with some hundred frames of the line."


class TrainingError(ConvertError):
    """Training cannot start, go on or end in a usable model."""

    code = 6006
    default_action = "The log says why; training goes on where it stopped."


class PruningError(ConvertError):
    """A network's channels cannot be taken out, or not enough of them."""

    code = 6007
    default_action = "Use optimization_level=1, or distil the model into a smaller network: lineside distill."


class ClusterError(ConvertError):
    """Ray can't be reached or started, or a task of it has died too often."""

    code = 6008
    default_action = "`ray status` on the head node says whether the cluster runs."


class DemoError(LinesideError):
    """A step of the demo did not happen; the logs of its processes say more."""

    code = 8001
    default_action = "Look at the logs that the message names."


def reason_of(error: BaseException) -> str:
    """Returns an error as a part of another error's message: one of lineside's without its code and action."""
    return error.reason if isinstance(error, LinesideError) else str(error)


def error_of(
    code: int, message: str, *, expected: object = None, actual: object = None, action: str | None = None
) -> LinesideError:
    """Returns an error of another process, of the class with its code; `EngineError` for a code that is not here."""
    kind = _BY_CODE.get(code, EngineError)
    error = kind.__new__(kind)  # some classes take other arguments
    LinesideError.__init__(error, message, expected=expected, actual=actual, action=action)
    return error


def shared_code(error: LinesideError) -> int:
    """Returns the code of the nearest class that every process knows: an engine may have made one of its own."""
    return next(code for kind in type(error).__mro__ for code, known in _BY_CODE.items() if known is kind)


def _tree(kind: type[LinesideError]) -> list[type[LinesideError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _tree(child))]


_BY_CODE = {kind.code: kind for kind in _tree(LinesideError)}
