//! Values as people write them.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::HostPort;

/// `1024`, `64KiB`, `256MiB`, `4GiB`, `1TiB`; `KB`, `MB`, `GB`, `TB` are powers of ten.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("{text:?} is not a size such as 64MiB or 1GiB")),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale))
        .ok_or_else(|| format!("{text:?} is not a size such as 64MiB or 1GiB"))
}

/// `auto` for none, or a number that Kafka's 32 bits hold.
pub(crate) fn parse_node_id(text: &str) -> Result<Option<i32>, String> {
    match text.trim() {
        "auto" => Ok(None),
        number => match number.parse::<i32>() {
            Ok(id) if id >= 0 => Ok(Some(id)),
            _ => Err(format!("{text:?} is neither auto nor a number from 0 to {}", i32::MAX)),
        },
    }
}

pub(crate) fn parse_reservation(text: &str) -> Result<wal::block::reservation::Use, String> {
    use wal::block::reservation::Use;
    match text.trim() {
        "auto" => Ok(Use::Auto),
        "off" => Ok(Use::Off),
        "required" => Ok(Use::Required),
        _ => Err(format!("{text:?} is neither auto nor off nor required")),
    }
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| format!("{text:?} is not a time such as 250ms, 10s or 5m"))
}

pub(crate) fn parse_switch(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// `kafka.example:9092`, `10.0.0.1:9092`, `[::1]:9092`, `[fe80::1%eth0]:9092`. What stands before the port is given to
/// the resolver, to clients and to other brokers as it is, so nothing passes that could not be a name or an address.
pub(crate) fn parse_host_port(text: &str) -> Result<HostPort, String> {
    let malformed = || format!("{text:?} is not HOST:PORT (IPv6 addresses go in brackets: [::1]:9092)");
    let (host, port) = text.trim().rsplit_once(':').ok_or_else(malformed)?;
    let port: u16 = port.parse().map_err(|_| malformed())?;
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(bracketed) => {
            let (address, zone) = bracketed.split_once('%').unwrap_or((bracketed, "0"));
            address.parse::<Ipv6Addr>().ok().filter(|_| is_name(zone)).map(|_| bracketed)
        }
        None => Some(host).filter(|host| is_name(host)),
    };
    Ok(HostPort { host: host.ok_or_else(malformed)?.to_owned(), port })
}

/// Letters, digits, `-`, `_` and `.`: names in DNS (RFC 1123, and the `_` that container networks use), IPv4 addresses,
/// network interfaces.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// `name=value`.
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}
