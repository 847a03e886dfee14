"""What is known and how it is found: encoder, vectors, generations, store. No gRPC, no asyncio, no environment."""
