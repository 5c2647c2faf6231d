"""The operator's page, on the ops port: what goes on in all processes, live, and the circuits by hand."""
