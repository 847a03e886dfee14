"""What is decided and how it is served. Imports index; never the reverse."""
