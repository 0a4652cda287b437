//! Whoever coordinates a group: found, asked, and left if it hangs.
//!
//! ```text
//!   request ──► coordinator ──► answer
//!      ▲             │ no answer for a moment: who coordinates? (asked of others first)
//!      │             ├── the same, or nobody can say ──► waits on
//!      └─────────────┴── another one: the request is sent again, to that one
//! ```
//!
//! - **K1** What a coordinator holds back rightly, and for how long, cannot be told from outside: a JoinGroup waits for all members, a
//!   commit for the store. So a request is given up early only if the coordinator is another by now, and a living one gets no request
//!   twice because it is slow. An answer that comes while others are asked is taken.
//! - **K2** A broker that hangs costs each request [`LOOKUP_INTERVAL`] and a lookup. Others are asked first from then on.
//! - **K3** Everything ends: an attempt after the client's time-out and what may be held back, attempts when nobody has said for the
//!   client's time-out that the coordinator is the right one.
//! - **K4** A request that is sent again is the same, with the same member and generation: what it did the first time is in the group's
//!   log, and so known to the next coordinator, or is nothing, where a group was being joined.

use std::pin::pin;
use std::time::Duration;

use kafka_protocol::messages::FindCoordinatorRequest;
use kafka_protocol::protocol::{Request, StrBytes};
use tokio::time::{Instant, timeout};

use super::{Client, Connection, Error, Retry, check};

/// An answer is waited for so long before the coordinator is looked up.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(2);

impl Client {
    /// Asks the coordinator of `group`: the request must bear a repetition. `read` finds the answer's error, if there is one.
    pub async fn call_coordinator<R: Request, T>(
        &mut self,
        group: &str,
        request: &R,
        read: impl Fn(R::Response) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.call_known_coordinator(group, &mut None, request, Duration::ZERO, read).await
    }

    /// The same, where `known` is who it was last, and the coordinator may rightly hold the answer back for `held`.
    pub async fn call_known_coordinator<R: Request, T>(
        &mut self,
        group: &str,
        known: &mut Option<i32>,
        request: &R,
        held: Duration,
        read: impl Fn(R::Response) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut retry = self.retry();
        let end = retry.deadline + held;
        loop {
            let node = match *known {
                Some(node) => Ok(node),
                None => self.find_coordinator(group).await,
            };
            let answered = match node {
                Ok(node) => {
                    *known = Some(node);
                    self.call_while_it_coordinates(group, node, request, held, &mut retry, end).await
                }
                Err(error) => Err(error),
            };
            match answered.and_then(&read) {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    *known = None;
                    retry.pause(error).await?;
                }
            }
        }
    }

    /// `retry` goes on for the client's time-out from whenever the coordinator was found to be the right one, to `end` at most.
    async fn call_while_it_coordinates<R: Request>(
        &mut self,
        group: &str,
        node: i32,
        request: &R,
        held: Duration,
        retry: &mut Retry,
        end: Instant,
    ) -> Result<R::Response, Error> {
        let (address, patience) = (self.address(node)?, self.timeout + held);
        let idle = self.idle.remove(&address);
        let mut call = pin!(async {
            let mut connection = match idle {
                Some(connection) => connection,
                None => Connection::open(&address, patience).await?,
            };
            connection.call(request, patience).await.map(|response| (connection, response))
        });
        let interval = LOOKUP_INTERVAL.min(self.request_timeout());
        let (connection, response) = loop {
            if let Ok(answered) = timeout(interval, &mut call).await {
                break answered?;
            }
            self.known.lock().silent.insert(address.clone());
            let found = tokio::select! {
                biased;
                answered = &mut call => break answered?,
                found = self.find_coordinator(group) => found,
            };
            match found {
                Ok(next) if next == node => retry.deadline = end.min(Instant::now() + self.timeout),
                Ok(_) => return Err(Error::Timeout { address: address.clone(), timeout: interval }),
                Err(error) if Instant::now() >= retry.deadline => return Err(error),
                // Nobody says that it is another one.
                Err(_) => {}
            }
        };
        self.put_back(connection);
        Ok(response)
    }

    async fn find_coordinator(&mut self, group: &str) -> Result<i32, Error> {
        let request = FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
        let response = self.ask_around(&request).await?;
        let what = || format!("finding the coordinator of group {group}");
        check(response.error_code, what, response.error_message.as_deref())?;
        let address = format!("{}:{}", response.host.as_str(), response.port);
        self.known.lock().nodes.insert(response.node_id.0, address);
        Ok(response.node_id.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kafka_protocol::ResponseError;
    use kafka_protocol::messages::{
        FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
        RequestKind, ResponseKind,
    };
    use tokio::sync::Semaphore;

    use super::*;
    use crate::cli::client::Connect;
    use crate::cli::client::peer::{Peer, coordinator};

    fn nobody_coordinates() -> ResponseKind {
        let code = ResponseError::CoordinatorNotAvailable.code();
        ResponseKind::FindCoordinator(FindCoordinatorResponse::default().with_error_code(code))
    }

    /// Far beyond what anything takes here.
    const TIMEOUT: Duration = Duration::from_secs(60);

    fn client(bootstrap: &[&Peer]) -> Client {
        let bootstrap: Vec<String> = bootstrap.iter().map(|peer| peer.address.clone()).collect();
        let client = Client::new(&Connect { bootstrap: bootstrap.clone(), timeout: TIMEOUT });
        client.known.lock().nodes.insert(1, bootstrap[0].clone());
        client
    }

    /// K2: another broker is asked who coordinates, though the one that hangs would be asked first.
    #[tokio::test]
    async fn a_coordinator_that_hangs_is_left_for_the_next() {
        let hangs = Peer::start(|_| std::future::pending()).await;
        let heir = Peer::start(async |_| ResponseKind::Heartbeat(HeartbeatResponse::default())).await;
        let found = coordinator(2, &heir.address);
        let other = Peer::start(move |_| std::future::ready(found.clone())).await;
        let (mut client, mut known) = (client(&[&hangs, &other]), Some(1));
        let read = |response: HeartbeatResponse| Ok(response.error_code);
        let request = HeartbeatRequest::default().with_generation_id(7);
        let beat = client.call_known_coordinator("g", &mut known, &request, Duration::ZERO, read);
        assert_eq!(beat.await.unwrap(), 0);
        assert_eq!(known, Some(2));
        let sent = RequestKind::Heartbeat(request);
        assert_eq!(hangs.asked(), std::slice::from_ref(&sent));
        assert_eq!(heir.asked(), [sent]);
    }

    /// K1: as long as nobody says that another one coordinates the group, a coordinator may take its time, and hears everything once.
    #[tokio::test]
    async fn a_coordinator_that_holds_an_answer_back_is_waited_for() {
        let looked_up = Arc::new(Semaphore::new(0));
        let enough = looked_up.clone();
        let holds = Peer::start(move |_| {
            let enough = enough.clone();
            async move {
                enough.acquire_many(2).await.unwrap().forget();
                ResponseKind::JoinGroup(JoinGroupResponse::default().with_generation_id(7))
            }
        });
        let holds = holds.await;
        let found = coordinator(1, &holds.address);
        let other = Peer::start(move |_| {
            looked_up.add_permits(1);
            let knows = looked_up.available_permits() > 1;
            std::future::ready(if knows { found.clone() } else { nobody_coordinates() })
        });
        let other = other.await;
        let (mut client, mut known) = (client(&[&holds, &other]), Some(1));
        let read = |response: JoinGroupResponse| Ok(response.generation_id);
        let join = JoinGroupRequest::default();
        let joined = client.call_known_coordinator("g", &mut known, &join, TIMEOUT, read);
        assert_eq!(joined.await.unwrap(), 7);
        assert_eq!((known, holds.asked().len()), (Some(1), 1));
        assert!(other.asked().len() >= 2, "it was looked up");
    }
}
