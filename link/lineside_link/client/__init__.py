"""The MQTT client of both ends."""
