"""Reference pages that are rendered from the code, and checks of all pages.

A page holds a block between two markers, each on a line of its own::

    <!-- generated: errors -->
    <!-- end generated -->

``python -m tests.docs`` renders every block, ``python -m tests.docs --check`` fails if a page differs.
"""
