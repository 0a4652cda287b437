//! Where to listen, and what to tell clients.

use std::net::SocketAddr;

use anyhow::Context;

use super::banner::is_loopback;
use crate::options::{HostPort, Options};

/// The resolved addresses of a broker. The port is known to be free, or was a moment ago.
#[derive(Debug)]
pub(super) struct Addresses {
    pub listening: HostPort,
    pub sockets: Vec<SocketAddr>,
    advertised: HostPort,
}

impl Addresses {
    /// Resolves `listen`, and fails early where its port is taken: before anybody is fenced for nothing.
    pub(super) async fn resolve(options: &Options) -> anyhow::Result<Addresses> {
        let listen = &options.listen;
        let mut sockets = host::net::lookup(&listen.host, listen.port)
            .await
            .with_context(|| format!("listen: {} is not an address of this machine", listen.host))?;
        // "localhost" is often two addresses; one port must serve both.
        for at in 0..sockets.len() {
            let port = host::net::probe(sockets[at]).with_context(|| {
                format!("listen: {} cannot be listened on; is another broker running? Choose another with --listen", sockets[at])
            })?;
            sockets.iter_mut().for_each(|socket| socket.set_port(port));
        }
        let port = sockets.first().with_context(|| format!("listen: {} has no address", listen.host))?.port();
        let listening = HostPort { host: listen.host.clone(), port };
        let advertised = match &options.advertise {
            Some(advertised) => advertised.clone(),
            None if matches!(listening.host.as_str(), "0.0.0.0" | "::") => {
                HostPort { host: host::name(), port }
            }
            None => listening.clone(),
        };
        if !is_loopback(&listening.host) {
            tracing::warn!(
                "listening on {listening} without authentication: everybody who reaches it can read, write and delete \
                 everything"
            );
        }
        Ok(Addresses { listening, sockets, advertised })
    }

    pub(super) fn advertised(&self) -> &HostPort {
        &self.advertised
    }
}
