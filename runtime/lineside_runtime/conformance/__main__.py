from __future__ import annotations

import sys

from lineside_runtime.conformance.command import main

if __name__ == "__main__":
    sys.exit(main())
