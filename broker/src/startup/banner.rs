//! What a broker says when it is ready, on one screen.

use std::fmt::Write;
use std::time::Duration;

use crate::options::{HostPort, Options};

pub(super) struct Banner<'a> {
    pub options: &'a Options,
    pub listening: &'a HostPort,
    pub advertised: &'a HostPort,
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
        line(format!("  ottla produce{bootstrap} hello \"first record\""));
        line(format!("  ottla consume{bootstrap} hello --from-beginning"));
        text
    }
}

/// Whether only this machine can connect.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

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
