"""Does the error budget hold, and how much is answered within it? Streams through the service, and rivals."""
