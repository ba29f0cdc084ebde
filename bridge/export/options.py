"""What the user may choose of an export."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What writers may be told.

    name: of the model, as servers call it.
    instances: of the model on each GPU of a server. dynamic_batching: a server may put the rows of several requests
    into one run of the engine. warm_up: a server runs the engine with its tuned shapes before the model is ready.
    """

    name: str = "model"
    instances: int = 1
    dynamic_batching: bool = False
    warm_up: bool = False
