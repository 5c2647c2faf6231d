"""The whole engine in one thread on virtual time: one seed decides everything that happens around it."""
