"""Alarms of the fleet: rules on figures, states, and who is told.

| file | what |
| --- | --- |
| `config` | the table ``[alarms]`` of ``hub.toml`` |
| `figures` | the figures that rules watch, from the hub's database |
| `machine` | the states of an alarm (pure) |
| `storage` | alarms and notices in ``hub.db`` |
| `notification` | e-mail and webhooks |
| `monitor` | the thread that reads figures, changes alarms and sends notices |

States are those of ISA-18.2 (IEC 62682). An alarm, and the notices of its change, are written in one transaction: a
restart raises nothing twice and forgets no notice.
"""

__all__ = ["config", "machine", "notification", "storage"]
