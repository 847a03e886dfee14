"""What can go wrong with the data that decisions are made from.

    WaypostError
    ├── InputError            a file or value a person wrote: names place and remedy
    │   ├── CatalogueError    models.toml
    │   └── ReferenceError_   references and what is imported into them
    ├── EncoderError          the encoder's artefact or its export
    ├── GenerationError       a built index that is damaged, foreign or missing
    └── StoreError            the record of answers and references
        ├── StoreDamagedError the file is not a sound Waypost store
        ├── StoreHeldError    another process has it open
        └── StoreFullError    the disk would not take the write

gRPC codes are given to these in one table at the edge (service/errors.py).
"""


class WaypostError(Exception):
    """Base of all errors Waypost raises on purpose; the text is for the person who must act."""


class InputError(WaypostError):
    """A file or value that a person wrote is wrong; the text names place, field and remedy."""


class CatalogueError(InputError):
    """The catalogue (models.toml) is wrong."""


class ReferenceError_(InputError):  # noqa: N801, N818 - ReferenceError is Python's own, about weak references
    """A reference, or a row that should become one, is wrong."""


class EncoderError(WaypostError):
    """The encoder's artefact is damaged, missing or of another kind, or cannot be exported."""


class GenerationError(WaypostError):
    """A generation is damaged, incomplete, foreign or missing; it is never served."""


class StoreError(WaypostError):
    """The store could not do what was asked; what was acknowledged before is safe."""


class StoreDamagedError(StoreError):
    """The file is damaged, or not a store of this program."""


class StoreHeldError(StoreError):
    """Another process has the store open; it belongs to one at a time."""


class StoreFullError(StoreError):
    """The disk is full or read-only: the write did not happen."""
