"""What is expected of every model for a prompt, and which of them to call."""
