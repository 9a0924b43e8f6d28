"""The optimizer: ``python -m benchmarks optimizer``, or one as ``optimizer.text_encoder``.

Times of what is compared are taken in turn in one process, with one thread on the same frames; recipes and thresholds
see no frame that is judged on.
"""
