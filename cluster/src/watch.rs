//! What people see of jobs: one job whole, with a reason for everybody who has not answered; its answers as they come; and
//! everything that happens, in Salt's tags.
//!
//! * [`view`] puts a job's records and presence together.
//! * [`follow`] replays what is recorded of a job and goes on live, each minion's answer once.
//! * [`events`] turns applied entries and presence into events.
//!
//! **It refuses** to keep anything: streams are made of the tables and of what is applied from now on, and a stream that
//! falls behind reads the tables again.

pub mod events;
pub mod follow;
pub mod view;

pub use view::{ViewError, job_view};

use crate::presence::Presence;
use crate::replica::Replica;
use crate::witness::Witness;
use futures::Stream;
use saltern_store::StoreError;
use saltern_wire::JobId;
use saltern_wire::api::JobEvent;
use saltern_wire::event::Event;
use std::sync::Arc;

/// Makes streams. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    replica: Arc<dyn Replica>,
    presence: Presence,
    witness: Arc<Witness>,
}

impl Watch {
    /// Over this master's truth and presence, and what it notices of offenders.
    pub fn new(replica: Arc<dyn Replica>, presence: Presence, witness: Arc<Witness>) -> Self {
        Self { replica, presence, witness }
    }

    /// The answers to a job: first those that are recorded, then each as it comes, `Done` at the end. `None` if there is no
    /// such job here. A minion that expired and answers after all appears twice: missing, then with its return.
    pub fn job(&self, jid: JobId) -> Result<Option<impl Stream<Item = JobEvent> + Send + 'static>, StoreError> {
        follow::follow(Arc::clone(&self.replica), self.presence.clone(), jid)
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> impl Stream<Item = Event> + Send + 'static {
        events::events(Arc::clone(&self.replica), &self.presence, &self.witness)
    }
}
