"""What callers are charged for: tokens as they are used, by key, day and model."""

from __future__ import annotations

from gateway.api.caller import Caller
from gateway.api.limits import Allowances
from gateway.store.usage import Ledger, Used


class Charges:
    """Where callers are charged for what they use: against their allowance, and in the ledger."""

    def __init__(self, allowances: Allowances, ledger: Ledger) -> None:
        self._allowances = allowances
        self._ledger = ledger

    def begun(self, caller: Caller, model: str, prompt_tokens: int) -> None:
        """The swarm has room for a request, and begins to read its prompt."""
        self._allowances.of(caller).use(prompt_tokens)
        self._ledger.note(caller.id, model, Used(requests=1, prompt_tokens=prompt_tokens))

    def made(self, caller: Caller, model: str, tokens: int) -> None:
        """So many more tokens of its answer are made."""
        self._allowances.of(caller).use(tokens)
        self._ledger.note(caller.id, model, Used(completion_tokens=tokens))


class Charge:
    """What one request is charged with, once it has named a model."""

    def __init__(self, charges: Charges, caller: Caller) -> None:
        self._charges = charges
        self._caller = caller
        self._begun = False
        self.model = ""
        self.prompt_tokens = 0

    def begun(self) -> None:
        """The swarm has room for it: its prompt is charged, once."""
        if not self._begun:
            self._begun = True
            self._charges.begun(self._caller, self.model, self.prompt_tokens)

    def made(self, tokens: int) -> None:
        """So many more tokens of its answer are made."""
        self._charges.made(self._caller, self.model, tokens)
