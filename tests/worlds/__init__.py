"""Test environments made of small parts: an agent, a hub, a site, a fleet in a hub's database.

| module | what |
| --- | --- |
| ``bundles`` | small bundles: of a model whose detections are known beforehand, and of bytes that no engine runs |
| ``agent`` | an agent's configuration, its pictures and its process |
| ``hub`` | a hub's repository, its configuration and its process |
| ``site`` | broker, hub and agent together, on a broker without TLS or with it |
| ``secure_site`` | broker with mutual TLS and hub, made with the commands that an integrator gives |
| ``fleet`` | devices as rows of a hub's database, which answer what the hub desires |
| ``plc`` | the PLC of ``tests/peers/plc.py`` as a process |

Brokers, proxies, databases and child processes are in `tests.peers`.
"""
