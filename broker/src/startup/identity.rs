//! Which broker a process is: pure, from what the metadata and the volume say.
//!
//! - **Id1** A volume belongs to the broker that wrote it last. With an id that is not that broker's a start is refused.
//! - **Id2** Without an id given: that broker; else who registered last with the same advertised address (from the same
//!   machine, where only that machine can reach the address); else the lowest id that nobody ever had. An id that somebody
//!   had once is not given to somebody else: its volume, its configs and its partitions' history speak of it.
//! - **Id3** Two processes that take the same id at once do not fence each other in turn: a registration names the one that
//!   it replaces, and the second is told ([`Registration::replaces`]).
//!
//! [`Registration::replaces`]: crate::metadata::command::Registration::replaces

use anyhow::ensure;
use wal::block::LastOwner;

use super::banner::is_loopback;
use crate::machine;
use crate::metadata::image::{Image, Listener};

/// What is known of a process before it has an id.
pub(super) struct Known<'a> {
    /// What the operator says.
    pub id: Option<u32>,
    pub volume: Option<LastOwner>,
    pub listener: &'a Listener,
    pub machine: &'a str,
}

/// Id1, Id2.
pub(super) fn choose(known: &Known<'_>, image: &Image) -> anyhow::Result<u32> {
    if let Some(last) = known.volume {
        let owner = last.incarnation.broker;
        ensure!(
            known.id.is_none_or(|id| id == owner),
            "the write-ahead log's volume is broker {owner}'s, which wrote it last; this is to be broker {}. Each broker needs \
             a volume of its own: name another with --wal, or start with --node-id {owner}",
            known.id.unwrap_or_default()
        );
        return Ok(owner);
    }
    if let Some(id) = known.id {
        return Ok(id);
    }
    let here = |machine: &str| machine::is_same(machine, known.machine) || !is_loopback(&known.listener.host);
    let registered = image
        .brokers()
        .filter(|(_, info)| info.listener == *known.listener && here(&info.machine))
        .max_by_key(|(_, info)| info.epoch);
    if let Some((id, _)) = registered {
        return Ok(id);
    }
    let free = (1..=i32::MAX as u32).find(|id| image.broker(*id).is_none());
    free.ok_or_else(|| anyhow::anyhow!("there is no broker id left"))
}

#[cfg(test)]
mod tests {
    use wal::Incarnation;

    use super::*;
    use crate::metadata::apply::At;
    use crate::metadata::command::{Command, FORMAT_VERSION, Registration};

    fn listener(host: &str, port: u16) -> Listener {
        Listener { host: host.into(), port }
    }

    /// Brokers registered in this order, all of them on the machine "one".
    fn image(brokers: &[(u32, Listener)]) -> Image {
        let mut image = Image::empty();
        let mut number = 0;
        let mut apply = |command: Command| {
            number += 1;
            image.apply(At { number, time_ms: 0 }, &command).unwrap();
        };
        apply(Command::Format { cluster_id: "a cluster".into(), format: FORMAT_VERSION });
        for (broker, listener) in brokers {
            apply(Command::RegisterBroker(Registration {
                broker: *broker,
                wal_uri: "object:".into(),
                lease_ms: 3_000,
                listener: listener.clone(),
                rack: None,
                machine: "one".into(),
                replaces: None,
                claim: None,
            }));
        }
        image
    }

    fn chosen(id: Option<u32>, owner: Option<u32>, at: &Listener, machine: &str, image: &Image) -> String {
        let volume =
            owner.map(|broker| LastOwner { incarnation: Incarnation { broker, epoch: 9 }, released: true });
        match choose(&Known { id, volume, listener: at, machine }, image) {
            Ok(id) => id.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_process_is_who_its_volume_or_its_address_says() {
        let there = listener("b.example", 9092);
        let only_here = listener("127.0.0.1", 9092);
        let image = image(&[(1, listener("a.example", 9092)), (4, there.clone()), (2, only_here.clone())]);
        let new = listener("c.example", 9092);
        assert_eq!(chosen(None, None, &new, "one", &image), "3", "the lowest that nobody had");
        assert_eq!(chosen(None, None, &there, "elsewhere", &image), "4");
        assert_eq!(chosen(None, None, &only_here, "one", &image), "2");
        assert_eq!(chosen(None, None, &only_here, "elsewhere", &image), "3", "another machine's loopback");
        assert_eq!(chosen(None, Some(7), &there, "one", &image), "7", "the volume outranks the address");
        assert_eq!(chosen(Some(5), None, &there, "one", &image), "5");
        assert_eq!(chosen(Some(7), Some(7), &there, "one", &image), "7");
        let refused = chosen(Some(5), Some(7), &there, "one", &image);
        assert!(refused.contains("is broker 7's") && refused.contains("--node-id 7"), "{refused}");
        assert_eq!(chosen(None, None, &new, "one", &Image::empty()), "1");
    }
}
