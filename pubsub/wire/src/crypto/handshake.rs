//! The Noise handshake of a session.
