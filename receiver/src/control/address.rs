//! Where the sender is, as an operator types it.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;
use wire::proto::CONTROL_PORT_DEFAULT;

/// Host name or IP address, and TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no server address: expected HOST, HOST:PORT, an IP address, or [IPv6]:PORT")]
pub struct AddressError(String);

impl From<SocketAddr> for ServerAddress {
    fn from(address: SocketAddr) -> ServerAddress {
        ServerAddress { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<ServerAddress, AddressError> {
        let error = || AddressError(text.to_owned());
        if text.parse::<Ipv6Addr>().is_ok() {
            return Ok(ServerAddress { host: text.to_owned(), port: CONTROL_PORT_DEFAULT });
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(error)?;
                // `fe80::1%eth0` has a scope after the address; the resolver reads it.
                let address = host.split('%').next().unwrap_or_default();
                address.parse::<Ipv6Addr>().map_err(|_| error())?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(error)?) })
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let plain = |character: char| !character.is_whitespace() && !character.is_control() && character != '/';
        if host.is_empty() || !host.chars().all(plain) {
            return Err(error());
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|&port| port != 0).ok_or_else(error)?,
            None => CONTROL_PORT_DEFAULT,
        };
        Ok(ServerAddress { host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print() {
        for (text, printed) in [
            ("deploy", "deploy:4700"),
            ("deploy.example:99", "deploy.example:99"),
            ("10.0.0.1", "10.0.0.1:4700"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("fd00::1", "[fd00::1]:4700"),
            ("[fd00::1]", "[fd00::1]:4700"),
            ("[fd00::1]:99", "[fd00::1]:99"),
            ("[fe80::1%eth1]:99", "[fe80::1%eth1]:99"),
        ] {
            let address: ServerAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse(), Ok(address));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", ":80", "host:", "host:0", "host:65536", "host:http", "[fd00::1", "[fd00::1]80", "[host]:80", "a b", "https://host"]
        {
            assert!(text.parse::<ServerAddress>().is_err(), "{text}");
        }
    }
}
