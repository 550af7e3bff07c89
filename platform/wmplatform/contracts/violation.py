"""What a contract check raises."""

__all__ = ["ContractViolation"]


class ContractViolation(AssertionError):
    """A component broke a numbered law of its interface.

    Args:
        interface: name of the interface class, e.g. `EnvAdapter`.
        law: number of the law in that class's docstring.
        what: what was expected and what was seen.
    """

    def __init__(self, interface: str, law: int, what: str) -> None:
        self.interface = interface
        self.law = law
        self.what = what
        super().__init__(f"{interface} law {law}: {what}")

    def __reduce__(self) -> tuple[type["ContractViolation"], tuple[str, int, str]]:
        """Pickle by the constructor's arguments, so that a worker process can raise it."""
        return type(self), (self.interface, self.law, self.what)
