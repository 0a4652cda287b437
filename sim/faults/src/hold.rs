//! PUTs that wait between "reached the store" and "was answered".

use std::sync::Arc;

use object_store::path::Path;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// What becomes of a held PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is applied and answered.
    Complete,
    /// It is applied and never answered.
    Silent,
    /// It neither reaches the store nor is it answered.
    Lost,
    /// It never reached the store.
    Drop,
}

/// The PUTs that are held, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holding(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    holding: bool,
    held: Vec<(Path, oneshot::Sender<Verdict>)>,
}

impl Holding {
    pub(crate) fn hold(&self) {
        self.0.lock().holding = true;
    }

    /// Waits for a verdict if PUTs are held.
    pub(crate) async fn pass(&self, key: &Path) -> Verdict {
        let verdict = {
            let mut state = self.0.lock();
            if !state.holding {
                return Verdict::Complete;
            }
            let (sender, verdict) = oneshot::channel();
            state.held.push((key.clone(), sender));
            verdict
        };
        verdict.await.unwrap_or(Verdict::Drop)
    }

    pub(crate) fn held(&self) -> Vec<Path> {
        let mut state = self.0.lock();
        // A caller that gave up holds nothing any more.
        state.held.retain(|(_, sender)| !sender.is_closed());
        state.held.iter().map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn decide(&self, nth: usize, verdict: Verdict) {
        let mut state = self.0.lock();
        state.held.retain(|(_, sender)| !sender.is_closed());
        let (_, sender) = state.held.remove(nth);
        let _ = sender.send(verdict);
    }

    pub(crate) fn resume(&self) {
        let held = {
            let mut state = self.0.lock();
            state.holding = false;
            std::mem::take(&mut state.held)
        };
        for (_, sender) in held {
            let _ = sender.send(Verdict::Complete);
        }
    }
}
