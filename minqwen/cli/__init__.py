"""The `minqwen` command."""
