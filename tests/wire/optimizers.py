"""What a collection's optimizers do, seen from outside: the states of a collection, in the order of a real server.

Nothing here depends on a clock: states change when somebody looks at the collection.
"""

from collections.abc import Callable

from qdrant_client.http import models as m


class Optimizers:
    """The optimizers of one collection; the collection's lock guards them."""

    def __init__(self) -> None:
        """Start without work. They can be made `late`, `busy` (always some work is left) or fail (`failure`)."""
        self.late = 0
        self.busy = False
        self.failure: str | None = None
        self._due = self._announced = self._paused = False
        self._early = 0

    def restarted(self) -> None:
        """Wait for a change, as a server does after its start, so that it cannot fail again and again."""
        self._paused = self._due

    def changed(self, *, due: bool) -> None:
        """Note a change of points or configuration, and whether there is work now.

        They begin `late` looks after that: until then the collection still looks green.
        """
        self._paused = False
        if due and not self._due:
            self._announced, self._early = False, self.late
        self._due = due

    def look(self, work: Callable[[], object]) -> m.CollectionStatus:
        """Return the status that somebody sees who looks now.

        Work is announced once, as yellow; at the next look it is done first.
        """
        if self.failure is not None:
            return m.CollectionStatus.RED
        if not self._due:
            return m.CollectionStatus.GREEN
        if self._paused:
            return m.CollectionStatus.GREY
        if self._early:
            self._early -= 1
            return m.CollectionStatus.GREEN
        if not self._announced:
            self._announced = True
            return m.CollectionStatus.YELLOW
        work()
        self._due = self.busy
        return m.CollectionStatus.YELLOW if self.busy else m.CollectionStatus.GREEN

    @property
    def status(self) -> m.OptimizersStatusOneOf | m.OptimizersStatusOneOf1:
        """The state of the optimizers themselves."""
        if self.failure is None:
            return m.OptimizersStatusOneOf.OK
        return m.OptimizersStatusOneOf1(error=self.failure)
