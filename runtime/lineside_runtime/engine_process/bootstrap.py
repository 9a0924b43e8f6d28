"""Entry script of the child process: makes this package importable there, and nothing else of the parent's.

The interpreter may be another one than the parent's, with other versions of everything: the parent's site-packages
must not come in. So only ``lineside_runtime`` itself is put into ``sys.modules``, from the folder that this file lies
in; parent and child then always run the same source. Standard library only, and old enough syntax to say so where
Python is too old.
"""

import importlib.util
import os
import sys

CANNOT_START = 78
"""Exit status (``EX_CONFIG`` of sysexits.h) where this Python can't run the child at all."""


def main() -> None:
    """Becomes the child; the arguments are two descriptors (control socket, life line)."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  runs in any Python
    sys.path[:] = [entry for entry in sys.path if entry != here]
    try:
        if sys.version_info < (3, 10):  # noqa: UP036  the interpreter is the user's
            raise ImportError("Python 3.10 or newer is needed, this is " + sys.version.split()[0])
        folder = os.path.dirname(here)  # noqa: PTH120
        spec = importlib.util.spec_from_file_location(
            "lineside_runtime",
            os.path.join(folder, "__init__.py"),  # noqa: PTH118
            submodule_search_locations=[folder],
        )
        if spec is None or spec.loader is None:
            raise ImportError("no lineside_runtime in " + folder)
        package = importlib.util.module_from_spec(spec)
        sys.modules["lineside_runtime"] = package
        spec.loader.exec_module(package)
        from lineside_runtime.engine_process.child import serve
    except ImportError as error:
        sys.stderr.write(str(error) + "\n")
        sys.exit(CANNOT_START)
    serve(control=int(sys.argv[1]), life=int(sys.argv[2]))


if __name__ == "__main__":
    main()
