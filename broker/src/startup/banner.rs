//! What a broker says when it is ready, on one screen.

use std::fmt::Write;
use std::time::Duration;

use crate::options::{HostPort, Options};

pub(super) struct Banner<'a> {
    pub options: &'a Options,
    pub listening: &'a HostPort,
    pub advertised: &'a HostPort,
    pub admin: Option<&'a HostPort>,
    pub cluster_id: &'a str,
    pub wal: &'a str,
    pub recovered: bool,
    pub took: Duration,
}

impl Banner<'_> {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| writeln!(text, "{line}").expect("writing to a String");
        line(format!("Ottla {} is ready ({} ms).", env!("CARGO_PKG_VERSION"), self.took.as_millis()));
        line(String::new());
        line(format!("  listening  {}", self.listening));
        if self.advertised != self.listening {
            line(format!("  advertised {}", self.advertised));
        }
        if let Some(admin) = self.admin {
            line(format!("  admin      http://{admin}"));
        }
        line(format!("  store      {}  (cluster {})", self.options.store, self.cluster_id));
        line(format!("  wal        {}", self.wal));
        if self.recovered {
            line("  recovered  what the previous process had not uploaded".to_owned());
        }
        if !is_loopback(&self.listening.host) {
            line(String::new());
            line("  WARNING: there is no authentication. Everybody who reaches this address can read, write and".to_owned());
            line("  delete everything. Keep it behind a firewall, or listen on 127.0.0.1.".to_owned());
        }
        let bootstrap = if self.advertised.to_string() == "127.0.0.1:9092" {
            String::new()
        } else {
            format!(" --bootstrap {}", self.advertised)
        };
        line(String::new());
        let program = program(std::env::args().next());
        line(format!("  {program} produce{bootstrap} hello \"first record\""));
        line(format!("  {program} consume{bootstrap} hello --from-beginning"));
        text
    }
}

/// How the person who started this can start it again: as they did, where that needs no quoting.
fn program(started_as: Option<String>) -> String {
    let plain = |name: &String| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte)) && !name.is_empty()
    };
    started_as.filter(plain).unwrap_or_else(|| "ottla".to_owned())
}

/// Whether only this machine can connect.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_printed_as_this_one_was_started() {
        for started_as in ["ottla", "target/release/ottla", "./ottla"] {
            assert_eq!(program(Some(started_as.to_owned())), started_as);
        }
        for unfit in [None, Some(String::new()), Some("/home/a b/ottla".to_owned()), Some("$(x)".to_owned())]
        {
            assert_eq!(program(unfit), "ottla");
        }
    }

    #[test]
    fn only_loopback_addresses_are_loopback() {
        for host in ["127.0.0.1", "127.8.8.8", "::1", "localhost"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["0.0.0.0", "::", "10.0.0.1", "broker.example"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
