//! Sealing of fan-out frames and of secrets at rest.
