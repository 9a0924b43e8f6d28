"""The Open Inference Protocol, version 2: REST and gRPC, as KServe and Triton speak it, and Prometheus' metrics.

::

    rest.py ── rest_codec.py ─┐
                              ├─ calls.py ── service.py ── repository.py ── Session
    grpc_.py ── proto/ ───────┘               │  limits.py   who may run, who is refused
    access.py  who may call                   └─ metrics.py  what is counted
    process.py  start, ready, stop            wire.py  tensors to arrays and back

Needs ``pip install 'lineside[serve]'``.
"""
