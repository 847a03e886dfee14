"""What is known and how it is found: encoder, vectors, generations, store. No gRPC, no asyncio, no environment."""

from pathlib import Path
from typing import Final

DEFAULT_ENCODER: Final = Path(__file__).resolve().parents[1] / "encoders" / "all-MiniLM-L6-v2"
"""The folder of the encoder that comes with Waypost."""
