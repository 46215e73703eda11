"""`python -m minqwen` is `minqwen`."""

import sys

from .cli import main

sys.exit(main())
