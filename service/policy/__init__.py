"""What is decided beyond the estimates: rules, weights, sessions, experiments, exploration, health; one module each."""
