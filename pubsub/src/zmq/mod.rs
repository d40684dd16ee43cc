//! ZeroMQ behind the gate.
