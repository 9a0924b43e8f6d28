"""``agent.toml``: the configuration of the agent, read into strict structs.

::

    device = "cam-07"
    group  = "line-1"
    folder = "state"              # relative paths start at this file
    root   = "root.json"          # the TUF root that was put on the device by hand

    [link]
    url  = "mqtt://10.0.0.5"
    site = "plant-1"

    [camera]
    type = "folder"
    path = "frames"
    rate_hz = 10.0

    [store]
    keep_images = "bad"

    [[line_io]]
    type = "serial"
    port = "/dev/ttyUSB0"

An unknown key is an error that names its path, such as ``$.camera.fps``.
"""

from __future__ import annotations

from lineside_agent.config.agent_config import AgentConfig
from lineside_agent.config.cameras import (
    AravisCameraConfig,
    CameraConfig,
    FolderCameraConfig,
    NoCameraConfig,
    Picamera2CameraConfig,
    PluginCameraConfig,
    RtspCameraConfig,
    SimulatorCameraConfig,
    V4l2CameraConfig,
    VideoCameraConfig,
)
from lineside_agent.config.checks import check_recipes
from lineside_agent.config.line_io import (
    GpioLineConfig,
    Input,
    Level,
    LineConfig,
    ModbusRtuClientConfig,
    ModbusRtuServerConfig,
    ModbusTcpClientConfig,
    ModbusTcpServerConfig,
    MqttLineConfig,
    PluginLineConfig,
    SerialLineConfig,
)
from lineside_agent.config.overrides import (
    camera_of,
    check_several,
    inspect_of,
    model_inspect,
    model_rule_path,
    rule_path,
    rules_of,
)
from lineside_agent.config.placement import engine_settings
from lineside_agent.config.reader import parse_camera, parse_config, read_config
from lineside_agent.config.settings import (
    SETTABLE,
    SETTINGS_MAX_BYTES,
    Settings,
    load_inspect,
    load_rules,
    read_settings,
    with_settings,
)
from lineside_agent.config.tables import (
    DegradeConfig,
    DocumentsConfig,
    DriftConfig,
    GateConfig,
    InspectConfig,
    MetricsConfig,
    RecipeCamera,
    RecipeConfig,
    RecipeGate,
    RecipeTrigger,
    RecommendConfig,
    ScreenConfig,
    StoreConfig,
    TransferConfig,
    TriggerConfig,
    UpdateConfig,
)

__all__ = [
    "SETTABLE",
    "SETTINGS_MAX_BYTES",
    "AgentConfig",
    "AravisCameraConfig",
    "CameraConfig",
    "DegradeConfig",
    "DocumentsConfig",
    "DriftConfig",
    "FolderCameraConfig",
    "GateConfig",
    "GpioLineConfig",
    "Input",
    "InspectConfig",
    "Level",
    "LineConfig",
    "MetricsConfig",
    "ModbusRtuClientConfig",
    "ModbusRtuServerConfig",
    "ModbusTcpClientConfig",
    "ModbusTcpServerConfig",
    "MqttLineConfig",
    "NoCameraConfig",
    "Picamera2CameraConfig",
    "PluginCameraConfig",
    "PluginLineConfig",
    "RecipeCamera",
    "RecipeConfig",
    "RecipeGate",
    "RecipeTrigger",
    "RecommendConfig",
    "RtspCameraConfig",
    "ScreenConfig",
    "SerialLineConfig",
    "Settings",
    "SimulatorCameraConfig",
    "StoreConfig",
    "TransferConfig",
    "TriggerConfig",
    "UpdateConfig",
    "V4l2CameraConfig",
    "VideoCameraConfig",
    "camera_of",
    "check_recipes",
    "check_several",
    "engine_settings",
    "inspect_of",
    "load_inspect",
    "load_rules",
    "model_inspect",
    "model_rule_path",
    "parse_camera",
    "parse_config",
    "read_config",
    "read_settings",
    "rule_path",
    "rules_of",
    "with_settings",
]
