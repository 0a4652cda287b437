//! The metadata for somebody who only looks: nothing is registered, nothing is written, no snapshot is taken.

use std::sync::Arc;

use metalog::Replica;
use object_store::ObjectStore;

use super::image::Image;
use super::{Error, ImageRef};

/// A replica that never writes.
#[derive(Debug)]
pub struct Observer {
    replica: Replica<Image>,
}

impl Observer {
    /// [`Error::Refused`] if there is no cluster in `store`, [`Error::Failed`] if its log is damaged or newer than this
    /// program.
    pub async fn open(store: Arc<dyn ObjectStore>, log: metalog::Config) -> Result<Observer, Error> {
        // Whoever has replayed much would take the snapshot that others failed to take.
        let config = metalog::Config { snapshot_entries: u64::MAX, ..log };
        let replica = Replica::open(store, config, Image::empty()).await?;
        let observer = Observer { replica };
        let image = observer.image();
        let fault = match (image.halted(), image.cluster()) {
            (Some(reason), _) => Some(Error::Failed(reason.to_string())),
            (None, None) => Some(Error::Refused("there is no cluster in this store".to_owned())),
            (None, Some(_)) => None,
        };
        match fault {
            Some(error) => {
                observer.close().await;
                Err(error)
            }
            None => Ok(observer),
        }
    }

    /// The state as of the last read.
    pub fn image(&self) -> ImageRef {
        ImageRef(self.replica.view())
    }

    /// The state with everything that was committed before the call.
    pub async fn refresh(&self) -> Result<ImageRef, Error> {
        let image = ImageRef(self.replica.refresh().await?);
        match image.halted() {
            Some(reason) => Err(Error::Failed(reason.to_string())),
            None => Ok(image),
        }
    }

    pub async fn close(&self) {
        self.replica.close().await;
    }
}
