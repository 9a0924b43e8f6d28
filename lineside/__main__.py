"""``python -m lineside``."""

from lineside.cli import main

raise SystemExit(main())
