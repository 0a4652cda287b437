//! Manual assignments of replicas to brokers, which must be possible ones though the store keeps the copies.

use std::collections::BTreeSet;

use kafka_protocol::messages::BrokerId;

use crate::metadata::ImageRef;

/// Checks the replicas of each partition: as many everywhere, on brokers that serve, on none twice. Returns how many; `Err`
/// is the text for INVALID_REPLICA_ASSIGNMENT (39).
pub fn check<'a>(
    image: &ImageRef,
    partitions: impl Iterator<Item = &'a [BrokerId]>,
) -> Result<usize, String> {
    let serving: BTreeSet<i32> = image.serving_brokers().map(|(id, _)| id as i32).collect();
    let mut factor = None;
    for assigned in partitions {
        let replicas: BTreeSet<i32> = assigned.iter().map(|id| id.0).collect();
        if replicas.is_empty() {
            return Err("The manual partition assignment includes an empty replica list.".to_owned());
        }
        if replicas.len() != assigned.len() {
            return Err("The manual partition assignment includes a broker more than once.".to_owned());
        }
        if *factor.get_or_insert(replicas.len()) != replicas.len() {
            return Err("The manual partition assignment has partitions with different replication factors."
                .to_owned());
        }
        if let Some(unknown) = replicas.difference(&serving).next() {
            return Err(format!(
                "The manual partition assignment includes broker {unknown}, but no such broker is registered."
            ));
        }
    }
    Ok(factor.unwrap_or(0))
}
