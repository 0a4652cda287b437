//! Retention of partitions that move during a pass.

use super::super::nodes::{append, two};
use super::*;

fn pass(of: &Partitions) -> Pass<'_> {
    let now = Now { ms: wall_clock_ms(), believed: true };
    Pass { of, now, batch: Batch::default(), freed: Freed::default() }
}

/// A pass that began before a partition left, and comes to it when the next leader has written more and given it up, leaves
/// alone what is still open here.
#[tokio::test]
async fn what_has_left_during_a_pass_is_left_alone() {
    let [one, two] = two().await;
    let topic = one.topic("left", 1).await;
    let old = one.open(&topic).await;
    append(&old).await;
    one.give(&topic, 2).await;
    let next = two.open(&topic).await;
    for _ in 0..3 {
        append(&next).await;
    }
    next.trim(4).await.unwrap();
    assert_eq!(one.known(&topic).await.partitions[0].leader, 2);
    pass(&one.partitions).partition(&topic, 0, &topic.partitions[0], &Policy::default()).await.unwrap();
    assert_eq!((old.log_start(), old.high_watermark()), (0, 1));

    // It comes back, and what is still open here is of before.
    two.give(&topic, 1).await;
    let back = one.known(&topic).await;
    assert_eq!(back.partitions[0].leader, 1);
    pass(&one.partitions).partition(&back, 0, &back.partitions[0], &Policy::default()).await.unwrap();
    assert_eq!((old.log_start(), old.high_watermark()), (0, 1));
    let now = one.open(&topic).await;
    pass(&one.partitions).partition(&back, 0, &back.partitions[0], &Policy::default()).await.unwrap();
    assert_eq!((now.log_start(), now.high_watermark()), (4, 4));
}
