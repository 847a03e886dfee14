"""When a cached answer may be served, and what may be stored."""
