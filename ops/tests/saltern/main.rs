//! The program `saltern` as it is built, in front of masters that are played: what it prints, to which stream, how it ends,
//! and what it does when a master is gone, frozen, or breaks off in the middle.

mod failover;
mod keys;
mod master;
mod shell;
mod tls;
mod waiting;
