"""`python -m fedsim.cli`."""

from fedsim.cli import main

raise SystemExit(main())
