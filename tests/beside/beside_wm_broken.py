"""A module that cannot be imported."""

raise RuntimeError("not on this machine")
