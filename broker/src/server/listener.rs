//! Accepts connections, counts them, and owns their tasks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use host::net::{Listener, Stream};
use parking_lot::Mutex;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::connection::Connection;
use super::frame::{Budget, Shared};
use super::{Config, ResponseBudget};
use crate::api::Advertised;
use crate::broker::Broker;

/// After a failed accept (no file descriptors, most likely), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why the server stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("invalid server configuration: {0}")]
    Config(String),
    /// An invariant of this program is broken (N5): stop the process.
    #[error("a connection's task panicked: {0}")]
    Panicked(String),
}

/// Bound sockets, not yet accepting.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    broker: Arc<Broker>,
    listeners: Vec<(Listener, SocketAddr, Advertised)>,
    queued: Shared,
    responses: Arc<ResponseBudget>,
    counts: Arc<Counts>,
}

impl Server {
    /// Binds every address. `advertised` is what clients of that listener are told to connect to: by default the
    /// address itself; a port of 0 stands for the port that was bound.
    pub async fn bind(
        config: Config,
        broker: Arc<Broker>,
        listeners: &[(SocketAddr, Option<Advertised>)],
    ) -> Result<Server, Error> {
        config.validate().map_err(Error::Config)?;
        let mut bound = Vec::with_capacity(listeners.len());
        for (address, advertised) in listeners {
            let address = *address;
            let failed = |source| Error::Bind { address, source };
            let listener = Listener::bind(address).await.map_err(failed)?;
            let local = listener.local_addr().map_err(failed)?;
            let mut advertised = advertised
                .clone()
                .unwrap_or_else(|| Advertised { host: local.ip().to_string().into(), port: local.port() });
            if advertised.port == 0 {
                advertised.port = local.port();
            }
            bound.push((listener, local, advertised));
        }
        let queued = Shared::new(&config);
        let responses = Arc::new(ResponseBudget::new(config.response_bytes_max));
        let config = Arc::new(config);
        Ok(Server { config, broker, listeners: bound, queued, responses, counts: Arc::default() })
    }

    /// Where the listeners are bound, and what each advertises, in the order given to [`bind`](Server::bind).
    pub fn addresses(&self) -> impl Iterator<Item = (SocketAddr, &Advertised)> {
        self.listeners.iter().map(|(_, local, advertised)| (*local, advertised))
    }

    /// Serves until `shutdown` is cancelled and the connections have ended or their grace has.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let server = &self;
        let loops = server
            .listeners
            .iter()
            .map(|(listener, _, advertised)| server.accept_loop(listener, advertised, &shutdown));
        try_join_all(loops).await.map(|_| ())
    }

    async fn accept_loop(
        &self,
        listener: &Listener,
        advertised: &Advertised,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.start(&mut tasks, stream, peer, advertised, shutdown),
                    Err(error) => {
                        warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
                Some(ended) = tasks.join_next() => supervise(ended)?,
                () = shutdown.cancelled() => break,
            }
        }
        let drained = async {
            while let Some(ended) = tasks.join_next().await {
                supervise(ended)?;
            }
            Ok(())
        };
        match tokio::time::timeout(self.config.shutdown_grace, drained).await {
            Ok(drained) => drained,
            Err(_) => {
                warn!("requests under way did not finish in time; closing their connections");
                tasks.shutdown().await;
                Ok(())
            }
        }
    }

    fn start(
        &self,
        tasks: &mut JoinSet<()>,
        stream: Stream,
        peer: SocketAddr,
        advertised: &Advertised,
        shutdown: &CancellationToken,
    ) {
        let Some(place) = Place::take(&self.counts, peer.ip(), &self.config) else {
            debug!(%peer, "too many connections");
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let connection = self.connection(peer, advertised, shutdown.child_token());
        tasks.spawn(async move {
            let _place = place;
            let (from, to) = stream.into_split();
            connection.serve(from, to).await;
        });
    }

    fn connection(
        &self,
        peer: SocketAddr,
        advertised: &Advertised,
        closing: CancellationToken,
    ) -> Connection {
        Connection {
            config: self.config.clone(),
            broker: self.broker.clone(),
            budget: Budget::new(&self.config, self.queued.clone()),
            responses: self.responses.clone(),
            peer,
            advertised: advertised.clone(),
            closing,
        }
    }

    /// Serves one peer over any two streams of bytes until it leaves, as if it had come to the first listener. It takes no
    /// place in the counts of connections.
    ///
    /// # Panics
    /// If there is no listener.
    #[cfg(feature = "instructions")]
    pub async fn serve_stream(
        &self,
        from: impl tokio::io::AsyncRead + Unpin + Send,
        to: impl tokio::io::AsyncWrite + Unpin + Send,
        peer: SocketAddr,
    ) {
        let (_, _, advertised) = self.listeners.first().expect("a server has a listener");
        self.connection(peer, advertised, CancellationToken::new()).serve(from, to).await;
    }
}

fn supervise(ended: Result<(), JoinError>) -> Result<(), Error> {
    match ended {
        Err(error) if error.is_panic() => {
            let panic = error.into_panic();
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(Error::Panicked(text.unwrap_or_else(|| "no message".to_owned())))
        }
        _ => Ok(()),
    }
}

/// Connections, by address.
#[derive(Debug, Default)]
struct Counts(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    all: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// A connection's place in the counts, given back on drop.
struct Place {
    counts: Arc<Counts>,
    ip: IpAddr,
}

impl Place {
    fn take(counts: &Arc<Counts>, ip: IpAddr, config: &Config) -> Option<Place> {
        let mut counted = counts.0.lock();
        let from_ip = counted.by_ip.get(&ip).copied().unwrap_or(0);
        if counted.all >= config.connections_max || from_ip >= config.connections_per_ip_max {
            return None;
        }
        counted.all += 1;
        counted.by_ip.insert(ip, from_ip + 1);
        drop(counted);
        Some(Place { counts: counts.clone(), ip })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counted = self.counts.0.lock();
        counted.all -= 1;
        let count = counted.by_ip.get_mut(&self.ip).expect("a place is counted");
        *count -= 1;
        if *count == 0 {
            counted.by_ip.remove(&self.ip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_address_and_in_all() {
        let config = Config { connections_max: 3, connections_per_ip_max: 2, ..Config::default() };
        let counts = Arc::new(Counts::default());
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = Place::take(&counts, a, &config).unwrap();
        let _second = Place::take(&counts, a, &config).unwrap();
        assert!(Place::take(&counts, a, &config).is_none(), "per address");
        let third = Place::take(&counts, b, &config).unwrap();
        assert!(Place::take(&counts, b, &config).is_none(), "in all");
        drop(first);
        assert!(Place::take(&counts, b, &config).is_some());
        drop(third);
        let left = counts.0.lock();
        assert_eq!((left.all, left.by_ip.len()), (1, 1));
    }
}
