"""Tables of figures in the Markdown pages, rendered from the result files: ``python -m benchmarks.figures``.

A page holds a block between two markers, each on a line of its own::

    <!-- figures: split -->
    <!-- end figures -->

The name is that of a renderer, one function a table, in `benchmarks.figures.components`.
"""
