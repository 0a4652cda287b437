//! The brokers of the cluster as clients are told of them: the same on every broker that has read as far.

use std::cell::OnceCell;
use std::sync::Arc;

use kafka_protocol::messages::BrokerId;
use wal::Incarnation;

use super::{Advertised, Context};
use crate::broker::Broker;
use crate::metadata::heirs::Heirs;
use crate::metadata::image::{BrokerInfo, PartitionInfo};
use crate::metadata::{ImageRef, Topic};

/// A broker that serves.
pub(super) struct Node {
    pub id: i32,
    pub address: Advertised,
    pub rack: Option<Arc<str>>,
}

/// All that serve, by id. This one at the address of the listener that was asked.
pub(super) fn serving<'a>(
    broker: &'a Broker,
    context: &'a Context,
    image: &'a ImageRef,
) -> impl Iterator<Item = Node> + 'a {
    let own = broker.metadata.incarnation();
    image.serving_brokers().map(move |(id, info)| {
        let node = registered(id, info);
        if own == Some(Incarnation { broker: id, epoch: info.epoch }) {
            return Node { address: context.advertised.clone(), ..node };
        }
        node
    })
}

/// Those that died a moment ago, and serve no more.
pub(super) fn departed(broker: &Broker, image: &ImageRef) -> Vec<Node> {
    broker.metadata.departed(image).into_iter().map(|(id, info)| registered(id, info)).collect()
}

/// As it registered.
fn registered(id: u32, info: &BrokerInfo) -> Node {
    let address = Advertised { host: info.listener.host.clone(), port: info.listener.port };
    Node { id: id as i32, address, rack: info.rack.clone() }
}

/// Who is named as the controller; -1 if nobody serves.
pub(super) fn controller(image: &ImageRef) -> BrokerId {
    BrokerId(image.caretaker().map_or(-1, |caretaker| caretaker.broker as i32))
}

/// Who leads what, as of an image.
pub(super) struct Leads<'a> {
    image: &'a ImageRef,
    own: Option<Incarnation>,
    /// This broker may say of itself that it leads: only on a fresh view.
    fresh: bool,
    own_id: u32,
    broker: &'a Broker,
    /// Asked for by the first partition that needs it.
    heirs: OnceCell<Arc<Heirs>>,
}

impl<'a> Leads<'a> {
    pub fn of(broker: &'a Broker, image: &'a ImageRef) -> Leads<'a> {
        let (own, own_id) = (broker.metadata.incarnation(), broker.node_id as u32);
        Leads { image, own, fresh: broker.right.holds(), own_id, broker, heirs: OnceCell::new() }
    }

    /// The broker that leads a partition, if it has a leader that lives. A later life of this broker may lead, and this
    /// process is not it.
    pub fn leader(&self, partition: &PartitionInfo) -> Option<u32> {
        let owner = self.image.owner(partition).filter(|owner| self.image.is_live(*owner))?;
        if owner.broker == self.own_id && (Some(owner) != self.own || !self.fresh) {
            return None;
        }
        Some(owner.broker)
    }

    /// The same, or who will lead it in a moment: for clients that would look again much later than that (`metadata::heirs`).
    pub fn leader_or_heir(&self, topic: &Topic, index: usize) -> Option<u32> {
        let partition = &topic.partitions[index];
        if let Some(leader) = self.leader(partition) {
            return Some(leader);
        }
        let owner = self.image.owner(partition)?;
        if self.image.is_live(owner) || !self.fresh || !self.own.is_some_and(|own| self.image.is_live(own)) {
            return None;
        }
        let said_for = self.broker.partitions.config().handover.expected_wait;
        let heirs = self.heirs.get_or_init(|| self.broker.metadata.heirs(self.image, said_for));
        heirs.of(owner, topic.id, index).map(|(heir, _)| heir)
    }
}
