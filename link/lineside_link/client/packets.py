"""Format of a PUBLISH of QoS 0 (MQTT 3.1.1, sections 2.2 and 3.3). Pure.

paho implements all other packets. These carry the chunks; paho would copy each four times when sending and three times
when receiving.
"""

from __future__ import annotations

PUBLISH_KIND = 0x30
"""First byte of a PUBLISH of QoS 0 that is not retained."""

REMAINING_MAX_BYTES = (1 << 28) - 1
"""The largest packet of MQTT, without its fixed header."""

_LENGTH_BYTES = 4


def publish_head(topic: bytes, payload_bytes: int) -> bytes:
    """Returns the packet up to its payload.

    Args:
        topic: UTF-8, without wildcards.
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
    """Reads the fixed header of a packet.

    Args:
        data: The received bytes from the start of the packet on.

    Returns:
        Its first byte, the size of its fixed header, and the number of bytes behind that; ``None`` if not enough has
        been received. A length of more than four bytes, which MQTT forbids, is read as one of four, and paho refuses
        the packet.
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
    """Splits a PUBLISH of QoS 0 behind its fixed header into topic and payload.

    Args:
        packet: Becomes the payload without a copy.
    """
    end = 2 + int.from_bytes(packet[:2], "big")
    if len(packet) < end:
        raise ValueError(f"a PUBLISH of {len(packet)} bytes has a topic that ends at {end}")
    topic = packet[2:end].decode()
    del packet[:end]  # moves the start and leaves the bytes where they are
    return topic, packet
