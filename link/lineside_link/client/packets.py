"""How a PUBLISH of QoS 0 looks on the wire (MQTT 3.1.1, sections 2.2 and 3.3): pure.

Everything else of the protocol is paho's. These packets carry the chunks and are the only ones that come by the
thousand; paho copies each four times on its way out and three times on its way in.
"""

from __future__ import annotations

PUBLISH_KIND = 0x30
"""First byte of a PUBLISH of QoS 0 that the broker had not kept (retained)."""

REMAINING_MAX_BYTES = (1 << 28) - 1
"""The largest packet of MQTT, without its fixed header."""

_LENGTH_BYTES = 4


def publish_head(topic: bytes, payload_bytes: int) -> bytes:
    """Returns what stands before the payload.

    Args:
        topic: UTF-8, without wildcards.

    Raises:
        ValueError: MQTT cannot carry that.
    """
    remaining = 2 + len(topic) + payload_bytes
    if remaining > REMAINING_MAX_BYTES or not 0 < len(topic) < 1 << 16:
        raise ValueError(f"a message of {payload_bytes} bytes on a topic of {len(topic)} does not fit into MQTT")
    head = bytearray((PUBLISH_KIND,))
    while True:
        digit, remaining = remaining & 0x7F, remaining >> 7
        head.append(digit | 0x80 if remaining else digit)
        if not remaining:
            break
    return bytes(head) + len(topic).to_bytes(2, "big") + topic


def fixed_header(data: memoryview) -> tuple[int, int, int] | None:
    """Reads the start of a packet.

    Args:
        data: What has arrived of it, and perhaps of those behind it.

    Returns:
        Its first byte, the size of its fixed header, and how many bytes follow that; ``None`` if not enough of it has
        arrived to tell. A length of more than four bytes, which MQTT doesn't allow, reads as one of four: paho, which
        sees the packet then, refuses it.
    """
    remaining = 0
    for index in range(_LENGTH_BYTES):
        if len(data) < index + 2:
            return None
        digit = data[index + 1]
        remaining |= (digit & 0x7F) << (7 * index)
        if digit < 0x80 or index == _LENGTH_BYTES - 1:
            break
    return data[0], index + 2, remaining


def split_publish(packet: bytearray) -> tuple[str, bytearray]:
    """Splits what follows the fixed header of a PUBLISH of QoS 0.

    Args:
        packet: It becomes the payload; nothing is copied.

    Returns:
        Topic and payload.

    Raises:
        ValueError: The topic is longer than the packet, or is no UTF-8 (a ``UnicodeDecodeError``).
    """
    end = 2 + int.from_bytes(packet[:2], "big")
    if len(packet) < end:
        raise ValueError(f"a PUBLISH of {len(packet)} bytes has a topic that ends at {end}")
    topic = packet[2:end].decode()
    del packet[:end]  # moves the start and leaves the bytes where they are
    return topic, packet
