"""onnx's own backend node tests, run through our session and through the bare engines.

::

    python -m tests.conformance.onnx_node        runs everything and writes docs/figures/onnx-node-tests.md
"""
