"""`python -m minqwen` is `minqwen`."""

import sys

from .cli.commands import main

sys.exit(main())
