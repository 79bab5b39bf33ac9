"""`python -m fedsim.cli`."""

from fedsim.cli.app import main

raise SystemExit(main())
