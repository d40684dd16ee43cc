//! Values of the configuration that are checked when they are read, so that an error knows its line.

use saltern_wire::io::Address;
use saltern_wire::limits::NAME_BYTES_MAX;
use serde::{Deserialize, Deserializer};
use std::net::IpAddr;

/// Declares a text that is parsed while it is deserialised.
macro_rules! parsed {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(pub $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

parsed! {
    /// The name of a master, region or zone: 1 to 64 characters of `a-z 0-9 . _ -`.
    Name(String)
}

parsed! {
    /// An IP address to listen on.
    Interface(IpAddr)
}

parsed! {
    /// A host name or IP address without a port.
    Host(String)
}

parsed! {
    /// A host name or IP address, with a port or without.
    Reach((String, Option<u16>))
}

impl Reach {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(Host(host)) = Host::parse(text) {
            return Ok(Self((host, None)));
        }
        let address = Address::parse(text, None).map_err(|error| error.to_string())?;
        if address.port() == 0 {
            return Err(format!("{text:?} has port 0: others are told the number, use 1 to 65535"));
        }
        Ok(Self((address.host().into(), Some(address.port()))))
    }
}

impl Name {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.into()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(format!("{shown:?} is not a name: use 1 to {NAME_BYTES_MAX} characters of a-z, 0-9, '.', '_' and '-'"))
    }
}

impl Interface {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(80).collect();
        let wrong =
            |_| format!("{shown:?} is not an IP address to listen on: write 0.0.0.0, ::, or one of this machine's");
        text.parse().map(Self).map_err(wrong)
    }
}

impl Host {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.parse::<IpAddr>().is_ok() {
            return Ok(Self(text.into()));
        }
        let address = Address::parse(text, Some(0)).map_err(|error| error.to_string())?;
        if address.port() != 0 || text.contains(':') {
            return Err(format!("{text:?} has a port: write the host only, ports have their own keys"));
        }
        Ok(Self(address.host().into()))
    }
}

/// A TCP port. Zero is refused: others are told the number, so it cannot be left to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(Self(port)),
            Ok(_) | Err(_) => Err(serde::de::Error::custom(format!("{number} is not a port: use 1 to 65535"))),
        }
    }
}

/// What is logged, as in Salt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Faults only.
    Error,
    /// And what may become one.
    Warning,
    /// And what an operator wants to know.
    #[default]
    Info,
    /// And what a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The filter directive of `tracing` for it.
    pub fn directive(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
