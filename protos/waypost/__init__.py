"""The contract of Waypost, generated from the .proto files beside it."""
